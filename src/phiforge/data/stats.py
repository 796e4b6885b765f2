"""The numbers behind `phiforge data stats RUN|PATH`: what is on record about a corpus, and what one more pass over its text finds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from phiforge.core.console import progress
from phiforge.core.errors import DataError
from phiforge.data import coverage
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document
from phiforge.data.prepare import read_split
from phiforge.data.reading import COMPRESSED
from phiforge.data.sources import input_files
from phiforge.data.stats_pass import SAMPLE_BYTES, Pass, sample_share
from phiforge.data.survey import Survey

_UNPACKED = 3  # times a compressed file, about
_STEP = 1 << 20  # bytes between two looks at the clock


def recorded(path: Path | str) -> dict[str, Any] | None:
    """The report of a data run; None where `path` is none. Raises DataError."""
    report = Path(path) / "data.json"
    if not report.is_file():
        return None
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{report}: not a readable report", fix="run `phiforge data prepare` again") from None
    return found if isinstance(found, dict) and "sources" in found else None


def describe(path: Path | str) -> dict[str, Any]:
    """The report of a data run, or what a pass over a file or folder of text finds ("python": the default corpus). Raises DataError."""
    found = recorded(path)
    if found is not None:
        return found
    survey = Survey(DataPrepareConfig(source=[str(path)]))
    for _ in survey.documents():
        pass
    return survey.report()


def measure(path: Path | str, *, sample_bytes: int = SAMPLE_BYTES, least_share: float = coverage.LEAST_SHARE) -> dict[str, Any]:
    """`describe`, and under "measured" what a pass over the text finds (`stats_pass`). One pass, memory bounded.

    sample_bytes: how much text words are counted in, drawn evenly from all of it. Raises DataError.
    """
    found = recorded(path)
    if found is not None:
        passed = Pass(sample_share(found["bytes"], sample_bytes))
        _draw(passed, (document for side in ("train", "validation") for document in read_split(Path(path), side)), found["bytes"])
        return {**found, "measured": passed.report(least_share)}
    size, sure = _size_of(str(path))
    survey = Survey(DataPrepareConfig(source=[str(path)]))
    passed = Pass(sample_share(size, sample_bytes), math.inf if sure else sample_bytes)
    _draw(passed, survey.documents(), size if sure else None)
    return {**survey.report(), "measured": passed.report(least_share)}


def _size_of(source: str) -> tuple[float, bool]:
    """Bytes of text in a source's files, and whether that is known and not guessed."""
    files = input_files(source)
    packed = [path.suffix.lower() in (*COMPRESSED, ".parquet") for path in files]
    return sum(path.stat().st_size * (_UNPACKED if p else 1) for path, p in zip(files, packed, strict=True)), bool(files) and not any(
        packed
    )


def _draw(passed: Pass, documents: Iterable[Document], size: float | None) -> None:
    began, at = time.monotonic(), 0
    with progress("reading", size) as bar:
        for read in _sizes(passed, documents):
            at += read
            bar.advance(read, **{"MB/s": at / 1e6 / max(1e-3, time.monotonic() - began)})


def _sizes(passed: Pass, documents: Iterable[Document]) -> Iterator[int]:
    """What was read since the last time, a megabyte or more at once."""
    waiting = 0
    for document in documents:
        waiting += passed.add(document)
        if waiting >= _STEP:
            yield waiting
            waiting = 0
    yield waiting
