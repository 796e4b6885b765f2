"""What simple methods make of the same text, so that a person sees what a number of bits per byte means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from phiforge.evaluate.compressors import conditional_bits_per_byte, plain_bits_per_byte
from phiforge.evaluate.ngram import Ngram
from phiforge.evaluate.sampling import Sample, sample_text
from phiforge.evaluate.score import Score, ratio_score

XZ_BYTES = 8_000_000  # xz takes about a second for each of these megabytes, and reads them twice
HELD_OUT_BYTES = 4_000_000
Read = Callable[[], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One method's bits per byte. `fair`: it has read the training text, as the model has."""

    name: str
    label: str
    about: str
    fair: bool
    bits_per_byte: Score

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "about": self.about,
            "fair": self.fair,
            "bits_per_byte": self.bits_per_byte.to_json(),
        }


def compare_with(read_train: Read, read_held_out: Read, *, order: int = 5, train_bytes: int = 20_000_000) -> list[Baseline]:
    """The n-gram byte model and xz (with and without the training text) on the held-out text; at most about 4 MB of it.

    Args:
        read_train, read_held_out: give the documents' texts anew at each call.
        train_bytes: most training text that the n-gram model reads; xz reads at most 8 MB. What was left out is said in `about`.
    """
    held_out = sample_text(read_held_out, HELD_OUT_BYTES)
    if not held_out.bytes_taken:
        return []
    return [
        _ngram(sample_text(read_train, train_bytes), held_out, order),
        *_xz(sample_text(read_train, min(XZ_BYTES, train_bytes)), held_out),
    ]


def _about(first: str, train: Sample | None, held_out: Sample) -> str:
    notes = [first]
    if train is not None and train.note:
        notes.append(f"training text: {train.note}")
    if held_out.note:
        notes.append(f"held-out text: {held_out.note}")
    return "; ".join(notes)


def _ngram(train: Sample, held_out: Sample, order: int) -> Baseline:
    bits = Ngram.fit(train.documents, order).bits(held_out.documents)
    documents = np.repeat(np.arange(len(held_out.documents)), [len(document) for document in held_out.documents])
    return Baseline(
        name="ngram",
        label=f"{order}-gram byte model",
        about=_about("Witten-Bell smoothing, counted on the training text", train, held_out),
        fair=True,
        bits_per_byte=ratio_score(bits, np.ones(len(bits)), documents),
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
    strongest = min(fair, key=lambda baseline: baseline.bits_per_byte.value)
    gap = strongest.bits_per_byte.value - model.value
    doubt = 2 * ((model.standard_error or 0) ** 2 + (strongest.bits_per_byte.standard_error or 0) ** 2) ** 0.5
    if gap > doubt:
        return f"{begin}. Fewer is better: it has learned more than counting can."
    if gap < -doubt:
        return f"{begin}. Fewer is better: it has not yet learned what counting gives; train it for longer, or on more text."
    return f"{begin}. Fewer is better: that is a draw within the error; train it for longer, or on more text."


def _article(label: str) -> str:
    return "" if label.startswith("xz") else "an " if label[0] == "8" else "a "
