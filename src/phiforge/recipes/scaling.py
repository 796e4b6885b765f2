"""The table of corpus sizes in `phiforge plan thyme/...`: perplexity, time, memory as a fitted law has them, beside the document's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phiforge.core.hardware import size
from phiforge.report.scaling import AT_ODDS, DOCUMENT, FAR, Corpus, Law, Point, bytes_text, effective_bytes, law_of, points_in, shipped
from phiforge.stats.power_law import Predicted

# UTF-8 bytes that one token of ours spells, by vocabulary: learned from 15 English books (7.2 MB), measured on two others, November 2026.
BYTES_PER_TOKEN = {2048: 3.19, 4096: 3.58, 10_000: 3.94, 32_000: 4.24}
SHARD_BYTES = 2  # of a token on disk, up to 65,536 ids
HEAD = [
    "text",
    "the document: perplexity",
    "time",
    "memory",
    "here: bits/byte",
    "95 %",
    "perplexity",
    "95 %",
    "time",
    "memory",
    "tokens on disk",
]


@dataclass(frozen=True)
class Training:
    """What of a planned training the table needs. rate: tokens a second here; memory: bytes; density: UTF-8 bytes of a token."""

    kind: str
    parameters: int
    epochs: float
    rate: float
    memory: int
    vocabulary: int
    density: float
    measured_density: bool
    unseen: bool = True


@dataclass(frozen=True)
class Row:
    """One size of text."""

    corpus: Corpus
    bits_per_byte: Predicted | None
    perplexity: Predicted | None
    seconds: float
    disk: float
    far: bool


@dataclass
class Scaling:
    """The table, and what has to be said of it."""

    training: Training
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def density_of(vocabulary: int) -> float:
    """Bytes of a token at that vocabulary: measured ones, and a straight line over the logarithm between them."""
    import math

    known = sorted(BYTES_PER_TOKEN.items())
    low = max((pair for pair in known if pair[0] <= vocabulary), default=known[0])
    high = min((pair for pair in known if pair[0] >= vocabulary), default=known[-1])
    if low[0] == high[0]:
        return low[1]
    share = math.log(vocabulary / low[0]) / math.log(high[0] / low[0])
    return low[1] + share * (high[1] - low[1])


def scaling_table(training: Training, runs: Sequence[Path] = ()) -> Scaling:
    """The document's sizes of text with what the law of these runs says. runs: folders; none = the points that ship with the package.

    Raises RunError for a folder without runs.
    """
    points, skipped = points_in(runs) if runs else (shipped(), [])
    law = law_of(points, training.kind, unseen=training.unseen)
    if law.law is None:
        other = law_of(points, training.kind, unseen=not training.unseen)
        law = other if other.law is not None else law
    made = Scaling(training)
    made.rows = [_row(corpus, training, law) for corpus in DOCUMENT]
    made.notes = [*_notes(training, law, from_package=not runs), *(f"left out: {line}" for line in skipped)]
    return made


def _row(corpus: Corpus, training: Training, law: Law) -> Row:
    tokens = corpus.bytes / training.density
    effective = effective_bytes(corpus.bytes, corpus.bytes * training.epochs)
    said = law.at(effective)
    per_token = None
    if said is not None:
        per_token = Predicted(*(2 ** (bits * training.density) for bits in (said.value, said.low, said.high)))
    seconds = tokens * training.epochs / training.rate
    return Row(
        corpus, said, per_token, seconds, SHARD_BYTES * tokens * (1 + (training.vocabulary > 1 << 16)), effective > FAR * law.largest
    )


def _notes(training: Training, law: Law, *, from_package: bool) -> list[str]:
    notes = [f"{'Measured points that ship with phiforge' if from_package else 'Your runs'}: {law.sentence()}"]
    if law.law is None:
        notes.append(
            "give folders of finished runs to say more: against=RUNS (short ones on a tenth, a third and all of a few MB are a start)"
        )
    else:
        sizes = sorted({point.parameters for point in law.points})
        span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        if not sizes[0] / 1.5 <= training.parameters <= 1.5 * sizes[-1]:
            notes.append(f"these runs have {span} parameters and this recipe {training.parameters:,}: the law says nothing of size")
        if law.unseen != training.unseen:
            notes.append("the runs were scored on another kind of held-out text (chunks or whole documents) than this recipe's")
        far = sum(effective_bytes(c.bytes, c.bytes * training.epochs) > FAR * law.largest for c in DOCUMENT)
        if far:
            notes.append(
                f"{far} of {len(DOCUMENT)} rows (marked ?) lie over {FAR} times beyond the largest run ({bytes_text(law.largest)}):"
                " no number is given there, and the interval knows only of noise, not of whether the law still holds"
            )
    how = (
        "measured on the recipe's own text"
        if training.measured_density
        else f"measured on English books at a vocabulary of {training.vocabulary:,}"
    )
    notes.append(
        f"perplexity is 2^(bits/byte x {training.density:.2f} bytes of a token, {how}); other tokenizers have others for the same model"
    )
    notes.append("memory doesn't grow with the text, which is streamed; time is the speed above on this machine")
    return [*notes, AT_ODDS]


def cells(scaling: Scaling, duration: Any) -> list[list[str]]:
    """The table's rows as text. duration: seconds to words."""
    rows = []
    for row in scaling.rows:
        bits = [_value(row.bits_per_byte, 2, row.far), _interval(row.bits_per_byte, 2)] if row.bits_per_byte else ["too few runs", ""]
        per_token = [_value(row.perplexity, 0, row.far), _interval(row.perplexity, 0)] if row.perplexity else ["", ""]
        own = [duration(row.seconds), size(scaling.training.memory), size(row.disk)]
        rows.append([row.corpus.name, row.corpus.perplexity, row.corpus.time, row.corpus.memory, *bits, *per_token, *own])
    return rows


def _value(said: Predicted, digits: int, far: bool) -> str:
    """The law's own number only where runs are near enough to stand behind it."""
    return "?" if far else f"{said.value:,.{digits}f}"


def _interval(said: Predicted, digits: int) -> str:
    return f"{said.low:,.{digits}f} to {said.high:,.{digits}f}"


def as_data(scaling: Scaling) -> dict[str, Any]:
    """Plain data for --json."""
    return {"training": asdict(scaling.training), "rows": [asdict(row) for row in scaling.rows], "notes": scaling.notes}


def kind_of(shape: Any) -> str:
    """How points name models of this shape."""
    return f"thyme/{shape.spec.form}" if shape.family == "thyme" else str(shape.family)


__all__ = ["HEAD", "Point", "Scaling", "Training", "as_data", "cells", "density_of", "kind_of", "scaling_table"]
