"""Answers written beforehand, for tests and demonstrations. What it was asked is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from phiforge.backends.base import BackendBase, Prompt
from phiforge.core.errors import PhiforgeError
from phiforge.generate.config import SamplingConfig


class Scripted(BackendBase):
    """Gives its answers in order; asking once more is an error."""

    name = "scripted"
    chats = True
    context_length = None

    def __init__(self, answers: Iterable[str]) -> None:
        self._answers = iter(list(answers))
        self.asked: list[Prompt] = []

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
        """The next answer, word by word."""
        self.asked.append(prompt if isinstance(prompt, str) else list(prompt))
        answer = next(self._answers, None)
        if answer is None:
            raise PhiforgeError("the script has no answer left")
        for index, word in enumerate(answer.split(" ")):
            yield word if index == 0 else f" {word}"
