"""How bits per byte fall with the amount of text: points from run folders, the law through them, and the plan's own table beside.

What is fitted is bits per byte of unseen text against the text that was read, the same text read again counting for less (`effective`).
Perplexity is per token of one tokenizer, so it is computed from bits per byte, never fitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from phiforge.core.errors import RunError
from phiforge.core.runs import Run
from phiforge.report.read import number_of
from phiforge.stats.power_law import PowerLaw, Predicted, fit_power_law, predict, redrawn, why_not

KEPT = 15.4  # passes after which text read again has given most of what it can: R* of Muennighoff et al. 2023, section 6
FAR = 100  # times the largest run: beyond it a law is a guess, and is called one
_DEPTH = 4  # folders below a given one in which runs are looked for


@dataclass(frozen=True)
class Corpus:
    """A row of the document's tables."""

    name: str
    bytes: float
    perplexity: str
    time: str
    memory: str = ""


DOCUMENT: tuple[Corpus, ...] = (
    Corpus("5 MB (its eight books)", 5e6, "57", "2 hours", "2 GB"),
    Corpus("500 MB", 5e8, "~40", "8 hours", "4 GB"),
    Corpus("5 GB", 5e9, "~30", "24 hours", "8 GB"),
    Corpus("A: Gutenberg, 14.4 GB", 14.4e9, "35-40", "8-12 hours on 2 GPUs"),
    Corpus("20 GB", 2e10, "~20", "72 hours", "16 GB"),
    Corpus("B: Gutenberg + Wikipedia, 20 GB", 2e10, "25-30", "16-24 hours on 2 GPUs"),
    Corpus("C: a subset of the Pile, 36 GB", 36e9, "15-20", "48-72 hours on 2 GPUs"),
)
AT_ODDS = (
    "The document is at odds with itself: 20 GB stand at both 25-30 (16-24 hours) and ~20 (72 hours), and option A, with more text than its"
    " row of 5 GB, at a higher perplexity. It doesn't say of which tokens its perplexities are; it trains with two vocabularies."
)


@dataclass(frozen=True)
class Point:
    """A finished training. `kind`: thyme/outer, thyme/literal, or a decoder's family. `unseen`: whole documents were held out."""

    run: str
    kind: str
    parameters: int
    text_bytes: float  # of different text
    read_bytes: float  # with what was read again
    bits_per_byte: float
    unseen: bool = True
    seconds: float | None = None
    where: str = ""  # machine, commit, date

    @property
    def effective(self) -> float:
        """See `effective_bytes`."""
        return effective_bytes(self.text_bytes, self.read_bytes)


def effective_bytes(text: float, read: float) -> float:
    """So much new text would have taught as much: U + U R* (1 - exp(-R / R*)), R the times that U is read again (Muennighoff et al. 2023).

    >>> effective_bytes(1e6, 5e5), round(effective_bytes(1e6, 2e6) / 1e6, 2)
    (500000.0, 1.97)
    """
    unique = min(text, read)
    again = read / unique - 1 if unique else 0.0
    return unique + unique * KEPT * -math.expm1(-again / KEPT)


def shipped() -> list[Point]:
    """Points measured before, which come with the package; where they come from is in each."""
    text = (resources.files("phiforge.report") / "measured" / "thyme.json").read_text(encoding="utf-8")
    return [Point(**point) for point in json.loads(text)["points"]]


def points_in(folders: Iterable[Path]) -> tuple[list[Point], list[str]]:
    """Points of every finished pretraining in these folders (and what they hold), and why others give none.

    Raises RunError for a folder that isn't there or holds no run.
    """
    points: dict[Path, Point] = {}
    skipped: list[str] = []
    for folder in folders:
        found = _runs_in(folder)
        if not found:
            what = "holds no pretrain run" if folder.exists() else "does not exist"
            raise RunError(f"{folder}: {what}", fix="give folders of `phiforge pretrain` or `phiforge run`")
        for run in found:
            made = _point(run)
            if isinstance(made, Point):
                points[run.path.resolve()] = made
            else:
                skipped.append(f"{run.path}: {made}")
    return list(points.values()), skipped


def _runs_in(folder: Path) -> list[Run]:
    found, waiting = [], [(Path(folder), 0)]
    while waiting:
        path, depth = waiting.pop(0)
        if Run.is_run(path):
            try:
                run = Run.open(path)
            except RunError:
                continue
            if run.manifest.stage == "pretrain":
                found.append(run)
        if depth < _DEPTH and path.is_dir():
            waiting += [(inside, depth + 1) for inside in sorted(path.iterdir()) if inside.is_dir() and inside.name != "checkpoints"]
    return found


def _point(run: Run) -> Point | str:
    """The point of a pretraining, or why it gives none."""
    manifest, metrics = run.manifest, run.manifest.metrics
    if run.status != "complete":
        return f"is {run.status}"
    if "model" in manifest.parents:
        return "went on from another run's model"
    data, tokenizer = (_parent(run, role) for role in ("data", "tokenizer"))
    text, density = number_of((data or {}).get("train_bytes")), number_of((tokenizer or {}).get("bytes_per_token"))
    tokens, bits, parameters = (number_of(metrics.get(name)) for name in ("tokens", "eval_bits_per_byte", "parameters"))
    if not (text and density and tokens and bits and parameters):
        return "its text, tokenizer or final figures can't be found"
    config = run.config
    model = config.get("model") or {}
    length = config.get("context_length") or model.get("context_length")
    stride = config.get("row_stride")
    overlap = min(1.0, stride / length) if stride and length else 1.0  # rows that overlap read the same text twice in a pass
    kind = f"thyme/{model.get('form', 'outer')}" if model.get("family") == "thyme" else str(model.get("family", "starcoder2"))
    machine, commit = manifest.hardware, str(manifest.git_commit)[:7]
    return Point(
        run=f"{run.path.resolve().parent.name}/{run.path.name}",
        kind=kind,
        parameters=int(parameters),
        text_bytes=text,
        read_bytes=tokens * overlap * density,
        bits_per_byte=bits,
        unseen=not _chunks(run),
        seconds=number_of(metrics.get("train_seconds")) or manifest.seconds,
        where=f"{machine.get('cores')} cores of {machine.get('processor')}, commit {commit}, {manifest.started[:10]}",
    )


def _parent_folder(run: Run, role: str) -> Path | None:
    """Where a parent is now: where it was, or beside the run when the folder was moved."""
    parent = run.manifest.parents.get(role)
    places = [Path(parent.path), run.path.parent / Path(parent.path).name, run.path / Path(parent.path).name] if parent else []
    return next((place for place in places if Run.is_run(place)), None)


def _parent(run: Run, role: str) -> dict[str, Any] | None:
    place = _parent_folder(run, role)
    return Run.open(place).manifest.metrics if place else None


def _chunks(run: Run) -> bool:
    """Whether text beside what is held out was trained on."""
    place = _parent_folder(run, "data")
    try:
        config = Run.open(place).config if place else {}
    except (OSError, ValueError):
        config = {}
    return config.get("split") == "chunks"


@dataclass(frozen=True)
class Law:
    """The law through points of one kind, with others that new noise would have given."""

    kind: str
    unseen: bool
    points: tuple[Point, ...]
    law: PowerLaw | None
    others: tuple[PowerLaw, ...] = ()
    why: str = ""  # there is none

    def at(self, effective: float) -> Predicted | None:
        """Bits per byte after so much text."""
        return predict(self.law, self.others, effective) if self.law else None

    @property
    def largest(self) -> float:
        """The most text that any of its runs has read."""
        return max((point.effective for point in self.points), default=0.0)

    def sentence(self) -> str:
        """The law, or why there is none, in a line."""
        held = "unseen documents" if self.unseen else "held-out chunks of documents that were trained on"
        if self.law is None:
            return f"{self.kind}, {held}: {self.why}."
        e, power = (_span([getattr(law, name) for law in self.others]) for name in ("floor", "exponent"))
        law = self.law
        return (
            f"{self.kind}, {held}: L(D) = {law.floor:.2f} + {law.scale:.2f} (D / {bytes_text(law.unit)})^-{law.exponent:.2f} bits per byte,"
            f" from {law.n} runs that read up to {bytes_text(self.largest)}; other noise would have given a floor of {e} and an exponent"
            f" of {power}."
        )


def law_of(points: Sequence[Point], kind: str, *, unseen: bool = True) -> Law:
    """The law of one kind of model on one kind of held-out text."""
    chosen = tuple(sorted((p for p in points if p.kind == kind and p.unseen == unseen), key=lambda p: p.effective))
    data, values = [p.effective for p in chosen], [p.bits_per_byte for p in chosen]
    reason = why_not(data)
    if reason:
        return Law(kind, unseen, chosen, None, why=reason)
    law = fit_power_law(data, values)
    return Law(kind, unseen, chosen, law, tuple(redrawn(law, data)))


def laws_of(points: Sequence[Point]) -> list[Law]:
    """Every kind there is."""
    kinds = dict.fromkeys((point.kind, point.unseen) for point in points)
    return [law_of(points, kind, unseen=unseen) for kind, unseen in kinds]


def _span(values: Sequence[float]) -> str:
    ordered = sorted(values)
    cut = round(0.025 * len(ordered))
    return f"{ordered[cut]:.2f} to {ordered[-1 - cut]:.2f}"


def bytes_text(n: float) -> str:
    """1,500,000 -> `1.5 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n:.0f} B"
