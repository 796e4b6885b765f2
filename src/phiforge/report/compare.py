"""A comparison's report: `report.html` and `report.md` beside its verdict.json, drawn from the folder alone, in whatever state it is."""

from __future__ import annotations

from pathlib import Path

from phiforge.core import atomic
from phiforge.report import compare_curves as drawn
from phiforge.report import compare_parts as said
from phiforge.report.compare_costs import costs
from phiforge.report.compare_markdown import markdown_of
from phiforge.report.experiment import Experiment, read_experiment
from phiforge.report.html import join, page, tag

REPORT, MARKDOWN = "report.html", "report.md"


def comparison_page(folder: Path | str) -> str:
    """The page as text. Raises RunError when `folder` holds no verdict.json that can be read."""
    return _page(read_experiment(Path(folder)))


def comparison_markdown(folder: Path | str) -> str:
    """The same in Markdown. Raises RunError as above."""
    return markdown_of(read_experiment(Path(folder)))


def render_comparison(folder: Path | str) -> Path:
    """Write `report.html` and `report.md` into the experiment folder and return where the page is.

    Raises:
        RunError: `folder` has no readable verdict.json. PreflightError: it can't be written.
    """
    folder = Path(folder)
    experiment = read_experiment(folder)
    target = folder / REPORT
    atomic.write_text(target, _page(experiment))
    atomic.write_text(folder / MARKDOWN, markdown_of(experiment))
    return target


def _page(x: Experiment) -> str:
    parts = [
        said.head(x),
        said.warnings(x),
        said.verdicts(x),
        said.prediction(x),
        said.differences(x),
        drawn.curves(x),
        drawn.schedules(x),
        costs(x),
        said.tuning(x),
        said.controls(x),
        said.noise(x),
        drawn.samples(x),
        said.failures(x),
        said.streams(x),
        said.outlook(x),
        said.other_tests(x),
        said.again(x),
        tag("footer", "Drawn by phiforge from verdict.json and the runs' folders; this page loads nothing."),
    ]
    return page(f"{x.name} · comparison"[:200], join(parts))
