"""Ids to text while they arrive: pieces that never cut a character in two, and stop texts that never leak half of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_HALF = "�"  # what a decoder writes for bytes that are not (yet) a character


class Decodes(Protocol):
    """Any tokenizer that turns ids into text."""

    def decode(self, ids: list[int]) -> str: ...


class TextStream:
    """Text of one row as it grows. `push` returns what is safe to show now; `finish` the rest.

    Work and memory a token don't depend on how much came before (`keep=False` also forgets what was returned): only the ids since the last
    place where the text was whole are decoded again. A tail that ends in U+FFFD may be half a character (at most 4 bytes long), so it
    waits; text that could be the beginning of a stop text waits too, and nothing that was returned can be part of one.
    """

    def __init__(self, tokenizer: Decodes, stop: Sequence[str] = (), *, keep: bool = True) -> None:
        self.tokenizer = tokenizer
        self.stops = [text for text in stop if text]
        self.keep = keep
        self.stopped = False
        self._given: list[str] = []  # what was returned, where it is kept
        self._held = ""  # whole characters not returned yet; ends before a stop text once one is found
        self._waiting_ids: list[int] = []
        self._before: list[int] = []  # the last ids that became text: decoded along, for tokenizers that look back

    @property
    def shown(self) -> str:
        """Everything that `push` and `finish` have returned so far."""
        return "".join(self._given)

    @property
    def text(self) -> str:
        """Everything decoded, whole characters only, up to a stop text."""
        return self.shown + self._held

    def push(self, token: int) -> str:
        """Add one id; the new text that may be shown."""
        self._waiting_ids.append(token)
        self._decode(final=False)
        return self._show(len(self._held) - self._waiting())

    def finish(self) -> str:
        """Everything still held back (half characters as U+FFFD)."""
        self._decode(final=True)
        return self._show(len(self._held))

    def _decode(self, *, final: bool) -> None:
        if self.stopped or not self._waiting_ids:
            return
        before = self.tokenizer.decode(self._before) if self._before else ""
        tail = self.tokenizer.decode(self._before + self._waiting_ids)
        if tail.endswith(_HALF) and not final and len(self._waiting_ids) < 4:
            return
        self._held += tail[len(before) :]
        self._before, self._waiting_ids = self._waiting_ids, []
        places = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if places:
            self._held, self.stopped = self._held[: min(places)], True

    def _waiting(self) -> int:
        """How many characters at the end could be the beginning of a stop text."""
        if self.stopped:
            return 0
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _show(self, end: int) -> str:
        piece, self._held = self._held[:end], self._held[end:]
        if self.keep and piece:
            self._given.append(piece)
        return piece
