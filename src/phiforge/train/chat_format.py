"""How a model's own tokenizer writes a conversation, which of its tokens are learnt, and where an answer ends.

A tokenizer of ours takes the chatml template, whose spans are known. A borrowed one keeps the chat template it came with: it is rendered
up to each answer and after it, and the difference is the answer. One that has neither gets chatml and the tokens that it lacks for it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from phiforge.core.errors import ConfigError, DataError
from phiforge.data.chat import CHATML, Message, encode_chat, template_of
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.vocabulary import PAD, SPECIAL_TOKENS, TURN_END, TURN_START

_WAY_OUT = "chat_template=chatml"
_SPECIAL_SETTINGS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """A tokenizer that carries its chat template, and how it is used.

    added: special tokens that the model has no trained row for. spans: the template is our chatml, written by its spans.
    turn_end: id of the token that ends an answer. stops: ids that generation stops at, that one first.
    """

    tokenizer: Tokenizer
    name: str
    added: dict[str, int]
    spans: bool
    turn_end: int

    @property
    def stops(self) -> list[int]:
        return list(dict.fromkeys([self.turn_end, self.tokenizer.eos_id]))

    def encode(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """(ids (T,) int64, trained (T,) bool). The ids before the first trained one are what the model is given to answer."""
        if self.spans:
            return encode_chat(messages, self.tokenizer, CHATML)
        return _encode_by_jinja(messages, self.tokenizer)


def chat_format(tokenizer: Tokenizer, chat_template: str = "auto") -> ChatFormat:
    """The format for a model's tokenizer. chat_template: "auto" or "chatml" (finetune_config says what they mean). Raises ConfigError."""
    has_ours = all(text in tokenizer.specials for text in SPECIAL_TOKENS)
    if has_ours and (template_of(tokenizer) is not None or not tokenizer.chat_template):
        ours = _with_settings(tokenizer, {"chat_template": CHATML.jinja})
        return ChatFormat(tokenizer=ours, name="chatml", added={}, spans=True, turn_end=ours.specials[TURN_END])
    if tokenizer.chat_template and chat_template == "auto":
        end = _turn_end(tokenizer)
        kept = _with_settings(tokenizer, {"eot_token": next(text for text, i in tokenizer.specials.items() if i == end)})
        return ChatFormat(tokenizer=kept, name="the tokenizer's own", added={}, spans=False, turn_end=end)
    dressed, added = _with_chatml(tokenizer)
    return ChatFormat(tokenizer=dressed, name="chatml", added=added, spans=False, turn_end=dressed.specials[TURN_END])


def _with_settings(tokenizer: Tokenizer, settings: dict[str, Any], spec: dict[str, Any] | None = None) -> Tokenizer:
    return Tokenizer(spec or tokenizer.spec, {**tokenizer.settings, **settings})


def _with_chatml(tokenizer: Tokenizer) -> tuple[Tokenizer, dict[str, int]]:
    """The tokenizer with chatml and the tokens that this needs; the ids of the new ones."""
    spec = copy.deepcopy(tokenizer.spec)
    missing = [text for text in (PAD, TURN_START, TURN_END) if text not in tokenizer.specials]
    if isinstance(tokenizer.settings.get("pad_token"), str | dict) and PAD in missing:
        missing.remove(PAD)  # it has one of its own
    added = {text: tokenizer.vocab_size + number for number, text in enumerate(missing)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"] = [*spec.get("added_tokens", []), *({"id": i, "content": text, **flags} for text, i in added.items())]
    more = [token for token in list(tokenizer.settings.get("additional_special_tokens") or []) if token not in (TURN_START, TURN_END)]
    settings: dict[str, Any] = {
        "chat_template": CHATML.jinja,
        "eot_token": TURN_END,
        "additional_special_tokens": [*more, TURN_START, TURN_END],
    }
    for name, token in (("eos_token", tokenizer.eos_id), ("pad_token", added.get(PAD))):
        if token is not None and not tokenizer.settings.get(name):
            settings[name] = PAD if name == "pad_token" else tokenizer.decode([token], specials=True)
    return _with_settings(tokenizer, settings, spec), added


# ---- templates that come with a tokenizer


def render(messages: Sequence[Message], tokenizer: Tokenizer, *, add_generation_prompt: bool = False) -> str:
    """What the tokenizer's own chat template makes of the messages, as transformers renders it. Raises DataError when it refuses them."""
    tokens = {name: tokenizer.settings.get(name) for name in _SPECIAL_SETTINGS}
    texts = {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items() if value}
    try:
        rendered = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=tokenizer.chat_template or "",
            add_generation_prompt=add_generation_prompt,
            **texts,
        )[0]
    except jinja2.TemplateError as error:
        raise DataError(f"the tokenizer's chat template refuses the conversation ({error})", fix=_WAY_OUT) from None
    return str(rendered[0])


def _encode_by_jinja(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Render up to each answer and after it; what is between is the answer and the token that ends it."""
    done = ""
    ids: list[np.ndarray] = []
    trained: list[np.ndarray] = []
    since: list[str] = []  # what the messages since the last answer say

    def add(text: str, contents: list[str], learnt: bool) -> None:
        part = _encode_piece(text, contents, tokenizer)
        ids.append(part)
        trained.append(np.full(len(part), learnt))

    for number, message in enumerate(messages):
        content = message["content"]
        if message["role"] != "assistant":
            since.append(content)
            continue
        before = render(messages[:number], tokenizer, add_generation_prompt=True) if number else _opening(messages, tokenizer)
        after = render(messages[: number + 1], tokenizer)
        if not (before.startswith(done) and after.startswith(before)):
            raise ConfigError("the tokenizer's chat template rewrites earlier turns, so that no answer can be told apart", fix=_WAY_OUT)
        add(before[len(done) :], since, False)
        answer = after[len(before) :]
        end = _answer_end(answer, content, tokenizer)
        add(answer[:end], [content, content.strip()], True)
        if answer[end:]:
            add(answer[end:], [], False)
        done, since = after, []
    if not ids:
        return np.empty(0, np.int64), np.empty(0, bool)
    return np.concatenate(ids).astype(np.int64), np.concatenate(trained)


def _opening(messages: Sequence[Message], tokenizer: Tokenizer) -> str:
    """What stands before an answer that nothing was said before: many templates can't render no messages at all."""
    whole = render(messages[:1], tokenizer)
    at = whole.find(messages[0]["content"])
    return whole[: max(at, 0)]


def _answer_end(answer: str, content: str, tokenizer: Tokenizer) -> int:
    """Where in `answer` the first special token behind its content ends. Raises ConfigError when there is none."""
    said = next((text for text in (content, content.strip()) if text in answer), None)
    if said is not None:
        start = answer.index(said) + len(said)
        pattern = "|".join(re.escape(text) for text in sorted(tokenizer.specials, key=len, reverse=True))
        mark = re.compile(pattern).search(answer, start)
        if mark is not None:
            return mark.end()
    raise ConfigError(
        "the tokenizer's chat template ends no answer with a special token, so the model could not learn to stop", fix=_WAY_OUT
    )


def _encode_piece(text: str, contents: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """Ids of rendered text. What looks like a special token inside a message stays text."""
    parts: list[np.ndarray] = []
    for content in contents:
        if content and any(special in content for special in tokenizer.specials):
            before, found, rest = text.partition(content)
            if found:
                parts += [tokenizer.encode(before, specials=True), tokenizer.encode(content)]
                text = rest
    return np.concatenate([*parts, tokenizer.encode(text, specials=True)]).astype(np.int64)


def _turn_end(tokenizer: Tokenizer) -> int:
    """The id that ends an answer in the tokenizer's own template."""
    ids, trained = _encode_by_jinja([Message(role="user", content="A"), Message(role="assistant", content="B")], tokenizer)
    return int(ids[trained][-1])
