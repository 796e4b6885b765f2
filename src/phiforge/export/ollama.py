"""The Modelfile: how Ollama is told to run an exported model. https://github.com/ollama/ollama/blob/main/docs/modelfile.md

Ollama renders a conversation with a Go template and puts the beginning-of-text token before it when the GGUF file says so;
so the Go template is the chat template without that token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phiforge.core.atomic import write_text
from phiforge.core.errors import ConfigError
from phiforge.data.chat import CHATML, PLAIN, Template
from phiforge.export.gotemplate import render
from phiforge.export.server import SAMPLING

# The same conversation as data/chat.py's templates give with add_generation_prompt, in Go.
GO_TEMPLATES: dict[str, str] = {
    "plain": "{{ range .Messages }}{{ .Content }}{{ end }}",
    "chatml": "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
}
_BLOCK = re.compile(r'^(TEMPLATE|SYSTEM) """(.*?)"""$', re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}(:[a-z0-9][a-z0-9._-]{0,62})?\Z")


def template_for(jinja: str | None) -> Template | None:
    """The template of ours that a chat template is, letter for letter; `plain` where a model has none; None where it is another."""
    if jinja is None:
        return PLAIN
    return next((template for template in (PLAIN, CHATML) if template.jinja == jinja), None)


def modelfile(gguf: str, template: Template, *, stops: Sequence[str], parameters: Mapping[str, float] | None = None) -> str:
    """Text of a Modelfile that runs the file `gguf` (a name beside it).

    >>> print(modelfile("model-F16.gguf", PLAIN, stops=["<|eos|>"]).splitlines()[0])
    FROM ./model-F16.gguf
    """
    if Path(gguf).name != gguf or any(character in gguf for character in '\n"'):
        raise ConfigError(f"{gguf!r} is not a plain file name")
    if any(character in stop for stop in stops for character in '\n"'):
        raise ConfigError(f"a stop with a quote or a line end can't be written in a Modelfile: {list(stops)}")
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{GO_TEMPLATES[template.name]}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += [f"PARAMETER {name} {value:g}" for name, value in {**SAMPLING, **(parameters or {})}.items()]
    return "\n".join(lines) + "\n"


def write_modelfile(path: Path, gguf: Path, template: Template, *, stops: Sequence[str]) -> None:
    """Write a Modelfile beside the GGUF file."""
    write_text(path, modelfile(gguf.name, template, stops=stops))


def stops_of(template: Template, tokens: Sequence[str], eos_id: int | None, eot_id: int | None) -> list[str]:
    """The strings that end an answer: the template's own where the vocabulary has them, and the tokens named as ends."""
    known = set(tokens)
    named = [tokens[index] for index in (eot_id, eos_id) if index is not None]
    return list(dict.fromkeys([stop for stop in template.stops if stop in known] + named))


def parse_modelfile(text: str) -> dict[str, list[str]]:
    """Instruction -> its arguments in order, quotes taken off. For checking what was written."""
    found: dict[str, list[str]] = {}
    for name, argument in _instructions(text):
        found.setdefault(name, []).append(argument)
    return found


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    for match in _BLOCK.finditer(text):
        yield from _plain_lines(text[at : match.start()])
        yield match.group(1), match.group(2)
        at = match.end()
    yield from _plain_lines(text[at:])


def _plain_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, argument = line.partition(" ")
            yield name, argument


def render_modelfile(text: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The conversation as Ollama will render it from this Modelfile, before the beginning-of-text token."""
    templates = parse_modelfile(text).get("TEMPLATE")
    if not templates:
        raise ConfigError("the Modelfile has no TEMPLATE")
    return render(templates[-1], {"Messages": [{"Role": m["role"], "Content": m["content"]} for m in messages]})


def check_name(name: str) -> str:
    """A name that `ollama create` takes. Raises ConfigError."""
    if not _NAME.match(name):
        raise ConfigError(f"{name!r} is no name for Ollama", fix="small letters, digits, dots, dashes; for example codette or codette:1m")
    return name


def next_commands(name: str) -> list[str]:
    """What to type next."""
    return [f"ollama create {name} -f Modelfile", f"ollama run {name}"]
