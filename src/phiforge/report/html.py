"""The few pieces a report page is made of. Whatever goes in is escaped; only `Markup` (made here) passes as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from phiforge.report.format import number
from phiforge.report.style import CSS

# The page may load nothing at all: the browser itself refuses, whatever a text in it says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


_SHORT = 16  # characters of a table cell that are kept on one line


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def esc(value: Any) -> Markup:
    """`value` as HTML text; Markup unchanged. Control characters, which HTML has no place for, become U+FFFD."""
    if isinstance(value, Markup):
        return value
    text = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in str(value).replace("\r\n", "\n"))
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return Markup(html.escape(text))


def tag(name: str, content: Any = "", **attributes: str) -> Markup:
    """`<name attributes>content</name>`; `klass` stands for class."""
    written = "".join(f' {key.rstrip("_").replace("klass", "class")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{esc(content)}</{name}>")


def join(parts: Iterable[Any]) -> Markup:
    """The parts one after the other, each escaped unless Markup."""
    return Markup("".join(esc(part) for part in parts))


def page(title: str, body: Markup) -> str:
    """A whole document with its style inside: no script, no network."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{esc(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def card(title: str, *content: Any, note: str = "", klass: str = "") -> Markup:
    """A titled box; empty when there is nothing to put in."""
    inside = join(content)
    if not inside:
        return Markup("")
    head = tag("h2", title) if title else Markup("")
    return tag("section", join([head, tag("p", note, klass="note") if note else "", inside]), klass=f"card {klass}".strip())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table that scrolls sideways rather than break the page; numbers stand right."""
    rows = [list(row) for row in rows]
    if not rows:
        return Markup("")
    numeric = [all(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in rows) for i in range(len(rows[0]))]

    def cell(name: str, value: Any, i: int) -> Markup:
        shown = value if isinstance(value, str) else number(value)
        short = len(shown) <= _SHORT and not isinstance(value, Markup)
        return tag(name, shown, klass="n" if numeric[i] else "s") if numeric[i] or short else tag(name, shown)

    head = tag("thead", tag("tr", join(cell("th", str(column), i) for i, column in enumerate(columns)))) if any(columns) else Markup("")
    body = tag("tbody", join(tag("tr", join(cell("td", value, i) for i, value in enumerate(row))) for row in rows))
    return tag("div", tag("table", join([head, body])), klass="scroll", tabindex="0")


def facts(pairs: Iterable[tuple[str, Any]]) -> Markup:
    """Names and values, two columns."""
    rows = [join([tag("dt", name), tag("dd", value if isinstance(value, str) else number(value))]) for name, value in pairs]
    return tag("dl", join(rows)) if rows else Markup("")


def tiles(pairs: Iterable[tuple[str, str, str]]) -> Markup:
    """Large figures: (name, value, what it means)."""
    made = [
        tag("div", join([tag("span", name, klass="k"), tag("b", value), tag("span", about, klass="a") if about else ""]), klass="tile")
        for name, value, about in pairs
    ]
    return tag("div", join(made), klass="tiles") if made else Markup("")


def details(summary: str, *content: Any, open_: bool = False) -> Markup:
    """Folded content; works without a script."""
    inside = join(content)
    if not inside:
        return Markup("")
    return Markup(f"<details{' open' if open_ else ''}>{tag('summary', summary)}{inside}</details>")


def badge(text: str, kind: str = "") -> Markup:
    """A small label: kind is good, bad, warn or nothing."""
    return tag("span", text, klass=f"badge {kind}".strip())


def bars(rows: Sequence[tuple[str, float, str, bool]], *, top: float | None = None) -> Markup:
    """Horizontal bars: (label, value, value as text, emphasised)."""
    limit = top or max((value for _, value, _, _ in rows), default=0) or 1
    made = []
    for label, value, shown, strong in rows:
        width = max(0.0, min(1.0, value / limit)) * 100
        bar = Markup(f'<span class="track"><span class="fill" style="width:{width:.1f}%"></span></span>')
        made.append(
            tag("div", join([tag("span", label, klass="l"), bar, tag("span", shown, klass="v")]), klass="bar strong" if strong else "bar")
        )
    return tag("div", join(made), klass="bars") if made else Markup("")
