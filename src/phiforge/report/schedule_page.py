"""Schedules as pictures in one file, before anything runs: an HTML page, or one plain SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence

from phiforge.report.html import card, esc, join, page, tag
from phiforge.report.style import CSS
from phiforge.report.svg import Chart, draw

_WIDE, _HIGH, _GAP, _HEAD = 430, 262, 24, 44  # px of one chart in the SVG file


def schedules_html(title: str, groups: Sequence[tuple[str, Sequence[Chart]]]) -> str:
    """A page with a card for each (name, charts)."""
    cards = [card(name, tag("div", join(_figure(chart) for chart in charts), klass="grid")) for name, charts in groups if charts]
    head = tag("header", join([tag("p", "phiforge · plan", klass="eyebrow"), tag("h1", title)]))
    return page(f"{title} · plan", join([head, *cards, tag("footer", "Nothing has run yet. This page loads nothing.")]))


def schedules_svg(title: str, groups: Sequence[tuple[str, Sequence[Chart]]]) -> str:
    """One SVG of all charts in two columns, its colours written out (dark on white), for wherever a picture goes."""
    parts, y = [_text(title, 18, 28, 18)], _HEAD
    for name, charts in groups:
        if not charts:
            continue
        parts.append(_text(name, 18, y + 16, 14))
        y += 28
        for i, chart in enumerate(charts):
            x = 18 + i % 2 * (_WIDE + _GAP)
            inner = draw(chart).replace("<svg ", f'<svg x="{x}" y="{y + 18}" width="{_WIDE}" height="{_HIGH - 30}" ', 1)
            unit = f" ({chart.unit})" if chart.unit else ""
            parts += [_text(chart.title + unit, x, y + 12, 12), inner]
            if i % 2 or i == len(charts) - 1:
                y += _HIGH
    width = 36 + 2 * _WIDE + _GAP
    whole = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {y + 8}" width="{width}"'
        f' height="{y + 8}" font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
    light = dict(re.findall(r"--(\w+):(#[0-9a-f]+)", CSS[: CSS.index("@media")]))
    return re.sub(r"var\(--(\w+)\)", lambda m: light[m[1]], whole).replace(" href=", " xlink:href=")


def _text(text: str, x: int, y: int, height: int) -> str:
    return f'<text x="{x}" y="{y}" font-size="{height}" font-weight="600" fill="var(--fg)">{esc(text)}</text>'


def _figure(chart: Chart) -> str:
    unit = join([" ", tag("span", chart.unit)]) if chart.unit else ""
    return tag("figure", join([tag("figcaption", join([chart.title, unit])), draw(chart)]))
