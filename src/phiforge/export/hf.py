"""A Hugging Face folder: the model as it was trained, with a model card that says what is known and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.core.atomic import atomic_dir
from phiforge.core.errors import DataError
from phiforge.core.hardware import preflight_disk
from phiforge.core.runs import Run, RunWriter
from phiforge.export.tensors import TensorFiles, read_json

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "chat_template.jinja", "vocab.json", "merges.txt", "model.safetensors.index.json")  # fmt: skip
CODE = "*.py"  # classes of ours that transformers loads from the folder
ERROR = "_standard_error"
SAID = {
    "eval_bits_per_byte": "bits per byte, held-out text",
    "eval_perplexity": "perplexity per token, held-out text",
    "eval_accuracy": "next-token accuracy, held-out text",
    "eval_loss": "loss per token in nats, held-out text",
}


def export_folder(model: Run, run: RunWriter, name: str) -> dict[str, Any]:
    """Write `run.path/model` and list what is in it. Metrics: parameters, bytes."""
    parameters = count_weights(model.model_dir)
    write_folder(model, run.path / "model", name)
    files = sorted((run.path / "model").iterdir())
    for file in files:
        run.artefact(file.relative_to(run.path))
    run.log(f"{run.path / 'model'}: {parameters:,} parameters; load it with AutoModelForCausalLM.from_pretrained")
    return {"parameters": parameters, "bytes": sum(file.stat().st_size for file in files)}


def write_folder(model: Run, out: Path, name: str) -> None:
    """Copy the model folder to `out` with a new README.md. Raises DataError when there is no model in the run."""
    source = model.model_dir
    if not (source / "config.json").is_file():
        raise DataError(f"{model.path}: there is no model in this run", fix="export a pretrain or finetune run")
    wanted = [source / file for file in FILES if (source / file).is_file()] + sorted([*source.glob("*.safetensors"), *source.glob(CODE)])
    preflight_disk(out.parent, sum(file.stat().st_size for file in wanted))
    with atomic_dir(out) as folder:
        for file in wanted:
            shutil.copyfile(file, folder / file.name)
        (folder / "README.md").write_text(model_card(model, name), encoding="utf-8")


def count_weights(folder: Path) -> int:
    """Weights stored in the folder's safetensors, from their shapes. A tied head is stored once and counts once."""
    with TensorFiles(folder) as files:
        return int(sum(np.prod(entry.shape, dtype=np.int64) for entry in files.entries.values()))


def model_card(model: Run, name: str) -> str:
    """README.md of a model: what it is, what it was made from, what was measured, how to run it, what it can't do."""
    config = read_json(model.model_dir / "config.json")
    lines = [*_front(model), f"# {_plain(name)}", "", *_about(model, config), *_data(model), *_scores(model), *_use(model), *_limits(model)]
    return "\n".join(lines).rstrip() + "\n"


def _front(model: Run) -> list[str]:
    return [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- phiforge",
        f"- {model.manifest.stage.replace(' ', '-')}",
        "---",
        "",
    ]


def _plain(text: str) -> str:
    """Text that can't break out of its line in Markdown."""
    return " ".join(str(text).split()).replace("<", "&lt;").replace("|", "\\|")


def _about(model: Run, config: Mapping[str, Any]) -> Iterator[str]:
    made = "trained from scratch" if model.manifest.stage == "pretrain" and "model" not in model.manifest.parents else "made"
    if model.manifest.stage == "borrowed":
        made = "taken over"
    count = count_weights(model.model_dir)
    yield f"A `{config.get('model_type')}` language model with {count:,} parameters (counted from its tensors), {made} with phiforge."
    yield ""
    shape = {
        "width": config.get("hidden_size") or config.get("n_embd"),
        "layers": config.get("num_hidden_layers") or config.get("n_layer"),
        "heads": config.get("num_attention_heads") or config.get("n_head"),
        "vocabulary": config.get("vocab_size"),
        "context, tokens": config.get("max_position_embeddings") or config.get("n_positions"),
    }
    yield from _table(("", "value"), ((key, f"{value:,}") for key, value in shape.items() if isinstance(value, int)))


def _data(model: Run) -> Iterator[str]:
    yield from ("## Data", "")
    parent = model.manifest.parents.get("data")
    report = _read_optional(Path(parent.path) / "data.json") if parent else {}
    if not report:
        yield from ("What it was trained on is not recorded here.", "")
        return
    split = report.get("split", {})
    rows = []
    for side in ("train", "validation"):
        part = split.get(side) or {}
        if part:
            rows.append((side, f"{part.get('documents', 0):,}", f"{part.get('bytes', 0):,}"))
    yield from _table(("side", "documents", "bytes"), rows)
    source = _sources(Path(parent.path)) if parent else ""
    if source:
        yield from (f"Sources: {source}. sha256 of the prepared text: `{report.get('sha256', 'unknown')}`.", "")
    yield from _licences(report)


def _sources(path: Path) -> str:
    try:
        names = Run.open(path).config.get("source") or []
    except (DataError, OSError, ValueError):
        return ""
    return ", ".join(_plain(Path(str(item)).name) for item in names)  # names only: a path tells about the machine, not the data


def _licences(report: Mapping[str, Any]) -> Iterator[str]:
    """Licence words and personal data that the data report counted, wherever it keeps them."""
    found = {key: report[key] for key in ("licences", "personal_data") if isinstance(report.get(key), dict) and report[key]}
    found |= {key: value for key, value in (report.get("flags") or {}).items() if isinstance(value, dict) and value}
    if not found:
        return
    yield "Words that hint at licences or personal data were counted in the text; they are hints, not legal advice:"
    yield ""
    rows = [(_plain(key), _plain(name), _count(value)) for key, values in found.items() for name, value in values.items()]
    yield from _table(("kind", "what", "found"), rows[:40])


def _count(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{inner} {amount:,}" for inner, amount in value.items() if isinstance(amount, int)) or "yes"
    return f"{value:,}" if isinstance(value, int) else _plain(value)


def _scores(model: Run) -> Iterator[str]:
    yield from ("## Measured", "")
    metrics = model.manifest.metrics
    rows = []
    for key, said in SAID.items():
        if isinstance(metrics.get(key), int | float):
            error = metrics.get(key + ERROR)
            rows.append(
                (said, f"{metrics[key]:.4g}" + (f" ± {error:.2g}" if isinstance(error, int | float) else " (no standard error recorded)"))
            )
    if rows:
        yield from _table(("measure", "value ± standard error"), rows)
        yield from (
            "The held-out documents come from the same sources as the training text: this is not a score on other kinds of text.",
            "",
        )
    else:
        yield from ("Nothing is recorded. `phiforge evaluate` measures it.", "")
    tokens, seconds = metrics.get("tokens"), model.manifest.seconds
    if isinstance(tokens, int) and seconds:
        yield from (f"Trained on {tokens:,} tokens (repeats counted) in {seconds / 60:,.1f} minutes, seed {model.manifest.seed}.", "")


def _use(model: Run) -> Iterator[str]:
    kind = str(_read_optional(model.model_dir / "config.json").get("model_type", ""))
    ours = kind.startswith("phiforge_")
    yield from ("## Use", "", "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer")
    yield from ("import phiforge.models.decoder  # makes this architecture known to transformers", "") if ours else ("",)
    yield from ('tokenizer = AutoTokenizer.from_pretrained("FOLDER")', 'model = AutoModelForCausalLM.from_pretrained("FOLDER")')
    yield from (
        'ids = tokenizer("Once", return_tensors="pt").input_ids',
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))",
    )
    elsewhere = "A research architecture: llama.cpp and Ollama have no layout for it. `phiforge chat` runs it."
    yield from ("```", "", elsewhere if ours else "For llama.cpp and Ollama: `phiforge export gguf RUN`.", "")


def _limits(model: Run) -> Iterator[str]:
    yield from ("## Limits", "")
    yield "A model of this size writes text that resembles what it was trained on. It states falsehoods fluently, keeps no facts reliably,"
    yield "and has had no safety training unless the data above says so. Text of its training set may come back word for word."
    yield from ("", "## Licence", "")
    yield "The weights carry no licence of their own here. Whoever publishes them chooses one that the licences of the training data allow."
    yield from ("", f"Made by run `{model.id}`.")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _read_optional(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
