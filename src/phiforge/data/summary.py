"""What data.json says, from the indexes of the parts, and the lines of it that a person sees."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from phiforge.data.config import DataPrepareConfig
from phiforge.data.decide import GLOBAL_REASONS, LEFT_OUT, UNREAD, VALIDATION, Decided
from phiforge.data.flags import KINDS, PERSONAL, Flags
from phiforge.data.parts import Part
from phiforge.data.sources import about
from phiforge.data.work import cleaner_of

_SAMPLES = 5


def survey(config: DataPrepareConfig, decided: Decided) -> dict[str, Any]:
    """Everything that was met, and what was kept of it."""
    sources, dropped, examples = _Sources(config), Counter[str](), dict[str, str]()
    flags, stripped = Flags(), 0
    lengths = decided.kept("characters", np.int32)
    for part, state in zip(decided.parts, decided.state, strict=True):
        sources.add(part, state)
        _count_dropped(part, state, dropped, examples)
        _count_flags(part, state, flags)
        stripped += int(part.column("stripped")[state != UNREAD].sum())
    intake = decided.intake
    evaluation = cleaner_of(config.model_dump_json())[1].evaluation
    if evaluation is not None:
        evaluation["passages_cut_out"] = decided.cut
    return {
        "sources": sources.report(),
        "files": intake.files,
        "documents": decided.documents,
        "characters": int(lengths.sum(dtype=np.int64)),
        "bytes": sources.bytes,
        "dropped": {**dropped, **{f"file: {reason}": count for reason, count in intake.skipped.items()}},
        "dropped_examples": {**examples, **{f"file: {reason}": where for reason, where in intake.examples.items()}},
        "truncated": 0,  # nothing is shortened: long texts are cut into several documents
        "cut_long_texts": intake.cut,
        "encoding_repaired": intake.repaired,
        "gutenberg_stripped": stripped,
        "evaluation": evaluation,
        "lengths": _lengths(decided, lengths),
        **flags.report(),
        "samples": _samples(decided),
    }


class _Sources:
    """What each source gave."""

    def __init__(self, config: DataPrepareConfig) -> None:
        self._names = list(dict.fromkeys(config.source))
        self._counts = {name: Counter[str]() for name in self._names}
        self._digests = {name: hashlib.sha256() for name in self._names}

    @property
    def bytes(self) -> int:
        return sum(count["bytes"] for count in self._counts.values())

    def add(self, part: Part, state: np.ndarray) -> None:
        characters, size, digests = part.columns("characters", "bytes", "digest")
        first = 0
        for unit in part.facts["units"]:
            rows = np.arange(first, first + unit["rows"])
            first += unit["rows"]
            rows = rows[state[rows] <= VALIDATION]
            numbers = {"documents": len(rows), "characters": int(characters[rows].sum()), "bytes": int(size[rows].sum())}
            self._counts[unit["source"]].update(numbers)
            self._digests[unit["source"]].update(digests[rows].tobytes())

    def report(self) -> list[dict[str, Any]]:
        """sha256: of the sha256 of each text, in order."""
        return [
            {
                "source": name,
                **dict(zip(("about", "licence"), about(name), strict=True)),
                **{what: self._counts[name][what] for what in ("documents", "characters", "bytes")},
                "sha256": self._digests[name].hexdigest(),
            }
            for name in self._names
        ]


def _count_dropped(part: Part, state: np.ndarray, dropped: Counter[str], examples: dict[str, str]) -> None:
    reasons, reason = part.facts["reasons"], part.column("reason")
    for number, count in enumerate(np.bincount(reason[state == LEFT_OUT], minlength=len(reasons))):
        if number and count:
            dropped[reasons[number]] += int(count)
            row, source = part.facts["reason_examples"][reasons[number]]
            if state[row] != UNREAD:
                examples.setdefault(reasons[number], source)
    for value, name in GLOBAL_REASONS.items():
        rows = np.flatnonzero(state == value)
        if len(rows):
            dropped[name] += len(rows)
            if name not in examples:
                examples[name] = part.line(int(rows[0]))["source"]


def _count_flags(part: Part, state: np.ndarray, flags: Flags) -> None:
    """Licence hints of all that was read, personal data of what was kept."""
    rows, kinds, counts = part.column("flags").T
    personal = np.isin(kinds, [KINDS.index(kind) for kind in PERSONAL])
    counted = np.where(personal, state[rows] <= VALIDATION, state[rows] != UNREAD)
    for kind in np.unique(kinds[counted]):
        mine = counted & (kinds == kind)
        flags.counts[KINDS[kind]] += int(counts[mine].sum())
        flags.documents[KINDS[kind]] += int(mine.sum())
    for name, row, where in part.facts["flag_examples"]:
        if state[row] <= VALIDATION or (name not in PERSONAL and state[row] != UNREAD):
            flags.example(name, where)


def _lengths(decided: Decided, lengths: np.ndarray) -> dict[str, Any]:
    if not len(lengths):
        return {"shortest": 0, "median": 0, "mean": 0.0, "longest": 0, "longest_source": ""}
    return {
        "shortest": int(lengths.min()),
        "median": int(np.median(lengths)),
        "mean": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
        "longest_source": _nth(decided, int(lengths.argmax()))["source"],
    }


def _nth(decided: Decided, number: int) -> dict[str, Any]:
    """The document that is kept as number `number`."""
    for part, state in zip(decided.parts, decided.state, strict=True):
        rows = np.flatnonzero(state <= VALIDATION)
        if number < len(rows):
            return part.line(int(rows[number]))
        number -= len(rows)
    raise IndexError(number)


def _samples(decided: Decided) -> list[dict[str, str]]:
    """A line of the 1st, 2nd, 4th, 8th and 16th document."""
    count, found = decided.documents, []
    for number in (1 << power for power in range(_SAMPLES)):
        if number <= count:
            record = _nth(decided, number - 1)
            lines = (line.strip() for line in record["text"].split("\n"))
            line = next((line for line in lines if len(line) > 20), record["text"].strip())
            found.append({"source": record["source"], "line": line[:160]})
    return found


def summary(report: dict[str, Any]) -> list[str]:
    """What a person should see of the report, a line each."""
    sides = [(name, report["split"][side]) for name, side in (("to train on", "train"), ("held out", "validation"))]
    lines = ["; ".join(f"{name}: {side['documents']:,} documents, {side['bytes']:,} bytes{_tokens(side)}" for name, side in sides)]
    if report["dropped"]:
        examples = report["dropped_examples"]
        counted = (f"{count:,} {reason}{_such_as(examples, reason)}" for reason, count in report["dropped"].items())
        lines.append("left out: " + ", ".join(counted))
    for title, key in (("licence hints", "licences"), ("personal data", "personal_data")):
        if report[key]:
            found = ", ".join(f"{name} in {flag['documents']:,}" for name, flag in report[key].items())
            lines.append(f"{title} (documents; nothing was removed, data.json says where): {found}")
    if report["samples"]:
        lines.append(f"it reads: {report['samples'][-1]['line'][:100]} ({report['samples'][-1]['source']})")
    return lines


def _tokens(side: dict[str, Any]) -> str:
    return f", {side['tokens']:,} tokens" if "tokens" in side else ""


def _such_as(examples: dict[str, str], reason: str) -> str:
    return f" (such as {examples[reason][:80]})" if reason in examples else ""
