"""What simple methods make of the same text, so that a person sees what a number of bits per byte means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from phiforge.evaluate.bits_per_byte import PackedText
from phiforge.evaluate.compressors import conditional_bits_per_byte, plain_bits_per_byte
from phiforge.evaluate.ngram import Ngram
from phiforge.evaluate.sampling import Sample, sample_text
from phiforge.evaluate.score import Score, ratio_score

XZ_BYTES = 8_000_000  # xz takes about a second for each of these megabytes, and reads them twice
HELD_OUT_BYTES = 4_000_000
Read = Callable[[], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One method's bits per byte. `fair`: it has read the training text, as the model has.

    `gap`: how many more it needs than the model, over the same bytes, so that what makes a passage hard for both falls out of the error.
    """

    name: str
    label: str
    about: str
    fair: bool
    bits_per_byte: Score
    gap: Score | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "about": self.about,
            "fair": self.fair,
            "bits_per_byte": self.bits_per_byte.to_json(),
            "gap": None if self.gap is None else self.gap.to_json(),
        }


def compare_with(
    read_train: Read, read_held_out: Read, *, order: int = 5, train_bytes: int = 20_000_000, model_bits: np.ndarray | None = None
) -> list[Baseline]:
    """The n-gram byte model and xz (with and without the training text) on the held-out text; at most about 4 MB of it.

    Args:
        read_train, read_held_out: give the documents' texts anew at each call.
        train_bytes: most training text that the n-gram model reads; xz reads at most 8 MB. What was left out is said in `about`.
        model_bits: (bytes,) the model's bits for each byte of all the held-out text: gives the n-gram model its `gap`. Ignored when only
            a part of that text is read here.
    """
    held_out = sample_text(read_held_out, HELD_OUT_BYTES)
    if not held_out.bytes_taken:
        return []
    return [
        _ngram(sample_text(read_train, train_bytes), held_out, order, model_bits),
        *_xz(sample_text(read_train, min(XZ_BYTES, train_bytes)), held_out),
    ]


def _about(first: str, train: Sample | None, held_out: Sample) -> str:
    notes = [first]
    if train is not None and train.note:
        notes.append(f"training text: {train.note}")
    if held_out.note:
        notes.append(f"held-out text: {held_out.note}")
    return "; ".join(notes)


def _ngram(train: Sample, held_out: Sample, order: int, model_bits: np.ndarray | None) -> Baseline:
    bits = Ngram.fit(train.documents, order).bits(held_out.documents)
    documents = np.repeat(np.arange(len(held_out.documents)), [len(document) for document in held_out.documents])
    paired = model_bits is not None and held_out.complete and len(model_bits) == len(bits)
    return Baseline(
        gap=ratio_score(bits - model_bits, np.ones(len(bits)), documents) if paired else None,
        name="ngram",
        label=f"{order}-gram byte model",
        about=_about("Witten-Bell smoothing, counted on the training text", train, held_out),
        fair=True,
        bits_per_byte=ratio_score(bits, np.ones(len(bits)), documents),
    )


def trigram_baseline(counted: Ngram, packed: PackedText, specials: np.ndarray) -> Baseline:
    """A Witten-Bell trigram of the model's own tokens, over whole documents; [bos] is its context too, and no special token is charged."""
    tokens, starts = np.asarray(packed.tokens, np.int64), np.asarray(packed.starts, np.int64)
    bits = counted.bits_of_tokens(tokens, starts)
    text = ~np.isin(tokens, specials)
    documents = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(tokens))))[text]
    share = packed.n_bytes / max(1, int(text.sum()))
    return Baseline(
        name="trigram",
        label="trigram of its own tokens",
        about="Witten-Bell smoothing, counted on the training text with the model's tokenizer",
        fair=True,
        bits_per_byte=ratio_score(bits[text], np.full(len(documents), share), documents, n=packed.n_bytes),
    )


def _xz(train: Sample, held_out: Sample) -> list[Baseline]:
    text, before = b"".join(held_out.documents), b"".join(train.documents)
    conditional, plain = conditional_bits_per_byte(before, text), plain_bits_per_byte(text)
    return [
        Baseline(
            name="xz",
            label="xz",
            about=_about("what the text adds to the compressed training text", train, held_out),
            fair=True,
            bits_per_byte=Score(value=conditional, standard_error=None, n=len(text)),
        ),
        Baseline(
            name="xz_alone",
            label="xz, this text alone",
            about=_about("has not read the training text", None, held_out),
            fair=False,
            bits_per_byte=Score(value=plain, standard_error=None, n=len(text)),
        ),
    ]


def sentence(model: Score, baselines: list[Baseline], *, seen: bool = False) -> str:
    """What the figures mean, in one plain sentence.

    >>> sentence(Score(value=1.83, standard_error=0.01, n=9), [])
    'The model needs 1.83 bits for each byte of unseen text (8 is no compression at all).'
    """
    text = "text it was trained on" if seen else "unseen text"
    begin = f"The model needs {model.value:.2f} bits for each byte of {text}"
    fair = [baseline for baseline in baselines if baseline.fair]
    if not fair:
        return f"{begin} (8 is no compression at all)."
    others = [f"{_article(baseline.label)}{baseline.label} needs {baseline.bits_per_byte.value:.2f}" for baseline in fair]
    begin = f"{begin}; {', '.join(others)}"
    if seen:
        return f"{begin}. That says how much it remembers, not how good it is."
    return f"{begin}. Fewer is better: {_verdict(model, fair)}."


def _verdict(model: Score, others: list[Baseline]) -> str:
    """Which of the others the model beats by more than two standard errors, and which beat it."""
    won: list[Baseline] = []
    lost: list[Baseline] = []
    for other in others:
        gap = other.bits_per_byte.value - model.value
        error = math.hypot(model.standard_error or 0, other.bits_per_byte.standard_error or 0)
        if other.gap is not None:
            gap, error = other.gap.value, other.gap.standard_error or 0
        if abs(gap) > 2 * error:
            (won if gap > 0 else lost).append(other)
    names = " and ".join(_the(other) for other in won)
    if len(won) == len(others):
        return f"it beats {names}"
    if won:
        rest = [other for other in others if other not in won]
        return f"it beats {names}, {'; '.join(_not_beaten(other, other in lost) for other in rest)}"
    if lost:
        return "it has not yet learned what counting and copying give; train it for longer, or on more text"
    return "that is a draw within the error; train it for longer, or on more text"


def _not_beaten(other: Baseline, lost: bool) -> str:
    if not lost:
        return f"and draws with {_the(other)}"
    why = ", which copies repeated passages word for word" if other.name == "xz" else ""
    return f"but not {_the(other)}{why}"


def _the(baseline: Baseline) -> str:
    return baseline.label if baseline.label.startswith("xz") else f"the {baseline.label}"


def _article(label: str) -> str:
    return "" if label.startswith("xz") else "an " if label[0] == "8" else "a "
