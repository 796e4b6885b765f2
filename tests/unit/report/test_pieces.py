"""Numbers, escapes and charts."""

from __future__ import annotations

import doctest
import math
import re

import numpy as np
import pytest

from phiforge.report import format as formatting
from phiforge.report.html import Markup, bars, details, esc, join, table, tag
from phiforge.report.markdown import escape
from phiforge.report.markdown import table as markdown_table
from phiforge.report.nested import nested
from phiforge.report.svg import _MOST_POINTS, Chart, Series, _thin, draw


def test_printed_examples_hold():
    result = doctest.testmod(formatting)
    assert result.attempted >= 4 and result.failed == 0


@pytest.mark.parametrize(
    ("value", "shown"), [(float("nan"), "nan"), (-0.5, "-0.5"), (12345.6, "12,346"), (2.0, "2"), (1e20, "1e+20"), ("x", "x")]
)
def test_numbers(value, shown):
    assert formatting.number(value) == shown


def test_escape_once_and_only_once():
    assert esc(esc("<a&b>")) == "&lt;a&amp;b&gt;"
    assert tag("p", Markup("<b>x</b>"), title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"><b>x</b></p>'
    assert join(["<", Markup("<br>")]) == "&lt;<br>"
    esc("\ud800\x00\x1b[31m").encode("utf-8")


def test_empty_content_makes_no_box():
    assert table(["a"], []) == "" and details("more", "") == "" and bars([]) == ""


def test_nested_data_says_none_and_makes_tables_of_like_records():
    made = nested(
        {"dropped": {}, "split": {"train": {"documents": 2}, "validation": {"documents": 1}}, "licences": ["MIT"], "big_bytes": 2_000_000}
    )
    assert "none" in made and made.count("<table>") == 1 and "MIT" in made and "2,000,000 (2 MB)" in made


def test_markdown_cells_cannot_break_out():
    assert escape("a|b\n*c* <x>") == r"a\|b \*c\* \<x\>"
    assert markdown_table(["a", "b"], [["x|y", 2]]).splitlines()[-1] == r"| x\|y | 2 |"


def test_chart_takes_the_pages_colours_and_holds_nothing_else():
    x = list(range(1, 201))
    chart = Chart(
        "Loss <&>",
        "nats",
        (Series("a & b", x, [1 / i for i in x], noisy=True), Series("c", [1, 200], [0.5, 0.1], [0.1, None])),
        (("5-gram", 0.3),),
    )
    svg = draw(chart)
    assert svg.startswith("<svg viewBox=") and svg.endswith("</svg>")
    assert "http" not in svg and "<style" not in svg and "<metadata" not in svg and "#01" not in svg and "#04" not in svg
    assert "var(--c1)" in svg and "var(--c2)" in svg and "a &amp; b" in svg and "Loss &lt;&amp;&gt;" in svg and "5-gram" in svg
    assert draw(chart) == svg


def test_charts_do_not_share_ids():
    one, other = (set(re.findall(r'id="([^"]+)"', draw(Chart(title, "", (Series("a", [0, 1], [0, 1]),))))) for title in ("A", "B"))
    assert one and other and not one & other


def test_a_wide_range_is_drawn_logarithmically_and_a_flat_line_is_drawn():
    assert "</svg>" in draw(Chart("g", "", (Series("g", list(range(100)), [1.0] * 99 + [1e4]),)))
    assert "</svg>" in draw(Chart("g", "", (Series("g", [0, 1], [0.0, 0.0]),)))


def test_thinning_keeps_every_spike():
    y = np.zeros(50_000)
    y[[7, 31_337, 49_998]] = [5, -7, 9]
    _, kept = _thin(np.arange(len(y), dtype=float), y)
    assert len(kept) <= _MOST_POINTS + 2 and {5, -7, 9} <= set(kept.tolist()) and math.isclose(kept[0], 0)
