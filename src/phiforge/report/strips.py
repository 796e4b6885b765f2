"""Paired differences: one row an arm, one dot a seed, its mean and interval, on an axis that all rows share.

Drawn in percent of whatever width the page has, so that it reads on a phone: names are the page's own text, and dots stay round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from phiforge.report.format import number
from phiforge.report.html import Markup, esc, join, tag
from phiforge.report.svg import look

_PAD = 3.0  # percent free on either side
_MOST_DOTS = 400
_MIDDLE, _ROW = 20, 40  # px


@dataclass(frozen=True)
class Strip:
    """A row: `label` and `value` are page text (Markup or str); `kind` a CSS colour name of the interval (good, bad, muted)."""

    label: Markup
    value: Markup
    dots: Sequence[tuple[str, float]]  # (seed, difference)
    mean: float | None = None
    interval: tuple[float, float] | None = None
    kind: str = "fg"
    look: int = 0


def strips(rows: Sequence[Strip], *, band: float | None = None, low: str = "", high: str = "") -> Markup:
    """The plot. band: half the width of a grey stretch around zero. low, high: what the two sides of zero mean."""
    if not rows:
        return Markup("")
    span = _span(rows, band)
    made = [_row(row, span, band) for row in rows]
    return tag("div", join([*made, _axis(span, low, high)]), klass="strips")


def _span(rows: Sequence[Strip], band: float | None) -> tuple[float, float]:
    """Ends of the axis; zero is always on it."""
    values = [0.0] + ([-band, band] if band else [])
    for row in rows:
        values += [value for _, value in row.dots] + list(row.interval or ()) + ([row.mean] if row.mean is not None else [])
    low, high = min(values), max(values)
    return (low, high) if high > low else (-1.0, 1.0)


def _at(value: float, span: tuple[float, float]) -> str:
    return f"{_PAD + (100 - 2 * _PAD) * (value - span[0]) / (span[1] - span[0]):.2f}%"


def _row(row: Strip, span: tuple[float, float], band: float | None) -> Markup:
    parts = []
    if band:
        left, right = _at(-band, span), _at(band, span)
        wide = float(right[:-1]) - float(left[:-1])
        parts.append(f'<rect x="{left}" y="0" width="{wide:.2f}%" height="100%" fill="var(--soft)"/>')
    zero = _at(0, span)
    parts.append(f'<line x1="{zero}" x2="{zero}" y1="0" y2="100%" stroke="var(--muted)"/>')
    colour = look(row.look)[0]
    for seed, value in row.dots[:_MOST_DOTS]:
        title = f"<title>seed {esc(seed[:40])}: {esc(number(value))}</title>"
        parts.append(f'<circle cx="{_at(value, span)}" cy="{_MIDDLE + 8}" r="4" fill="{colour}" fill-opacity=".5">{title}</circle>')
    ink = f"var(--{row.kind})"
    if row.interval:
        a, b = (_at(end, span) for end in row.interval)
        parts.append(
            f'<line x1="{a}" x2="{b}" y1="{_MIDDLE - 7}" y2="{_MIDDLE - 7}" stroke="{ink}" stroke-width="3" stroke-linecap="round"/>'
        )
    if row.mean is not None:
        parts.append(
            f'<circle cx="{_at(row.mean, span)}" cy="{_MIDDLE - 7}" r="5.5" fill="{ink}" stroke="var(--card)" stroke-width="1.5">'
            f"<title>mean {esc(number(row.mean))}</title></circle>"
        )
    picture = Markup(f'<svg role="img" aria-label="paired differences" height="{_ROW}">{"".join(parts)}</svg>')
    return tag("div", join([tag("div", row.label, klass="l"), picture, tag("div", row.value, klass="v")]), klass="row")


def _axis(span: tuple[float, float], low: str, high: str) -> Markup:
    ticks = ticks_of(*span)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 3
    parts = ['<line x1="0" x2="100%" y1="1" y2="1" stroke="var(--line)"/>']
    for tick in ticks:
        x = _at(tick, span)
        text = "0" if abs(tick) < 1e-12 else f"{tick:+.{digits}f}".replace("-", "−")
        parts.append(f'<line x1="{x}" x2="{x}" y1="1" y2="5" stroke="var(--muted)"/>')
        parts.append(f'<text x="{x}" y="17" text-anchor="middle" font-size="11" fill="var(--muted)">{text}</text>')
    if low:
        parts.append(f'<text x="0" y="32" font-size="11" fill="var(--muted)">← {esc(low)}</text>')
    if high:
        parts.append(f'<text x="100%" y="32" text-anchor="end" font-size="11" fill="var(--muted)">{esc(high)} →</text>')
    picture = Markup(f'<svg class="axis" aria-hidden="true" height="34">{"".join(parts)}</svg>')
    return tag("div", join([tag("div", "", klass="l"), picture, tag("div", "", klass="v")]), klass="row")


def ticks_of(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most `most` + 1 of them.

    >>> ticks_of(-0.013, 0.021)
    [-0.01, 0.0, 0.01, 0.02]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]
