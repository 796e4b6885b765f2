"""What people get wrong, as tables: config files, words on the command line, texts, conversations, and runs given as parents."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import zstandard

_STEPS = "steps: [{name: data, stage: data prepare}]\n"
_MODEL = "{name: data, stage: data prepare}, {name: tokenizer, stage: tokenizer train, parents: {data: data}}"


def _pretrain(config: str) -> str:
    return f"steps: [{_MODEL}, {{name: pretrain, stage: pretrain, parents: {{data: data, tokenizer: tokenizer}}, config: {config}}}]"


# Each goes to `phiforge run bad.yaml`. Name -> (bytes or text of the file, what the line must say).
RECIPES: dict[str, tuple[str | bytes, str]] = {
    "bad syntax": ("steps: [\n", "line 2"),
    "a brace too few": ("steps: {a: 1\n", "not valid YAML"),
    "key given twice": ("description: a\ndescription: b\n" + _STEPS, "'description' is given twice"),
    "key given twice, deep": ("steps: [{name: data, stage: data prepare, config: {seed: 1, seed: 2}}]", "'seed' is given twice"),
    "a tab for an indent": ("steps:\n\t- name: data\n", "line 2"),
    "empty": ("", "steps"),
    "only a comment": ("# nothing\n", "steps"),
    "a list at the top": ("- name: data\n", "a config is a mapping"),
    "a word at the top": ("pretrain\n", "a config is a mapping"),
    "a number at the top": ("3\n", "a config is a mapping"),
    "a date at the top": ("2024-01-01\n", "a config is a mapping"),
    "two YAML documents": (_STEPS + "---\n" + _STEPS, "not valid YAML"),
    "binary": (bytes(range(256)) * 4, "not UTF-8"),
    "zero bytes": (b"steps:\0\0\0", "not valid YAML"),
    "not UTF-8": ("description: caf\u00e9\n".encode("latin-1") + _STEPS.encode(), "not UTF-8 text (byte 16)"),
    "UTF-16": (_STEPS.encode("utf-16"), "not UTF-8"),
    "a python tag": ("steps: !!python/object/apply:os.system ['echo no']\n", "could not determine a constructor"),
    "a python name tag": ("description: !!python/name:os.system\n" + _STEPS, "could not determine a constructor"),
    "an alias bomb": (
        "a: &a [x]\n" + "".join(f"{'bcdefgh'[i]}: &{'bcdefgh'[i]} [{', '.join(['*' + 'abcdefg'[i]] * 20)}]\n" for i in range(7)),
        "values, aliases written out",
    ),
    "a small alias bomb": (
        "a: &a [x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        + "".join(f"{'cdefghij'[i]}: &{'cdefghij'[i]} [{', '.join(['*' + 'bcdefghi'[i]] * 10)}]\n" for i in range(8)),
        "values, aliases written out",
    ),
    "an alias of itself": ("steps: &a [*a]\n", "within itself"),
    "an alias in a config of itself": (
        "steps:\n  - name: data\n    stage: data prepare\n    config: &c\n      source: a\n      more: *c\n",
        "within itself",
    ),
    "an alias of nothing": ("steps: *a\n", "undefined alias"),
    "nested too deeply": ("steps: " + "[" * 2000 + "]" * 2000, "not valid YAML"),
    "nested deeply": ("steps: " + "[" * 150 + "]" * 150, "levels deep"),
    "a key that is a list": ("? [a, b]\n: 1\n", "a key must be"),
    "a key that is a number": ("3: 1\n" + _STEPS, "unknown key '3'"),
    "a key that is nothing": ("~: 1\n" + _STEPS, "unknown key"),
    "a merge key of a word": ("<<: word\n" + _STEPS, "line 1"),
    "too large": ("# " + "x" * 1_000_100 + "\n" + _STEPS, "too large"),
    "unknown key at the top": ("step: []\n" + _STEPS, "did you mean 'steps'?"),
    "unknown key of a step": ("steps: [{name: data, stage: data prepare, confg: {}}]", "did you mean 'config'?"),
    "unknown key of a config": ("steps: [{name: data, stage: data prepare, config: {sorce: a}}]", "did you mean 'source'?"),
    "unknown key of a nested config": (_pretrain("{model: {widht: 32}}"), "did you mean 'width'?"),
    "no steps": ("steps: []\n", "steps"),
    "steps is a mapping": ("steps: {name: data, stage: data prepare}\n", "steps"),
    "steps is nothing": ("steps:\n", "steps"),
    "a step is a word": ("steps: [data]\n", "steps.0"),
    "a step without a stage": ("steps: [{name: data}]\n", "steps.0.stage is missing"),
    "a step without a name": ("steps: [{stage: data prepare}]\n", "steps.0.name is missing"),
    "a step's name is a path": ("steps: [{name: ../../data, stage: data prepare}]\n", "steps.0.name"),
    "a step's name is a number": ("steps: [{name: 3, stage: data prepare}]\n", "steps.0.name"),
    "a stage that is a list": ("steps: [{name: data, stage: [data prepare]}]\n", "steps.0.stage"),
    "an unknown stage": ("steps: [{name: data, stage: data prepar}]\n", "did you mean 'data prepare'?"),
    "two steps of a name": ("steps: [{name: a, stage: data prepare}, {name: a, stage: data prepare}]", "two steps are called 'a'"),
    "an unknown role": ("steps: [{name: a, stage: data prepare, parents: {modle: a}}]", "no role 'modle'"),
    "an unknown parent": ("steps: [{name: t, stage: tokenizer train, parents: {data: dta}}]", "neither an earlier step nor a run"),
    "a parent that comes later": (
        "steps: [{name: t, stage: tokenizer train, parents: {data: data}}, {name: data, stage: data prepare}]",
        "neither an earlier step",
    ),
    "a role that is missing": ("steps: [{name: t, stage: tokenizer train}]", "needs a data"),
    "a parent of another kind": (f"steps: [{_MODEL}, {{name: e, stage: export, parents: {{model: data}}}}]", "data prepare"),
    "parents is a list": ("steps: [{name: t, stage: tokenizer train, parents: [data]}]", "parents"),
    "config is a list": ("steps: [{name: data, stage: data prepare, config: [source]}]", "config"),
    "not a number": (_pretrain("{learning_rate: .nan}"), "learning_rate"),
    "infinite": (_pretrain("{learning_rate: .inf}"), "learning_rate"),
    "negative": (_pretrain("{learning_rate: -1}"), "learning_rate"),
    "zero": (_pretrain("{max_steps: 0}"), "max_steps"),
    "a fraction of a step": (_pretrain("{max_steps: 1.5}"), "max_steps"),
    "huge": (_pretrain("{max_steps: " + "9" * 5000 + "}"), "not valid YAML"),
    "a huge batch": (_pretrain("{per_device_train_batch_size: 100000000000000000000000000}"), "per_device_train_batch_size"),
    "a huge seed": (_pretrain("{seed: 99999999999999999999}"), "seed"),
    "a huge model": (_pretrain("{model: {width: 1000000000}}"), "model.width"),
    "a list for a number": (_pretrain("{max_steps: [1]}"), "max_steps"),
    "a mapping for a number": (_pretrain("{max_steps: {a: 1}}"), "max_steps"),
    "a word for a nested config": (_pretrain("{model: large}"), "model"),
    "a number for a word": (_pretrain("{lr_scheduler_type: 3}"), "lr_scheduler_type"),
    "a key in two spellings": (_pretrain("{lr: 0.1, learning_rate: 0.2}"), "given twice"),
    "a tag that does not fit": ("description: !!bool q\n" + _STEPS, "does not fit its tag"),
    "an impossible date": ("description: 2024-13-45\n" + _STEPS, "not valid YAML"),
}

# Each goes to `phiforge pretrain bad.yaml`, as the stage's own config.
CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "unknown key": ("learning_rat: 1\n", "did you mean 'learning_rate'?"),
    "unknown key, nested": ("model: {sise: 1M}\n", "did you mean 'size'?"),
    "wrong type": ("max_steps: many\n", "max_steps"),
    "a list at the top": ("- max_steps\n", "a config is a mapping"),
    "a mapping where a word belongs": ("precision: {a: b}\n", "precision"),
    "a word where a mapping belongs": ("model: big\n", "model"),
    "contradiction": ("max_steps: 5\nnum_train_epochs: 1\n", "keep one"),
}

# Each is a whole command line.
WORDS: dict[str, tuple[str, str]] = {
    "unknown verb": ("pretran", "No such command"),
    "unknown key": ("pretrain learning_rat=1", "did you mean 'learning_rate'?"),
    "unknown key of a step": ("run codette/quickstart pretrain.learning_rat=1", "did you mean 'learning_rate'?"),
    "unknown step": ("run codette/quickstart pretrian.lr=1", "pretrain"),
    "unknown key, deep": ("pretrain model.widht=3", "did you mean 'width'?"),
    "key below a number": ("pretrain max_steps.a=3", "max_steps"),
    "no equals sign": ("pretrain codette/quickstart max_steps", "one word too many"),
    "nothing before the sign": ("pretrain =3", "is not key=value"),
    "a dot too many": ("pretrain model..size=1M", "is not key=value"),
    "an option without its value": ("pretrain --max-steps", "needs a value"),
    "a short option": ("pretrain -x 3", "-x"),
    "misspelt alias": ("pretrain epoch=1", "epoch"),
    "alias and name": ("pretrain lr=1e-3 learning_rate=1e-3", "given twice"),
    "wrong type": ("pretrain max_steps=many", "max_steps"),
    "wrong type, true": ("pretrain load_best_model_at_end=perhaps", "load_best_model_at_end"),
    "broken list": ("pretrain sample_prompts=[a", "sample_prompts"),
    "unknown size": ("pretrain size=banana", "banana"),
    "a size of nothing": ("pretrain size=0", "size"),
    "a size too large": ("pretrain size=900B", "outside"),
    "a negative size": ("pretrain size=-1M", "size"),
    "two lengths of a run": ("pretrain max_steps=5 num_train_epochs=1", "keep one"),
    "warm-up beyond the run": ("pretrain warmup_steps=10 max_steps=10", "warmup_steps=10"),
    "warm-up of more than all": ("pretrain warmup_ratio=2", "warmup_ratio"),
    "heads that don't divide": ("pretrain model.width=48 model.depth=2 model.heads=5", "heads"),
    "key-value heads that don't divide": ("pretrain model.width=48 model.heads=6 model.kv_heads=4", "kv_heads"),
    "a width of odd heads": ("pretrain model.width=33 model.depth=2", "33"),
    "a vocabulary beyond the size": ("pretrain model.size=300K model.vocab_size=500000", "vocabulary of 500000"),
    "a vocabulary below the bytes": ("tokenizer train vocab_size=261", "vocab_size"),
    "a model's vocabulary below the bytes": ("pretrain model.vocab_size=100", "vocab_size"),
    "unknown schedule": ("pretrain lr_scheduler_type=cosin", "cosine"),
    "unknown precision": ("pretrain precision=fp64", "precision"),
    "unknown optimizer": ("pretrain optim=adamx", "optim"),
    "unknown layout": ("pretrain model.family=gpt5", "family"),
    "unknown reporter": ("pretrain report_to=mlflow", "report_to"),
    "no reporter beside one": ("pretrain report_to=[none,wandb]", "none"),
    "rows beyond the model": ("pretrain context_length=4096 model.context_length=128", "context_length=4096"),
    "threads of none": ("pretrain threads=0", "threads"),
    "not a number": ("pretrain learning_rate=.nan", "learning_rate"),
    "infinite": ("pretrain weight_decay=.inf", "weight_decay"),
    "negative": ("pretrain seed=-1", "seed"),
    "unknown recipe": ("run codette/quickstar", "did you mean 'codette/quickstart'?"),
    "a recipe that is missing": ("run nothing.yaml", "nothing.yaml"),
    "a recipe that is a folder": ("run folder.yaml", "folder.yaml"),
    "two recipes": ("run a.yaml b.yaml", "one word too many"),
    "a step that is no run": ("run codette/quickstart tokenizer=nowhere", "nowhere"),
    "a recipe without the stage": ("finetune codette/quickstart", "no finetune step"),
    "no model": ("evaluate", "needs a model"),
    "no model to teach": ("finetune data=chats.jsonl", "needs a model"),
    "no data to teach": ("finetune model=PICO", "data"),
    "no model to export": ("export gguf", "no model"),
    "unknown form of export": ("export gguf PICO outtype=q2", "outtype"),
    "the form twice": ("export gguf PICO to=hf", "the verb says it already"),
    "unknown split": ("data prepare split=random", "split"),
    "half is the most": ("data prepare validation_fraction=0.9", "validation_fraction"),
    "no source": ("data prepare source=[]", "source"),
    "a source that is a number": ("data prepare source=3", "source"),
    "a zero byte in a path": ("data prepare source=a\0b", "source"),
    "a name too long": ("data prepare " + "x" * 300, "no recipe is called"),
    "a value too long": ("pretrain seed=" + "9" * 4500, "seed"),
    "a name too long for a file": ("runs show " + "x" * 300, "too long for a path"),
    "a name that is not UTF-8": ("data prepare source=caf\udce9.txt", "not UTF-8"),
    "the text twice": ("quickstart words.txt data=words.txt", "named twice"),
    "an unknown schema": ("schema pretran", "did you mean 'pretrain'?"),
    "a hot chat": ("chat PICO --prompt x --temperature -1", "temperature"),
    "a chat of no top": ("chat PICO --prompt x --top-p 7", "top_p"),
    "a chat with words for numbers": ("chat PICO --prompt x --top-k many", "top-k"),
    "a chat with nobody": ("chat nowhere --prompt x", "nowhere"),
    "a server of nothing": ("serve nowhere", "nowhere"),
    "a server of a text": ("serve words.txt", "words.txt"),
    "removing what is no run": ("runs rm folder.yaml --yes", "not a run folder"),
    "a plan of a bad key": ("plan pretrain.max_step=1", "did you mean 'max_steps'?"),
    "a plan of nothing": ("plan nowhere.yaml", "nowhere.yaml"),
    "the figures of nothing": ("data stats nowhere", "nowhere"),
}

WORDS_OF_TEXT = "The quick brown fox jumps over the lazy dog, again and again, and so the day passes. "
LONG = "\n\n".join(f"{number}. " + WORDS_OF_TEXT * 3 for number in range(150))


def _file(name: str, data: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return folder / name

    return make


def _folder(**files: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "texts").mkdir()
        for name, data in files.items():
            _file(name.replace("_DOT_", "."), data)(folder / "texts")
        return folder / "texts"

    return make


def _link(name: str, target: str, *, inside: bool = False, text: bool = True) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        place = folder / "texts"
        place.mkdir()
        if text:
            (place / "good.txt").write_text(LONG)
        (place / name).symlink_to(target)
        return place if inside else place / name

    return make


def _named_like_a_file(folder: Path) -> Path:
    (folder / "folder.txt").mkdir()
    return folder / "folder.txt"


_LINES = "".join(json.dumps({"text": f"{number} {WORDS_OF_TEXT}"}) + "\n" for number in range(300))

# Each is what `data prepare source=...` gets. Name -> (maker of it, what the line must say).
TEXTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nowhere.txt", "no such file or folder"),
    "a name too long": (lambda folder: folder / ("x" * 300), "too long for a path"),
    "below a file": (lambda folder: _file("a.txt", LONG)(folder) / "b.txt", "a.txt"),
    "an empty folder": (_folder(), "an empty folder"),
    "a folder called like a file": (_named_like_a_file, "an empty folder"),
    "a folder of unknown extensions": (_folder(a_DOT_dat="x", b_DOT_jpg="y"), "unknown extension .dat"),
    "a folder of hidden files": (_folder(_DOT_a_DOT_txt=LONG), "hidden"),
    "a folder of empty files": (_folder(a_DOT_txt="", b_DOT_txt=""), "empty"),
    "a folder with a file that is not UTF-8": (_folder(a_DOT_txt=LONG, b_DOT_txt=b"good\n\xe9\n"), "byte 5 (0xe9)"),
    "an empty file": (_file("a.txt", ""), "empty"),
    "nothing but blanks": (_file("a.txt", " \n" * 20_000), "too little text: 0 bytes"),
    "200 bytes": (_file("a.txt", "x" * 200), "too little text: 200 bytes"),
    "binary": (_file("a.txt", bytes(range(256)) * 100), "zero byte at position 0"),
    "binary without an extension": (_file("program", b"\x7fELF\x02\x01\x01" + bytes(100) + b"\xff" * 30_000), "zero byte at position 7"),
    "zero bytes at the end": (_file("a.txt", LONG.encode() + b"\0"), f"zero byte at position {len(LONG):,}"),
    "not UTF-8": (_file("a.txt", LONG.encode() + b"\xff\xfe" + LONG.encode()), f"byte {len(LONG):,} (0xff)"),
    "cut within a character": (_file("a.txt", LONG.encode() + "\u20ac".encode()[:2]), f"byte {len(LONG):,} (0xe2)"),
    "UTF-16": (_file("a.txt", LONG.encode("utf-16")), "UTF-16"),
    "UTF-16 without a mark": (_file("a.txt", LONG.encode("utf-16-le")), "zero byte at position 1"),
    "a picture": (_file("a.jpg", b"\xff\xd8\xff\xe0" + b"\xaa" * 50_000), "not valid UTF-8 at byte 0"),
    "a PDF": (_file("a.pdf", b"%PDF-1.7\n" + b"x" * 50_000), ".pdf is not a text format"),
    "a zip": (_file("a.zip", b"PK\x03\x04" + b"x" * 50_000), ".zip is not a text format"),
    "gzip cut short": (_file("a.txt.gz", gzip.compress(LONG.encode())[:-200]), "gzip file is cut short"),
    "gzip that is none": (_file("a.txt.gz", LONG), "not a sound gzip file"),
    "gzip of nothing": (_file("a.txt.gz", b""), "cut short"),
    "gzip with a wrong checksum": (_file("a.txt.gz", gzip.compress(LONG.encode())[:-8] + b"\1\2\3\4\5\6\7\x08"), "not a sound gzip file"),
    "gzip of bytes that are not UTF-8": (_file("a.txt.gz", gzip.compress(LONG.encode() + b"\xff")), f"byte {len(LONG):,} (0xff)"),
    "zstandard cut short": (_file("a.jsonl.zst", zstandard.compress(_LINES.encode())[:-50]), "zstandard file is cut short"),
    "zstandard that is none": (_file("a.txt.zst", LONG), "not a sound zstandard file"),
    "a line that is no JSON": (_file("a.jsonl", _LINES + '{"text": \n'), "line 301: not JSON"),
    "a line with a word too many": (_file("a.jsonl", '{"text": "a"} more\n' + _LINES), "line 1: not JSON"),
    "a line that is a list": (_file("a.jsonl", _LINES + '["text"]\n'), "line 301: a list, not an object"),
    "a line without text": (_file("a.jsonl", _LINES + '{"title": "a"}\n'), 'line 301: no "text"'),
    "text that is a number": (_file("a.jsonl", _LINES + '{"text": 3}\n'), 'line 301: no "text" of type string'),
    "texts that are nothing": (_file("a.jsonl", '{"text": null}\n' * 300), "300 record without a text (null)"),
    "half of a character": (_file("a.jsonl", _LINES + '{"text": "\\ud800"}\n'), "line 301: the text holds half of a character"),
    "a line that is not UTF-8": (_file("a.jsonl", _LINES.encode() + b'{"text": "\xff"}\n'), "line 301: not valid UTF-8"),
    "a line nested too deeply": (_file("a.jsonl", _LINES + "[" * 200_000 + "\n"), "line 301: not JSON"),
    "a number of too many digits": (_file("a.jsonl", _LINES + '{"text": ' + "9" * 5000 + "}\n"), "line 301"),
    "chats for texts": (_file("a.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n' * 400), "phiforge finetune"),
    "a JSON list without end": (_file("a.json", '[{"text": "a"}'), "record 2: not JSON"),
    "a settings file": (_file("a.json", '{"name": "a"}'), 'no "text" of type string (has: name)'),
    "a link to itself": (_link("a.txt", "a.txt"), "leads to itself"),
    "a link to itself in a folder": (_link("a.txt", "a.txt", inside=True, text=False), "leads to itself"),
    "a link to the folder above": (_link("above", "..", inside=True, text=False), "loop"),
    "a link to nothing": (_link("a.txt", "nowhere"), "no such file or folder"),
    "one text over and over": (_folder(a_DOT_txt=WORDS_OF_TEXT, b_DOT_txt=WORDS_OF_TEXT), "too little text"),
    "a device": (lambda folder: Path("/dev/null"), "/dev/null"),
}


def _chat(*lines: object) -> Callable[[Path], Path]:
    return _file("chats.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


_GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}

# Each is what `finetune model=PICO data=...` gets.
CHATS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nowhere.jsonl", "no such file or folder"),
    "an empty folder": (_folder(), "no .jsonl or .json file"),
    "an empty file": (_file("chats.jsonl", ""), "no conversation in it"),
    "a text": (_file("chats.txt", "Hi"), "chats come as .jsonl or .json"),
    "a file without extension": (_file("chats", "Hi"), "chats come as .jsonl or .json"),
    "no JSON": (_file("chats.jsonl", json.dumps(_GOOD) + "\n{\n"), "line 2: not JSON"),
    "not UTF-8": (_file("chats.jsonl", json.dumps(_GOOD).encode() + b'\n{"a": "\xff"}\n'), "line 2: not valid UTF-8 at byte 7"),
    "binary": (_file("chats.jsonl", bytes(range(256)) * 10), "line 1"),
    "cut gzip": (_file("chats.jsonl.gz", gzip.compress(json.dumps(_GOOD).encode() * 99)[:-5]), "cut short"),
    "a number": (_chat(_GOOD, 3), "line 2: a int, not an object"),
    "other keys": (_chat(_GOOD, {"text": "a"}), "line 2: neither messages nor instruction"),
    "no messages": (_chat(_GOOD, {"messages": []}), "line 2: the conversation is no list of turns, or an empty one"),
    "messages is a word": (_chat(_GOOD, {"messages": "Hi"}), "line 2: the conversation is no list"),
    "a message is a word": (_chat(_GOOD, {"messages": ["Hi"]}), "line 2: turn 1"),
    "an unknown role": (_chat(_GOOD, {"messages": [{"role": "robot", "content": "Hi"}]}), "role 'robot'"),
    "a role that is a list": (_chat(_GOOD, {"messages": [{"role": ["user"], "content": "Hi"}]}), "line 2: turn 1"),
    "a message without content": (_chat(_GOOD, {"messages": [{"role": "user"}]}), "no content of type string"),
    "content that is a list": (_chat(_GOOD, {"messages": [{"role": "user", "content": ["a"]}]}), "no content of type string"),
    "nobody answers": (_chat({"messages": [{"role": "user", "content": "Hi"}]}), "none of 1 conversations has an assistant turn"),
    "answers without words": (
        _chat({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}]}),
        "nothing to learn",
    ),
    "half of a character": (_file("chats.jsonl", json.dumps(_GOOD).replace("Hello", "\\ud800") + "\n"), "half of a character"),
    "an instruction without its answer": (_chat(_GOOD, {"instruction": "Say hi"}), "line 2: neither"),
    "an output that is a number": (_chat(_GOOD, {"instruction": "Say hi", "output": 3}), "line 2: neither"),
    "an input that is a list": (_chat(_GOOD, {"instruction": "a", "output": "b", "input": ["c"]}), "line 2"),
    "a JSON object for a list": (_file("chats.json", json.dumps(_GOOD)), "a list of conversations was expected"),
    "questions that fill the row": (
        _chat({"messages": [{"role": "user", "content": "a" * 500}, {"role": "assistant", "content": "b"}]}),
        "fills a row",
    ),
}


def _copy(run: Path, folder: Path, **changes: object) -> Path:
    """The run's folder again, with other words in its run.json."""
    shutil.copytree(run, folder / "copied")
    manifest = json.loads((run / "run.json").read_text())
    (folder / "copied" / "run.json").write_text(json.dumps(manifest | changes))
    return folder / "copied"


def _rewritten(run: Path, folder: Path, text: str) -> Path:
    shutil.copytree(run, folder / "copied")
    (folder / "copied" / "run.json").write_text(text)
    return folder / "copied"


def _empty(run: Path, folder: Path) -> Path:
    (folder / "made").mkdir()
    return folder / "made"


Broken = Callable[[Path, Path], Path]

# Each is a run folder made of a finished data run. Name -> (maker, what the line must say).
RUNS: dict[str, tuple[Broken, str]] = {
    "missing": (lambda run, folder: folder / "nowhere", "nowhere"),
    "an empty folder": (_empty, "made"),
    "an empty run.json": (lambda run, folder: _rewritten(run, folder, ""), "damaged"),
    "a torn run.json": (lambda run, folder: _rewritten(run, folder, (run / "run.json").read_text()[:200]), "damaged"),
    "a list in run.json": (lambda run, folder: _rewritten(run, folder, "[1]"), "damaged"),
    "run.json without keys": (lambda run, folder: _rewritten(run, folder, "{}"), "damaged"),
    "run.json of a wrong type": (lambda run, folder: _copy(run, folder, artefacts=["a"]), "damaged"),
    "run.json nested too deeply": (lambda run, folder: _rewritten(run, folder, "[" * 100_000), "damaged"),
    "run.json that is not UTF-8": (lambda run, folder: _latin(run, folder), "damaged"),
    "of an unknown status": (lambda run, folder: _copy(run, folder, status="done"), "damaged"),
    "of a newer schema": (lambda run, folder: _copy(run, folder, schema_version=99), "newer phiforge"),
    "of no schema": (lambda run, folder: _copy(run, folder, schema_version="one"), "damaged"),
}

# These are sound runs, but not what they are given as.
UNFIT: dict[str, tuple[Broken, str]] = {
    "failed": (lambda run, folder: _copy(run, folder, status="failed"), "is failed"),
    "killed": (lambda run, folder: _copy(run, folder, status="running"), "is interrupted"),
}


def _latin(run: Path, folder: Path) -> Path:
    copied = _copy(run, folder)
    (copied / "run.json").write_bytes(b'{"id": "caf\xe9"}')
    return copied
