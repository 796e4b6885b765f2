"""The part of Go's text/template that our Modelfiles use, evaluated: so that what Ollama will render can be checked here.

Text, `{{ .Field }}`, `{{ range .Field }}...{{ end }}`, `{{ if .Field }}...{{ else }}...{{ end }}`, and the blank-trimming
`{{-` and `-}}`. Anything else is refused, not guessed. Language: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phiforge.core.errors import ConfigError

_TAG = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_FIELD = re.compile(r"\.[A-Za-z]\w*\Z")
_BLANKS = " \t\r\n"  # what Go's trim markers remove


@dataclass
class _Node:
    """kind: text, field, range, if. `body` and `other` hold the parts inside."""

    kind: str
    value: str
    body: list[_Node] = field(default_factory=list)
    other: list[_Node] = field(default_factory=list)


def render(template: str, data: Mapping[str, Any]) -> str:
    """What Go's text/template makes of `template` with `data` as the dot. Raises ConfigError outside the subset.

    >>> render("{{ range .Messages }}{{ .Role }}: {{ .Content }};{{ end }}", {"Messages": [{"Role": "user", "Content": "hi"}]})
    'user: hi;'
    """
    tokens = list(_tokens(template))
    nodes, rest = _parse(tokens, 0, inside=False)
    if rest != len(tokens):
        raise ConfigError("Go template: an {{ end }} too many")
    return "".join(_evaluate(nodes, data))


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    """("text", ...) and ("tag", ...) in order, blanks trimmed where a marker says so."""
    at, trim = 0, False
    for match in _TAG.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip(_BLANKS) if trim else text
        yield "text", text.rstrip(_BLANKS) if match.group(1) else text
        yield "tag", match.group(2).strip()
        at, trim = match.end(), bool(match.group(3))
    yield "text", template[at:].lstrip(_BLANKS) if trim else template[at:]


def _parse(tokens: list[tuple[str, str]], at: int, *, inside: bool) -> tuple[list[_Node], int]:
    """Nodes from `at` to the {{ end }} or {{ else }} that closes them, and where that stands."""
    nodes: list[_Node] = []
    while at < len(tokens):
        kind, value = tokens[at]
        if kind == "text":
            nodes.append(_Node("text", value))
        elif value in ("end", "else"):
            break
        elif _FIELD.match(value):
            nodes.append(_Node("field", value[1:]))
        else:
            node, at = _parse_block(tokens, at, value)
            nodes.append(node)
        at += 1
    if inside and at == len(tokens):
        raise ConfigError("Go template: {{ end }} is missing")
    return nodes, at


def _parse_block(tokens: list[tuple[str, str]], at: int, value: str) -> tuple[_Node, int]:
    word, _, name = value.partition(" ")
    if word not in ("range", "if") or not _FIELD.match(name.strip()):
        raise ConfigError(f"Go template: {{{{ {value} }}}} is not in the part that phiforge writes")
    node = _Node(word, name.strip()[1:])
    node.body, at = _parse(tokens, at + 1, inside=True)
    if tokens[at][1] == "else":
        node.other, at = _parse(tokens, at + 1, inside=True)
        if tokens[at][1] != "end":
            raise ConfigError("Go template: a second {{ else }}")
    return node, at


def _evaluate(nodes: list[_Node], dot: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if node.kind == "text":
            yield node.value
            continue
        if node.value not in dot:
            raise ConfigError(f"Go template: .{node.value} is not among {', '.join('.' + name for name in dot)}")
        value = dot[node.value]
        if node.kind == "field":
            yield str(value)
        elif node.kind == "if":
            yield from _evaluate(node.body if value else node.other, dot)
        elif value:
            for item in value:
                yield from _evaluate(node.body, item)
        else:
            yield from _evaluate(node.other, dot)
