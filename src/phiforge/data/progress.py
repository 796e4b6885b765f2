"""How far the reading is: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from phiforge.core import console, hardware
from phiforge.data.work import PartMade

_EVERY = 60.0  # seconds between lines where there is no terminal


class Meter:
    """Counts parts; a context manager. total: bytes on disk, 0 where that isn't known."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
        self._what, self._total, self._say = what, total, say
        self._stack = ExitStack()
        self._began = self._told = time.monotonic()
        self._read = self._found = self._documents = self._bytes = 0

    def __enter__(self) -> Meter:
        self._bar = self._stack.enter_context(console.progress(self._what, self._total or None))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._found:
            self._say(f"{hardware.size(self._found)} of text were there from before")

    def add(self, on_disk: int, made: PartMade) -> None:
        """A part is there: made now, or found."""
        self._read += on_disk
        self._documents += made.documents
        if made.found:
            self._found += made.bytes
        else:
            self._bytes += made.bytes
        now = time.monotonic()
        rate = self._bytes / max(1e-3, now - self._began)
        shown = {"documents": f"{self._documents:,}", "text": hardware.size(self._bytes + self._found), "at": f"{hardware.size(rate)}/s"}
        self._bar.set(self._read, **shown)
        if not console.console.is_terminal and now - self._told >= _EVERY:
            self._told = now
            self._say(f"{self._what}: " + ", ".join(f"{name} {value}" for name, value in shown.items()) + self._left(now))

    def _left(self, now: float) -> str:
        if not self._total or not self._read:
            return ""
        seconds = (now - self._began) * max(0, self._total - self._read) / self._read
        return f", {seconds / 60:.0f} minutes left" if seconds >= 90 else f", {seconds:.0f} seconds left"
