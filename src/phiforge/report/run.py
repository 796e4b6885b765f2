"""One run's report: `report.html` beside its run.json. Works for every stage, and for a run that broke off."""

from __future__ import annotations

from pathlib import Path

from phiforge.core import atomic
from phiforge.report import evaluated, memory_page, sections
from phiforge.report.headline import headline
from phiforge.report.html import join, page, tag
from phiforge.report.read import read_run

REPORT = "report.html"


def run_page(path: Path) -> str:
    """The page as text. Raises RunError when `path` is no run."""
    view = read_run(path)
    small = join([sections.gates(view), sections.decisions(view), sections.lineage(view), sections.results(view)])
    body = join(
        [
            sections.head(view, headline(view)),
            sections.figures(view),
            sections.trouble(view),
            sections.baselines(view),
            evaluated.windows(view),
            evaluated.axioms(view),
            memory_page.section(view),
            sections.curves(view),
            sections.samples(view),
            sections.data(view),
            tag("div", small, klass="two") if small else "",
            sections.files(view),
            sections.settings(view),
            sections.foot(view),
        ]
    )
    return page(f"{view.name} · {view.manifest.stage}", body)


def render_run(path: Path | str) -> Path:
    """Write `report.html` into the run folder `path` and return where it is.

    Raises:
        RunError: `path` has no readable run.json. PreflightError: it can't be written.
    """
    path = Path(path)
    target = path / REPORT
    atomic.write_text(target, run_page(path))
    return target
