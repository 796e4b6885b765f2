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

    Only a short tail of ids is decoded again at each push: from the last place where the text was whole. A tail that ends in U+FFFD may be
    half a character (at most 4 bytes long), so it waits; text that could be the beginning of a stop text waits too.
    """

    def __init__(self, tokenizer: Decodes, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stops = [text for text in stop if text]
        self.text = ""  # everything decoded, whole characters only; cut before a stop text once one is found
        self.stopped = False
        self._ids: list[int] = []
        self._known = 0  # ids[:known] are already in the text
        self._before = 0  # where the last whole piece began; it is decoded along, for tokenizers that look back
        self._shown = 0

    @property
    def shown(self) -> str:
        """Everything that `push` and `finish` have returned so far."""
        return self.text[: self._shown]

    def push(self, token: int) -> str:
        """Add one id; the new text that may be shown."""
        self._ids.append(token)
        self._decode(final=False)
        return self._show(len(self.text) - self._waiting())

    def finish(self) -> str:
        """Everything still held back (half characters as U+FFFD)."""
        self._decode(final=True)
        return self._show(len(self.text))

    def _decode(self, *, final: bool) -> None:
        if self.stopped or self._known == len(self._ids):
            return
        before = self.tokenizer.decode(self._ids[self._before : self._known]) if self._known else ""
        tail = self.tokenizer.decode(self._ids[self._before :])
        if tail.endswith(_HALF) and not final and len(self._ids) - self._known < 4:
            return
        begin = len(self.text)
        self.text += tail[len(before) :]
        self._before, self._known = self._known, len(self._ids)
        self._look_for_stops(begin)

    def _look_for_stops(self, begin: int) -> None:
        """Cut the text at the earliest stop text that ends in what is new from `begin`."""
        found = [self.text.find(stop, max(0, begin - len(stop) + 1)) for stop in self.stops]
        places = [place for place in found if place >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _waiting(self) -> int:
        """How many characters at the end could be the beginning of a stop text."""
        if self.stopped:
            return 0
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _show(self, end: int) -> str:
        begin, self._shown = self._shown, max(self._shown, min(end, len(self.text)))
        return self.text[begin : self._shown]
