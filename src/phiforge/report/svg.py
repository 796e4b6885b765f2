"""Line charts as inline SVG: transparent, their colours taken from the page, so that they read in light and dark alike.

matplotlib draws with stand-in colours, which are then replaced by the page's CSS variables; fonts are the page's own.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phiforge.report.format import count
from phiforge.report.html import Markup, esc
from phiforge.report.style import COLOURS

_STAND_INS = {"#010101": "var(--fg)", "#020202": "var(--muted)", "#030303": "var(--line)"}
_SERIES = tuple(f"#0404{i:02x}" for i in range(1, COLOURS + 1))
_STAND_INS |= {colour: f"var(--c{i})" for i, colour in enumerate(_SERIES, start=1)}
# Lines past the fifth are broken too, so that nobody has to tell ten colours apart.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2.5), (1.5, 2), (8, 2.5, 1.5, 2.5))
_INK, _MUTED, _LINE = "#010101", "#020202", "#030303"
_WIDTH = 5.0  # inches at 72 to the inch: text of 10 px stays readable on a phone and modest on a desk
_MOST_POINTS = 600


@dataclass(frozen=True)
class Series:
    """One line of a chart. `error` (standard errors) draws a band of two of them to each side; a `noisy` line of many points
    is drawn faint, with its moving average over it. `band`: its lower and upper border, point by point. `look`: which colour and dash it
    has (`looks`); none = by its place in the chart, 0 = the ink that a baseline has. `stairs`: it holds its value until the next point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] | None = None
    noisy: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None
    look: int | None = None
    stairs: bool = False


@dataclass(frozen=True)
class Chart:
    """What to draw: lines over steps, levels (label, height) to hold them against, borders (x, label) that cross the whole height.

    `legend`: False where the page has one of its own, which is the place for names that a user wrote."""

    title: str
    unit: str = ""
    series: tuple[Series, ...] = ()
    levels: tuple[tuple[str, float], ...] = field(default=())
    x_label: str = "step"
    borders: tuple[tuple[float, str], ...] = field(default=())
    legend: bool = True
    zero: bool = False  # a line at zero: the chart is of differences
    width: float = _WIDTH  # inches
    height: float = 2.7
    span: tuple[float, float] | None = None  # ends of the y axis, where several charts share one
    x_ticks: tuple[tuple[float, str], ...] = ()  # places and labels of the x axis, where it isn't plain numbers
    logarithmic: bool = False  # both axes: a power law is a straight line


def look(index: int) -> tuple[str, tuple[float, ...]]:
    """The CSS colour and the dashes of line `index` of a comparison: 0 is the baseline, in the page's own ink."""
    if index == 0:
        return "var(--fg)", ()
    return f"var(--c{(index - 1) % COLOURS + 1})", DASHES[(index - 1) // 5 % len(DASHES)]


def draw(chart: Chart) -> Markup:
    """The chart as an `<svg>` element. Loads matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    salt = hashlib.sha256(repr(chart).encode()).hexdigest()[:8]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "path.simplify": True,
        "font.size": 10,
        "axes.unicode_minus": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(chart.width, chart.height), dpi=72, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        _dress(axes)
        if chart.zero:
            axes.axhline(0, color=_MUTED, linewidth=1)
        for index, series in enumerate(chart.series, start=1):
            _line(axes, series, index if series.look is None else series.look)
        _levels(axes, chart)
        _borders(axes, chart)
        if chart.logarithmic:
            axes.set_xscale("log")
        if chart.logarithmic or _wide_range(chart):
            axes.set_yscale("log")
        if chart.span:
            axes.set_ylim(*chart.span)
        _ticks(axes, chart)
        if chart.legend and len(chart.series) > 1:
            axes.legend(frameon=False, labelcolor=_MUTED, fontsize=10, loc="best", handlelength=1.4)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _clean(out.getvalue(), chart, salt)


def _dress(axes: Any) -> None:
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, length=0, pad=5)
    axes.margins(x=0.01)


def _line(axes: Any, series: Series, index: int) -> None:
    colour = _SERIES[(index - 1) % COLOURS] if index else _INK
    dashes = look(index)[1]
    x, y = np.asarray(series.x, float), np.asarray(series.y, float)
    if series.error is not None and any(series.error):
        error = np.array([e or 0.0 for e in series.error], float)
        axes.fill_between(x, y - 2 * error, y + 2 * error, color=colour, alpha=0.15, linewidth=0)
    if series.band is not None:
        axes.fill_between(x, *(np.asarray(edge, float) for edge in series.band), color=colour, alpha=0.13, linewidth=0)
    if series.noisy and len(x) > 60:
        axes.plot(*_thin(x, y), color=colour, alpha=0.28, linewidth=0.8)
        step = max(1, len(x) // _MOST_POINTS)
        x, y = x[::step], _smooth(y)[::step]
    more: dict[str, Any] = {"marker": "o", "markersize": 3} if len(x) <= 30 and not series.stairs and series.look is None else {}
    more |= {"drawstyle": "steps-post"} if series.stairs else {}
    more |= {"linestyle": (0, dashes)} if dashes else {}
    x, y = _thin(x, y)
    axes.plot(x, y, color=colour, linewidth=1.7, solid_capstyle="round", label=series.name, **more)


def _smooth(y: np.ndarray) -> np.ndarray:
    """Moving average over about a twentieth of the line, of what there is on either side."""
    half = max(2, len(y) // 40)
    sums = np.concatenate(([0.0], np.cumsum(y)))
    at = np.arange(len(y))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 600 points: of each stretch its least and its greatest value, so that a spike is never lost."""
    if len(x) <= _MOST_POINTS:
        return x, y
    pieces = np.array_split(np.arange(len(x)), _MOST_POINTS // 2)
    keep = sorted({0, len(x) - 1} | {int(piece[pick(y[piece])]) for piece in pieces for pick in (np.argmin, np.argmax)})
    return x[keep], y[keep]


def _levels(axes: Any, chart: Chart) -> None:
    for label, height in chart.levels:
        axes.axhline(height, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            label,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=_MUTED,
            fontsize=9.5,
        )


def _borders(axes: Any, chart: Chart) -> None:
    if chart.borders and chart.span is None:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.12 * (high - low))  # room for the labels
    first = min((min(series.x) for series in chart.series), default=0.0)
    for at, label in chart.borders:
        if at > first:
            axes.axvline(at, color=_MUTED, linewidth=1, linestyle=(0, (1.5, 2.5)))
        axes.annotate(
            label,
            (at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            color=_MUTED,
            fontsize=9,
        )


def _wide_range(chart: Chart) -> bool:
    """Whether a logarithmic scale is needed to see anything."""
    values = np.concatenate([np.asarray(series.y, float) for series in chart.series])
    return bool(values.min() > 0 and values.max() > 30 * np.median(values))


def _ticks(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    if chart.logarithmic:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(
            MaxNLocator(5 if chart.width > 4 else 3, integer=chart.x_label in ("step", "tokens"), steps=[1, 2, 2.5, 5, 10])
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(int(value) if value == int(value) else value)))
    if chart.x_ticks:
        axes.set_xticks([place for place, _ in chart.x_ticks], [label for _, label in chart.x_ticks])
    axes.set_xlabel(chart.x_label, color=_MUTED, fontsize=9.5, loc="right", labelpad=2)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return count(value)
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def _clean(svg: str, chart: Chart, salt: str) -> Markup:
    """Only the drawing: no prolog, no metadata (it names web addresses), no ids but those pointed at, the page's fonts and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)  # its style would reach the whole page
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    pointed_at = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    svg = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{salt}{m[1]}"' if m[1] in pointed_at else "", svg)
    svg = re.sub(r'href="#', f'href="#{salt}', svg)
    svg = re.sub(r"url\(#", f"url(#{salt}", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]+;?\s*", "", svg)
    svg = re.sub(r'\stransform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>',
        lambda m: f'<svg {m[1]} role="img" stroke-linejoin="round" aria-label="{esc(chart.title)}">',
        svg,
        count=1,
    )
    for stand_in, variable in _STAND_INS.items():
        svg = svg.replace(stand_in, variable)
    return Markup(re.sub(r">\s+<", "><", svg).strip())
