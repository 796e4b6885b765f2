"""Chat templates: one object gives the text, the jinja for transformers and llama.cpp, and the spans that are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from phiforge.core.errors import ConfigError, DataError
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.vocabulary import BOS, EOS, TURN_END, TURN_START

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """A turn: role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a rendered chat. control: one special token, by its text. trained: the model learns to write it."""

    text: str
    control: bool = False
    trained: bool = False


@dataclass(frozen=True)
class Template:
    """How messages become text. `jinja` renders the same in transformers and in llama.cpp; `stops` end an answer."""

    name: Literal["plain", "chatml"]
    jinja: str
    stops: tuple[str, ...]

    def spans(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[Span]:
        """The chat in pieces. What the assistant says is trained, with the token that ends it.

        The text up to the assistant's first word is one piece, as it is when the model is asked to answer.
        """
        spans = [Span(BOS, control=True)]
        for message in messages:
            learnt = message["role"] == "assistant"
            if self.name == "plain":
                spans += [Span(message["content"], trained=learnt)]
            elif learnt:
                spans += [Span(TURN_START, control=True), Span("assistant\n"), Span(message["content"], trained=True)]
            else:
                spans += [Span(TURN_START, control=True), Span(f"{message['role']}\n{message['content']}")]
            if self.name == "chatml":
                spans += [Span(TURN_END, control=True, trained=learnt), Span("\n")]
        if self.name == "plain" and not add_generation_prompt:
            spans.append(Span(EOS, control=True, trained=bool(messages) and messages[-1]["role"] == "assistant"))
        if self.name == "chatml" and add_generation_prompt:
            spans += [Span(TURN_START, control=True), Span("assistant\n")]
        return [span for span in spans if span.text]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text that `jinja` renders (the mark that ends a plain document belongs to training and is not in it).

        >>> CHATML.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
        '<|bos|><|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        return "".join(span.text for span in self.spans(messages, add_generation_prompt) if not (span.control and span.text == EOS))


PLAIN = Template(
    "plain",
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}",
    stops=(EOS,),
)
CHATML = Template(
    "chatml",
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    stops=(TURN_END, EOS),
)
TEMPLATES: dict[str, Template] = {template.name: template for template in (PLAIN, CHATML)}


def template_of(tokenizer: Tokenizer) -> Template | None:
    """The template whose jinja a tokenizer carries; None where it carries none of ours."""
    return next((template for template in TEMPLATES.values() if template.jinja == tokenizer.chat_template), None)


def get_template(name: str) -> Template:
    """The template called `name`. Raises ConfigError."""
    if name not in TEMPLATES:
        raise ConfigError(f"template {name!r} is unknown", fix=f"one of: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def encode_chat(
    messages: Sequence[Message], tokenizer: Tokenizer, template: Template = CHATML, *, add_generation_prompt: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(ids (T,) int64, mask (T,) bool): mask is true on what the assistant says and on the token that ends its turn.

    Special tokens written inside a message stay text. In chatml, where none is written and no answer begins with a blank, the ids are
    those of `tokenizer.encode(template.render(messages), specials=True)`. Raises DataError when the tokenizer lacks the template's tokens.
    """
    ids, mask = [], []
    for span in template.spans(messages, add_generation_prompt):
        part = np.array([_control_id(span.text, tokenizer, template)]) if span.control else tokenizer.encode(span.text)
        ids.append(part)
        mask.append(np.full(len(part), span.trained))
    return np.concatenate(ids).astype(np.int64), np.concatenate(mask)


def _control_id(text: str, tokenizer: Tokenizer, template: Template) -> int:
    if text in tokenizer.specials:
        return tokenizer.specials[text]
    if text in (BOS, EOS):
        return tokenizer.bos_id if text == BOS else tokenizer.eos_id
    raise DataError(f"the tokenizer has no {text}, which the {template.name} template needs", fix="template=plain, or a tokenizer with it")
