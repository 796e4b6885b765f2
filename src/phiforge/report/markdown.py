"""The same run in a few lines of Markdown: for model cards and terminals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phiforge.report.format import count, duration, number, size, when, words
from phiforge.report.headline import headline
from phiforge.report.read import RunView, dicts, number_of, read_run

_SPECIAL = set("\\`*_{}[]<>#|~!")


def escape(value: Any) -> str:
    """Text that Markdown (and the HTML it may become) shows as it is, on one line."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(value).split()))
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in text.replace("&", "&amp;"))


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; empty without rows."""
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *([escape(cell if isinstance(cell, str) else number(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_markdown(path: Path | str) -> str:
    """A run as Markdown: what it is, what it came to, figures, baselines, gates, files. Raises RunError when `path` is no run."""
    view = read_run(Path(path))
    parts = [f"# {escape(view.name)}", escape(headline(view)), _facts(view)]
    for title, text in (("Bits per byte", _baselines(view)), ("Gates", _gates(view)), ("Files", _files(view))):
        if text:
            parts += [f"## {title}", text]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(view: RunView) -> str:
    m = view.manifest
    pairs: list[tuple[str, str]] = [("stage", m.stage), ("status", view.status), ("started", when(m.started))]
    if m.seconds:
        pairs.append(("time", duration(m.seconds)))
    if view.parameters:
        pairs.append(("true size", f"{count(view.parameters)} ({view.parameters:,} parameters)"))
    pairs += [(words(name), number(value)) for name, value in m.metrics.items()]
    pairs += [(f"made from ({role})", parent.id) for role, parent in m.parents.items()]
    if m.error:
        pairs.append(("error", m.error))
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in pairs)


def _baselines(view: RunView) -> str:
    model = view.evaluation.get("model")
    entries = [("this model", model)] if isinstance(model, dict) else []
    entries += [(str(b.get("label")), b) for b in dicts(view.evaluation.get("baselines"))]
    rows: list[list[Any]] = []
    for label, entry in entries:
        score = entry.get("bits_per_byte")
        value = number_of(score.get("value")) if isinstance(score, dict) else None
        if value is not None and isinstance(score, dict):
            error = number_of(score.get("standard_error"))
            rows.append([label, f"{value:.3f}", f"{error:.3f}" if error else "–"])
    return table(["", "bits per byte", "standard error"], rows)


def _gates(view: RunView) -> str:
    rows = [[g.gate, c.name, number(c.value), c.limit, "ok" if c.passed else "FAILED"] for g in view.manifest.gates for c in g.checks]
    return table(["gate", "check", "measured", "must be", ""], rows)


def _files(view: RunView) -> str:
    made = sorted(view.manifest.artefacts.items(), key=lambda item: (-item[1].bytes, item[0]))
    text = table(["file", "size", "sha256"], [[name, size(a.bytes), a.sha256] for name, a in made[:12]])
    return text + (f"\n\nand {len(made) - 12:,} more" if len(made) > 12 else "")
