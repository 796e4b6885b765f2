"""Numbers, times and sizes as a person reads them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from phiforge.core.hardware import size as size  # bytes: 1.5 GB


def number(value: Any) -> str:
    """A value in few characters: 12,345 · 1.834 · 0.0003 · yes.

    >>> number(1234567), number(1.83456), number(0.0003), number(True), number(None)
    ('1,234,567', '1.835', '0.0003', 'yes', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1e15 or abs(value) < 1e-3:
        return f"{value:.3g}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def count(n: float) -> str:
    """A large count, three figures: 7.08M, 1.3B, 812.

    >>> count(7_083_520), count(812), count(1_299_999_999)
    ('7.08M', '812', '1.3B')
    """
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= limit * 0.9995:
            return f"{n / limit:.3g}{unit}"
    return f"{n:.3g}" if isinstance(n, float) else str(n)


def duration(seconds: float | None) -> str:
    """Time passed: 4.2 s, 3 min 20 s, 2 h 05 min.

    >>> duration(4.21), duration(200), duration(7500), duration(None)
    ('4.2 s', '3 min 20 s', '2 h 05 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def when(stamp: Any) -> str:
    """An ISO time as `20 Nov 2026, 14:05 UTC`; anything else as it is."""
    try:
        moment = datetime.fromisoformat(str(stamp))
    except ValueError:
        return str(stamp)
    return f"{moment.day} {moment:%b %Y, %H:%M} {moment.tzname() or ''}".strip()


def some(n: int, noun: str) -> str:
    """A count with its noun.

    >>> some(1, "document"), some(2000, "document")
    ('1 document', '2,000 documents')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def words(name: str) -> str:
    """A key as words: `eval_bits_per_byte` -> `eval bits per byte`."""
    return name.replace("_", " ").strip()
