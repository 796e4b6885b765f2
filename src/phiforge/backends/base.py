"""What a backend is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from phiforge.data.chat import Message as Message
from phiforge.generate.config import SamplingConfig

Prompt = str | Sequence[Message]  # text to continue, or a conversation to answer


class Backend(Protocol):
    """Something that continues text or answers a conversation.

    `chats` says whether it answers conversations; a base model only continues text, and a conversation given to one is continued as text.
    """

    name: str
    chats: bool

    @property
    def context_length(self) -> int | None:
        """Most tokens in one exchange; None where it isn't known."""

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
        """The answer, piece by piece, in whole characters."""

    def complete(self, prompt: Prompt, sampling: SamplingConfig) -> str:
        """The whole answer."""

    def close(self) -> None:
        """Let go of what it holds."""


class BackendBase:
    """What backends share: `complete` from `stream`, and use in a `with`."""

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
        """The answer, piece by piece."""
        raise TypeError(f"{type(self).__name__} does not stream")

    def complete(self, prompt: Prompt, sampling: SamplingConfig) -> str:
        """The whole answer."""
        return "".join(self.stream(prompt, sampling))

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def as_text(prompt: Prompt) -> str:
    """A prompt as plain text: a conversation's contents, one after another."""
    return prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
