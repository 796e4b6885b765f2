"""llama.cpp in this process, over a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phiforge.backends.base import BackendBase, Prompt, as_text
from phiforge.data.chat import PLAIN
from phiforge.export.server import LlamaCpp
from phiforge.generate.config import SamplingConfig


class LlamaCppBackend(BackendBase):
    """A GGUF file, loaded until `close()`."""

    def __init__(self, path: Path, *, context_length: int = 0) -> None:
        self._server = LlamaCpp(path, context_length=context_length, web_page=False)
        self.name = f"{path.name} in llama.cpp"
        about = self._server.get("/props")
        self._context = int(about.get("default_generation_settings", {}).get("n_ctx", 0)) or None
        template = str(about.get("chat_template", ""))
        self.chats = bool(template) and template.strip() != PLAIN.jinja.strip()

    @property
    def context_length(self) -> int | None:
        """As llama.cpp opened the file."""
        return self._context

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
        """Continue text, or answer through the file's chat template."""
        options = _options(sampling)
        if isinstance(prompt, str) or not self.chats:
            return self._server.stream(as_text(prompt), **options)
        return self._server.stream_chat([dict(message) for message in prompt], **options)

    def close(self) -> None:
        """Stop the server and free the model."""
        self._server.close()


def _options(sampling: SamplingConfig) -> dict[str, Any]:
    """Our settings under llama.cpp's names."""
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
    }
