"""The numbers behind `phiforge data stats RUN|PATH`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phiforge.core.errors import DataError
from phiforge.data.config import DataPrepareConfig
from phiforge.data.survey import Survey

_COUNTS = (
    ("long texts cut", "cut_long_texts"),
    ("encoding repaired", "encoding_repaired"),
    ("Gutenberg headers off", "gutenberg_stripped"),
)


def describe(path: Path | str) -> dict[str, Any]:
    """The report of a data run, or what a pass over a file or folder of text finds ("python": the default corpus). Raises DataError."""
    report = Path(path) / "data.json"
    if report.is_file():
        try:
            found = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{report}: not a readable report", fix="run `phiforge data prepare` again") from None
        if isinstance(found, dict) and "sources" in found:
            return found
    survey = Survey(DataPrepareConfig(source=[str(path)]))
    for _ in survey.documents():
        pass
    return survey.report()


def rows(found: dict[str, Any]) -> list[list[Any]]:
    """[what, value] lines of a report, for a table."""
    lengths = found["lengths"]
    out: list[list[Any]] = [["source", _source(source)] for source in found["sources"]]
    out += [
        ["documents", f"{found['documents']:,}"],
        ["characters", f"{found['characters']:,}"],
        ["bytes", f"{found['bytes']:,}"],
        ["document length", f"{lengths['shortest']:,} to {lengths['longest']:,} characters, median {lengths['median']:,}"],
        ["longest document", lengths["longest_source"]],
    ]
    out += [[f"left out: {reason}", _counted(n, found["dropped_examples"].get(reason))] for reason, n in found["dropped"].items()]
    out += [[name, f"{found[key]:,}"] for name, key in _COUNTS if found[key]]
    for title, key in (("licence hint", "licences"), ("personal data", "personal_data")):
        out += [[f"{title}: {name}", _flagged(flag)] for name, flag in found[key].items()]
    if "split" in found:
        out += _split_rows(found["split"])
    out += [["sample", f"{sample['source']}: {sample['line'][:100]}"] for sample in found["samples"]]
    if "sha256" in found:
        out.append(["sha256", found["sha256"]])
    return out


def _source(source: dict[str, Any]) -> str:
    licence = f" (licence {source['licence']})" if source.get("licence") else ""
    return f"{source['about']}{licence}: {source['documents']:,} documents, {source['bytes']:,} bytes"


def _counted(count: int, example: str | None) -> str:
    return f"{count:,}" + (f", the first: {example}" if example else "")


def _flagged(flag: dict[str, Any]) -> str:
    return f"{flag['count']:,} in {flag['documents']:,} documents, for example {'; '.join(flag['examples'][:2])}"


def _split_rows(split: dict[str, Any]) -> list[list[Any]]:
    sides = [
        [side, f"{split[side]['documents']:,} documents, {split[side]['characters']:,} characters, {split[side]['bytes']:,} bytes"]
        for side in ("train", "validation")
    ]
    return [["split", f"{split['method']}: {split['got_fraction']:.1%} held out ({split['why']})"], *sides]
