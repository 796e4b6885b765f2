"""Our own engine over a model folder: any architecture that phiforge trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2.sandbox

from phiforge.backends.base import BackendBase, Message, Prompt, as_text
from phiforge.core import console
from phiforge.core.errors import ConfigError, DataError
from phiforge.data.chat import PLAIN, TEMPLATES, encode_chat, template_of
from phiforge.data.tokenizer import Tokenizer
from phiforge.generate.config import SamplingConfig

if TYPE_CHECKING:
    from phiforge.models.thyme.state import ThymeState


class EngineBackend(BackendBase):
    """A model folder (config.json, safetensors, tokenizer) in this process."""

    def __init__(self, folder: Path, *, name: str = "") -> None:
        from phiforge.core.hardware import device
        from phiforge.generate.engine import Engine
        from phiforge.models import decoder

        if not (folder / "config.json").is_file():
            raise DataError(f"{folder}: no model in it (config.json is missing)", fix="give a finished run, or a model folder")
        self.name = name or folder.name
        self.tokenizer = Tokenizer.load(folder)
        try:
            model: Any = decoder.load(folder)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: the model can't be read: {str(error).splitlines()[0]}") from None
        self.engine = Engine(model.to(device()).eval())
        self.memory: ThymeState | None = None  # what a constant-state model has read; every answer goes on from it
        self.stop_ids = _stop_ids(folder, self.tokenizer)
        template = template_of(self.tokenizer)
        self.chats = self.tokenizer.chat_template is not None and template is not PLAIN

    @property
    def context_length(self) -> int | None:
        """The model's own."""
        return self.engine.context_length

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
        """Continue text, or answer through the model's own chat template. What is too long loses its beginning, aloud."""
        ids = self._ids(prompt)
        context = self.engine.context_length
        if context is not None and len(ids) >= context:
            kept = max(1, context - min(sampling.max_new_tokens, context // 2))
            console.warn(f"the text has {len(ids):,} tokens and the model reads {context:,}: only the last {kept:,} are read")
            ids = ids[-kept:]
        text = _Text(self.tokenizer)
        for piece in self.engine.stream(ids, sampling, stop_ids=self.stop_ids, tokenizer=text, state=self.memory):
            if piece.text:
                yield piece.text

    def remember(self, text: str) -> int:
        """Read a text into the memory of a constant-state model, after what is in it already; how many tokens that was.

        Raises ConfigError for a model that has no such memory.
        """
        ids = self._ids(text)
        if ids:
            self.memory = self.engine.read(ids, self.memory)
        return len(ids)

    def save_memory(self, path: Path) -> ThymeState:
        """Write what was read to a file."""
        if self.memory is None:
            raise ConfigError("nothing has been read yet, so there is nothing to save", fix="/read FILE first")
        self.memory.save(path)
        return self.memory

    def load_memory(self, path: Path) -> ThymeState:
        """Remember what `save_memory` wrote, instead of anything read since. Raises DataError, ConfigError (another model's)."""
        from phiforge.models.thyme.state import ThymeState

        self.memory = ThymeState.load(path, self.engine.model)
        return self.memory

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str) or not self.chats:
            ids = self.tokenizer.encode(as_text(prompt)).tolist()
            if self.memory is not None:  # the text goes on; it does not begin
                return ids
            start = [self.tokenizer.bos_id] if self.tokenizer.add_bos else []
            return (start + ids) or [self.tokenizer.bos_id]
        template = template_of(self.tokenizer)
        if template is not None:
            return encode_chat(prompt, self.tokenizer, template, add_generation_prompt=True)[0].tolist()
        return self.tokenizer.encode(_render(self.tokenizer, list(prompt)), specials=True).tolist()


class _Text:
    """The tokenizer as the engine's text stream wants it: special tokens are not text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        return self._tokenizer.decode([token for token in ids if token not in self._special])

    @property
    def _special(self) -> frozenset[int]:
        return frozenset(self._tokenizer.specials.values())


def _stop_ids(folder: Path, tokenizer: Tokenizer) -> set[int]:
    """Where an answer ends: generation_config's eos ids, the tokenizer's eos, and the end of a turn where the template has one."""
    stops = {tokenizer.eos_id}
    file = folder / "generation_config.json"
    if file.is_file():
        given: Any = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        stops |= set(given) if isinstance(given, list) else {given} if isinstance(given, int) else set()
    template = template_of(tokenizer)
    stops |= {tokenizer.specials[text] for text in (template.stops if template else ()) if text in tokenizer.specials}
    return {token for token in stops if token is not None}


def _render(tokenizer: Tokenizer, messages: list[Message]) -> str:
    """A borrowed chat template, in jinja's sandbox: it came with someone's files."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def complain(message: str) -> None:
        raise ConfigError(f"the model's chat template refuses this conversation: {message}")

    environment.globals["raise_exception"] = complain
    tokens = {role: tokenizer.settings.get(role) or "" for role in ("bos_token", "eos_token", "pad_token")}
    try:
        return environment.from_string(tokenizer.chat_template or "").render(messages=messages, add_generation_prompt=True, **tokens)
    except jinja2.TemplateError as error:
        raise DataError(f"the model's chat template can't be rendered: {error}", fix=f"templates of ours: {', '.join(TEMPLATES)}") from None
