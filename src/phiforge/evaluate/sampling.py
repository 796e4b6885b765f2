"""A bounded, deterministic part of a text that may be far larger than memory, spread evenly over all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

_WHOLE = 50  # a document below cap/50 is taken whole or not at all


@dataclass(frozen=True)
class Sample:
    """Documents as UTF-8 bytes, and what share of the whole they are."""

    documents: list[bytes]
    bytes_taken: int
    bytes_total: int

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return self.bytes_taken == self.bytes_total

    @property
    def note(self) -> str:
        """One clause for a person; empty when nothing was left out."""
        if self.complete:
            return ""
        return f"counted on {self.bytes_taken / 1e6:.1f} of {self.bytes_total / 1e6:.1f} MB, taken evenly from all of the text"


def sample_text(read: Callable[[], Iterable[str]], cap: int) -> Sample:
    """About `cap` bytes of the texts that `read()` yields (it is called twice when there are more than `cap` bytes).

    Small documents are kept whole, evenly spaced by the bytes that went before; a large one gives its first part
    (cut between bytes: who counts bytes does not mind).
    The same text and cap give the same sample.
    """
    kept: list[bytes] = []
    total = 0
    for text in read():
        data = text.encode("utf-8")
        total += len(data)
        if total <= cap:
            kept.append(data)
    if total <= cap:
        return Sample(kept, total, total)
    kept.clear()
    share, seen, taken = cap / total, 0, 0
    for text in read():
        data = text.encode("utf-8")
        seen += len(data)
        if len(data) * _WHOLE > cap:
            data = data[: min(int(len(data) * share), cap - taken)]
        elif taken + len(data) / 2 > share * seen or taken + len(data) > cap:
            continue
        kept.append(data)
        taken += len(data)
    return Sample(kept, taken, total)
