"""A person opens the report of a comparison without a network, on a phone and on a desk: in a real browser where one is installed."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from phiforge.report.compare import render_comparison
from tests.journeys.test_report_html import browse, needs_browser
from tests.unit.report.experiments import Made, make_experiment

CASES = {"usual": Made(arms=3), "hostile": Made(arms=6, seeds=5, hostile=True)}


@pytest.fixture(scope="module", params=CASES)
def report(request, tmp_path_factory) -> Path:
    """The page of a comparison."""
    return render_comparison(make_experiment(tmp_path_factory.mktemp("experiment"), CASES[request.param]))


@needs_browser
def test_opens_offline_without_a_request_or_a_complaint(report, tmp_path):
    blank, loud = tmp_path / "blank.html", tmp_path / "loud.html"
    blank.write_text("<!doctype html><title>x</title>")
    loud.write_text('<!doctype html><img src="http://example.invalid/y.png"><script>console.error("control")</script>')
    _, own, _ = browse(blank, tmp_path)  # what the browser asks for by itself
    _, seen, messages = browse(loud, tmp_path)
    assert "example.invalid" in seen and "control" in messages, "the control was not noticed: this test would miss a real fault"
    document, hosts, messages = browse(report, tmp_path)
    assert hosts <= own | {host for host in seen if "example.invalid" not in host}
    assert messages == ""
    assert "<script" not in document and "Drawn by phiforge" in document and document.index("Verdicts") < document.index("<svg")


@needs_browser
@pytest.mark.parametrize("width", [320, 400, 1400])
def test_nothing_sticks_out_at_any_width(report, tmp_path, width):
    """A frame of that width around the page; the outer page measures the inner one, with every folded part open."""
    inner = html.escape(report.read_text(encoding="utf-8").replace("<details>", "<details open>"))
    measure = "document.title = 'width ' + document.querySelector('iframe').contentDocument.documentElement.scrollWidth"
    outer = tmp_path / "outer.html"
    frame = f'<iframe onload="{html.escape(measure)}" style="border:0;width:{width}px;height:900px" srcdoc="{inner}"></iframe>'
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{frame}', encoding="utf-8")
    document, _, _ = browse(outer, tmp_path, width=1500)
    assert re.search(r"<title>width (\d+)</title>", document)[1] == str(width)
