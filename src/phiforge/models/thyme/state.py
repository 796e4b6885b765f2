"""A text read so far, as a value: saved in a small file, restored, forked, continued from.

    state = engine.read(tokenizer.encode(book))
    state.save("book.state"); state = ThymeState.load("book.state", model)
    engine.generate([question], sampling, state=state)

What is remembered is one tensor of 2,304 bytes. Beside it stand the number of tokens read and the id of the newest, which the model is
given when it goes on: the tensor is the memory of everything before that token, so that nothing has to be read twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from phiforge.core.atomic import write_bytes
from phiforge.core.errors import ConfigError, DataError
from phiforge.models.thyme.configuration import ThymeCache

FORMAT = "phiforge thyme state 1"


def fingerprint(model: nn.Module) -> str:
    """sha256 of a model's weights, names and shapes: the same for the same weights wherever and however they are held in float32."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ThymeState:
    """`memory` (state layers, rows, 24) float32 of `seen - 1` tokens; `last`, the id of the newest token; the `model` it belongs to
    (`fingerprint`). Nothing that is given a state changes it.
    """

    memory: Tensor
    seen: int
    last: int
    model: str

    @property
    def nbytes(self) -> int:
        """Bytes of the memory, counted from the tensor."""
        return self.memory.numel() * self.memory.element_size()

    def fork(self) -> ThymeState:
        """A state of its own that goes another way from here."""
        return replace(self, memory=self.memory.clone())

    def cache(self, rows: int = 1) -> ThymeCache:
        """The memory as `past_key_values` for so many rows; `last` is the next token to give them."""
        return ThymeCache(self.memory.expand(rows, *self.memory.shape).clone(), self.seen - 1)

    def save(self, path: Path | str) -> None:
        """Write it as safetensors, at once or not at all."""
        facts = {"format": FORMAT, "model": self.model, "seen": str(self.seen), "last": str(self.last)}
        write_bytes(Path(path), save({"memory": self.memory.detach().cpu().contiguous()}, facts))

    @classmethod
    def load(cls, path: Path | str, model: nn.Module | None = None) -> ThymeState:
        """Read it back; with `model`, only if it is that very model's. Raises DataError (no such state), ConfigError (another model's)."""
        try:
            with safe_open(str(path), framework="pt") as file:
                facts = file.metadata() or {}
                if facts.get("format") != FORMAT:
                    raise DataError(f"{path}: is no saved state ({FORMAT!r} is expected)", fix="give a file that /save or save() wrote")
                memory = file.get_tensor("memory")
                state = cls(memory, int(facts["seen"]), int(facts["last"]), facts["model"])
        except OSError as error:
            raise DataError(f"{path}: can't be read: {error.strerror or error}") from None
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{path}: is damaged or no saved state: {error}", fix="give a file that /save or save() wrote") from None
        if memory.dtype != torch.float32 or memory.ndim != 3 or not memory.isfinite().all() or state.seen < 1 or state.last < 0:
            raise DataError(f"{path}: is damaged: its numbers can't be a model's state", fix="read the text again")
        if model is not None:
            state.check(fingerprint(model), str(path))
        return state

    def check(self, model: str, name: str = "the state") -> None:
        """Refuse another model's state. `model` is a fingerprint."""
        if self.model != model:
            raise ConfigError(
                f"{name}: belongs to another model (weights {self.model[:12]}, these are {model[:12]})",
                fix="load the model that read the text, or read the text again",
            )
