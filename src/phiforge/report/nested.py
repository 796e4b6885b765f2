"""Plain data of any shape (a data report, a config) as facts, tables and titled parts."""

from __future__ import annotations

from typing import Any

from phiforge.report.format import number, size, words
from phiforge.report.html import Markup, facts, join, table, tag


def nested(value: Any, depth: int = 0) -> Markup:
    """Plain data as facts, tables and titled parts."""
    if isinstance(value, dict):
        flat = [(words(str(k)), plain(v, str(k)) if not isinstance(v, dict | list) else "none") for k, v in value.items() if _is_flat(v)]
        deep = {str(k): v for k, v in value.items() if not _is_flat(v)}
        if _alike(list(deep.values())):
            return join([facts(flat), _records([{"": words(name), **inner} for name, inner in deep.items()])])
        parts: list[Any] = [facts(flat)]
        for name, inner in deep.items():
            title = tag("h3", words(name))
            parts.append(join([title, nested(inner, depth + 1)]) if depth < 4 else tag("p", f"{words(name)}: {inner}"))
        return join(parts)
    if isinstance(value, list):
        if value and all(isinstance(item, dict) for item in value):
            return _records(value)
        return tag("p", ", ".join(plain(item) for item in value[:50]) + (f", and {len(value) - 50:,} more" if len(value) > 50 else ""))
    return tag("p", plain(value))


def _is_flat(value: Any) -> bool:
    """Whether a value is said in a word: a plain one, or something empty, which is `none` (nothing dropped is worth saying)."""
    return not isinstance(value, dict | list) or not value


def _alike(values: list[Any]) -> bool:
    """Whether these are records of the same few keys: then a table says it best."""
    if not values or not all(isinstance(value, dict) for value in values):
        return False
    keys = set(values[0])
    return all(set(value) == keys for value in values) and not any(isinstance(v, dict) for value in values for v in value.values())


def _records(rows: list[dict[str, Any]]) -> Markup:
    """Dictionaries of like keys as a table; a long one is cut, and says so."""
    columns = list(dict.fromkeys(key for row in rows[:200] for key in row))
    shown = [[_cell(row.get(column), str(column)) for column in columns] for row in rows[:100]]
    more = tag("p", f"and {len(rows) - 100:,} more", klass="note") if len(rows) > 100 else ""
    return join([table([words(str(column)) for column in columns], shown), more])


def _cell(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value[:5]) + (", ..." if len(value) > 5 else "")
    if name == "sha256" and isinstance(value, str):
        return tag("span", f"{value[:16]}…", klass="hash", title=value)
    return value if isinstance(value, int | float) else plain(value)


def plain(value: Any, name: str = "") -> str:
    """A value in a word; bytes also as a size, a sha256 small."""
    if isinstance(value, dict | list):
        return str(value)[:300]
    if isinstance(value, int) and not isinstance(value, bool) and (name == "bytes" or name.endswith("_bytes")):
        return f"{value:,} ({size(value)})"
    if name == "sha256":
        return tag("span", value, klass="hash")
    return number(value) if not isinstance(value, str) else value
