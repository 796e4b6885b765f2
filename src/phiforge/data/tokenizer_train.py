"""Stage "tokenizer train": a byte-level BPE vocabulary of our own from the training documents.

rustbpe trains: the same set of pieces as `tokenizers`' trainer (ties in frequency aside, a test holds this), several times faster.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rustbpe

from phiforge.core.atomic import atomic_dir
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.gates import Check, GateReport
from phiforge.data import pretokenizers, vocabulary
from phiforge.data.chat import get_template
from phiforge.data.config import TokenizerTrainConfig
from phiforge.data.document import Document
from phiforge.data.prepare import read_split
from phiforge.data.tokenizer import Tokenizer, bytes_per_token, cut_at_lines, has_long_blank

if TYPE_CHECKING:
    from phiforge.core.runs import Run, RunWriter

_SPECIAL = len(vocabulary.SPECIAL_TOKENS)
_FEWEST = _SPECIAL + 256
# parameters of the model -> ids: a head of more rows would be most of the work of a small model
_BY_MODEL = ((2_000_000, 2048), (10_000_000, 4096), (50_000_000, 8192), (300_000_000, 16_384))
_LARGEST = 32_768
_BYTES_PER_ID = 300  # a piece should be seen often enough for its row to be learnt
_LONGEST_PIECE, _SPARE = 256, 64
_CUT = 1 << 16  # characters; rustbpe holds 512 of them at a time
_HELD_OUT_BYTES = 2_000_000
_BLANK_SAMPLE = 4_000_000  # characters
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}


def choose_vocab_size(corpus_bytes: int, model_parameters: int | None = None) -> int:
    """Number of ids for a corpus and a model: a power of two, smaller when the text is too little for it.

    >>> choose_vocab_size(8_000_000, 7_000_000), choose_vocab_size(8_000_000, 1_000_000), choose_vocab_size(100_000)
    (4096, 2048, 512)
    """
    by_model = 4096 if model_parameters is None else next((size for limit, size in _BY_MODEL if model_parameters < limit), _LARGEST)
    by_corpus = 512
    while by_corpus * 2 * _BYTES_PER_ID <= corpus_bytes:
        by_corpus *= 2
    return min(by_model, by_corpus)


def parse_size(text: str) -> int:
    """Parameters behind "300K", "7M", "1.3B". Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMB]?)", text.strip().upper())
    if match is None:
        raise ConfigError(f"model_size {text!r} is no number of parameters", fix="for example 300K, 7M, 1.3B")
    return int(float(match[1]) * _UNITS[match[2]])


def train_pieces(texts: Iterable[str], vocab_size: int, pattern: str) -> list[bytes]:
    """Pieces in order of rank: the 256 bytes, then merged ones, `vocab_size` in all or as many as the text has.

    A line of a million equal characters would teach a piece of a million: pieces of more than 256 bytes are passed over, with what
    is built on them.
    """
    trainer = rustbpe.Tokenizer()
    pieces = (piece for text in texts for piece in cut_at_lines(_short_blanks(text), _CUT))
    trainer.train_from_iterator(pieces, vocab_size + _SPARE, buffer_size=512, pattern=pattern)
    ranked = sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])
    return [bytes(piece) for piece, _ in ranked if len(piece) <= _LONGEST_PIECE][:vocab_size]


def _short_blanks(text: str) -> str:
    """Half a million blanks in a row overflow the stack of the regex engine; a thousand teach as much."""
    return re.sub(r"(\s{1000})\s+", r"\1", text) if has_long_blank(text) else text


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, pre_tokenizer: str = "llama-bpe", template: str = "chatml") -> Tokenizer:
    """A tokenizer with at most `vocab_size` ids, special tokens included. Raises ConfigError below 262, DataError without text."""
    if vocab_size <= _FEWEST:
        raise ConfigError(f"vocab_size {vocab_size} is too small", fix=f"at least {_FEWEST + 1}: 5 special tokens, 256 bytes, one merge")
    sample: list[str] = []
    if pre_tokenizer == pretokenizers.WHITESPACE:
        texts = _sampled(texts, sample)
    pieces = train_pieces(texts, vocab_size - _SPECIAL, pretokenizers.pattern_of(pre_tokenizer))
    if len(pieces) <= 256:
        raise DataError("the text has no two bytes to merge", fix="train the tokenizer on more text")
    spec, settings = vocabulary.build_spec(pieces, pre_tokenizer), vocabulary.our_settings(get_template(template).jinja)
    if sample:
        settings["tokens_after_blank"] = after_blank(Tokenizer(spec, settings), sample)
    return Tokenizer(spec, settings)


def _sampled(texts: Iterable[str], sample: list[str]) -> Iterator[str]:
    """`texts`, with the beginning of each put into `sample` until there is enough to count in."""
    left = _BLANK_SAMPLE
    for text in texts:
        if left > 0:
            sample.append(text[: min(left, _BLANK_SAMPLE // 8)])
            left -= len(sample[-1])
        yield text


def after_blank(tokenizer: Tokenizer, texts: Iterable[str]) -> list[int]:
    """Ids that stand after a blank more often than not in `texts`: what a lossy tokenizer decodes with a blank before it."""
    words: Counter[tuple[str, bool]] = Counter()
    for text in texts:
        matches = re.finditer(pretokenizers.pattern_of(pretokenizers.WHITESPACE), text)
        words.update((m.group(), m.start() == 0 or text[m.start() - 1].isspace()) for m in matches)
    votes: Counter[int] = Counter()
    for (word, blank), count in words.items():
        first, *others = (int(i) for i in tokenizer.encode(word))
        votes[first] += count if blank else -count
        for i in others:
            votes[i] -= count
    return sorted(i for i, vote in votes.items() if vote > 0)


def run(config: TokenizerTrainConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """The stage. Metrics: vocab_size, bytes_per_token on held-out text, GPT-2's where its tokenizer is at hand."""
    data = parents["data"].path
    sides: list[Literal["train", "validation"]] = ["train", "validation"] if config.include_validation else ["train"]
    learnt = [read_split(data, side) for side in sides]
    corpus_bytes = sum(len(document.text.encode("utf-8")) for part in learnt for document in part)
    parameters = parse_size(config.model_size) if config.model_size else None
    size = config.vocab_size or choose_vocab_size(corpus_bytes, parameters)
    run.log(
        f"learning {size:,} tokens from {corpus_bytes:,} bytes"
        + ("" if config.vocab_size else " (size chosen from the corpus and the model)")
    )
    if config.include_validation:
        run.log("learning from the held-out text too, as asked: figures on that text are not of unseen text")
    texts = _evenly(itertools.chain.from_iterable(learnt), corpus_bytes, config.max_train_bytes)
    tokenizer = train_tokenizer(texts, size, pre_tokenizer=config.pre_tokenizer, template=config.template)
    if tokenizer.vocab_size < size:
        run.log(f"the text has only {tokenizer.vocab_size:,} tokens in it: vocab_size is that, not {size:,}")
    if tokenizer.lossy:
        run.log("pre_tokenizer=whitespace drops blanks: decoded text has its blanks guessed, and the model can't go to GGUF")
    held_out = list(_first(read_split(data, "validation"), _HELD_OUT_BYTES))
    gate = check(tokenizer, held_out)
    run.gate(gate)
    gate.require()
    with atomic_dir(run.path / "tokenizer") as folder:
        tokenizer.save(folder)
    metrics: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "bytes_per_token": round(bytes_per_token(tokenizer, held_out), 4)}
    run.log(f"held-out text: {metrics['bytes_per_token']:.3f} bytes per token")
    return {**metrics, **_beside_gpt2(config, held_out, run)}


def _evenly(documents: Iterable[Document], corpus_bytes: int, limit: int) -> Iterator[str]:
    """All texts, or every so many-th part of them when together they are more than `limit` bytes."""
    share = min(1.0, limit / max(1, corpus_bytes))
    due = 0.0
    for document in documents:
        due += share * len(document.text)
        if due >= len(document.text) or share == 1.0:
            due -= len(document.text)
            yield document.text


def _first(documents: Iterable[Document], limit: int) -> Iterator[str]:
    left = limit
    for document in documents:
        yield document.text[:left]
        left -= len(document.text)
        if left <= 0:
            return


def check(tokenizer: Tokenizer, texts: Iterable[str], limit: int = 300_000) -> GateReport:
    """What every tokenizer of ours must hold: ids as `tokenizers` gives them, text that comes back whole, four control ids apart.

    A lossy tokenizer is let off the second.
    """
    different = lost = seen = 0
    for text in texts:
        text = text[: limit - seen]
        ids, reference = tokenizer.encode(text), tokenizer.encode_reference(text)
        different += int(len(ids) != len(reference) or bool((ids != reference).any()))
        lost += int(not tokenizer.lossy and tokenizer.decode(ids) != text)
        seen += len(text)
        if seen >= limit:
            break
    roles = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.eot_id}
    comes_back = Check(name="texts that do not come back", value=float(lost), limit="= 0", passed=lost == 0)
    return GateReport(
        gate="tokenizer",
        checks=[
            Check(name="texts encoded unlike the reference", value=float(different), limit="= 0", passed=different == 0),
            *([] if tokenizer.lossy else [comes_back]),
            Check(name="distinct pad, bos, eos, end of turn", value=float(len(roles)), limit="= 4", passed=len(roles) == 4),
        ],
        note="blanks are lost with pre_tokenizer=whitespace, so whether texts come back is not checked" if tokenizer.lossy else "",
    )


def find_gpt2() -> Path | None:
    """GPT-2's tokenizer where the Hugging Face hub has put it on this machine, or None. Nothing is fetched."""
    from huggingface_hub import constants

    hits = sorted(Path(constants.HF_HUB_CACHE).glob("models--*gpt2/snapshots/*/tokenizer.json"))
    return hits[0].parent if hits else None


def _beside_gpt2(config: TokenizerTrainConfig, held_out: list[str], run: RunWriter) -> dict[str, Any]:
    folder = Path(config.gpt2) if config.gpt2 else find_gpt2()
    if folder is None:
        run.log("GPT-2's tokenizer is not on this machine, so there is no comparison with it (gpt2=FOLDER makes one)")
        return {}
    density = round(bytes_per_token(Tokenizer.load(folder), held_out), 4)
    run.log(f"GPT-2's 50,257 tokens on the same text: {density:.3f} bytes per token")
    return {"gpt2_bytes_per_token": density}
