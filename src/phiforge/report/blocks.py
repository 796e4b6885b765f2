"""A curve in block characters, for terminals: its scale beside it, borders through it, and an axis under it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from phiforge.report.format import count

_BLOCKS = " ▁▂▃▄▅▆▇█"
_BORDER, _EMPTY_BORDER = "│", "┊"


def picture(
    x: Sequence[float],
    values: Sequence[float],
    *,
    stairs: bool = False,
    borders: Sequence[tuple[float, str]] = (),
    unit: str = "",
    rows: int = 5,
    columns: int = 72,
) -> list[str]:
    """The lines of a picture of `values` over ascending `x`, from zero to the largest value.

    stairs: a value holds until the next place; otherwise straight lines join them. borders: (x, label), the label under the axis.

    >>> print("\\n".join(picture([0, 50, 100], [1.0, 2.0, 2.0], borders=[(50, "later")], rows=2, columns=12)))
            2 ┤ ▁▃▄▆▇│█████
              ┤██████│█████
            0 ┼──────┴────┘
               0     50 100
                     later
    """
    low, high = float(x[0]), float(x[-1])
    top = max(max(values), 0.0) or 1.0
    heights = [_value(x, values, low + (high - low) * i / max(1, columns - 1), stairs) / top * rows for i in range(columns)]
    marks = {_column(at, low, high, columns): (at, label) for at, label in borders if low < at < high}
    lines = []
    for row in reversed(range(rows)):
        cells = [_BLOCKS[max(0, min(8, round((height - row) * 8)))] for height in heights]
        for column in marks:
            cells[column] = _BORDER if cells[column] != " " else _EMPTY_BORDER
        scale = _short(top) if row == rows - 1 else ""
        lines.append(f"{scale:>9} ┤{''.join(cells)}".rstrip())
    axis = ["┴" if i in marks else "─" for i in range(columns - 1)]
    lines.append(f"{'0':>9} ┼{''.join(axis)}┘")
    begin = {0: _short(low)} | {column: _short(at) for column, (at, _) in marks.items()}
    lines.append(_under(begin, columns, end=f"{_short(high)} {unit}".rstrip()))
    labels = {max(0, _column(at, low, high, columns)): label for at, label in borders if low <= at < high}
    if any(labels.values()):
        lines.append(_under(labels, columns))
    return [line.rstrip() for line in lines]


def _column(at: float, low: float, high: float, columns: int) -> int:
    return round((at - low) / (high - low) * (columns - 1)) if high > low else 0


def _value(x: Sequence[float], values: Sequence[float], at: float, stairs: bool) -> float:
    i = max(0, bisect_right(x, at) - 1)
    if stairs or i + 1 >= len(x):
        return values[i]
    width = x[i + 1] - x[i]
    return values[i] + (values[i + 1] - values[i]) * ((at - x[i]) / width if width else 0.0)


def _under(texts: dict[int, str], columns: int, end: str = "") -> str:
    """Texts below the axis, each from its column on, in order; one that would touch the one before it or the end is left out."""
    line = ""
    limit = columns - len(end) - 1 if end else columns + 20
    for column in sorted(texts):
        text = texts[column]
        if len(line) <= max(0, column - (1 if column else 0)) and column + len(text) <= limit:
            line = line.ljust(column) + text
    if end:
        line = line.ljust(columns - len(end)) + end
    return " " * 11 + line


def _short(value: float) -> str:
    if value and abs(value) < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    return count(int(value)) if value == int(value) else f"{value:.3g}"
