"""How a text longer than the model's window is cut, so that each token is scored once and with context. Numbers only, no model.

A document of m text tokens is stored as [bos] t1 ... tm [eos]. The model reads positions 0 .. m-1 and is asked for t1 .. tm.
With a window of T positions and a stride S, the first window is asked for all of its T tokens; each later one moves on by S and is asked
for its last S only, so every token but the first T has at least T - S tokens before it. The last window is pulled back to stay full.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Windows:
    """W windows over one array of tokens, in reading order. All fields are (W,) int64."""

    start: np.ndarray  # first input position in the array of tokens
    length: np.ndarray  # input positions
    skip: np.ndarray  # how many of them, from the left, are context only: the predictions from the rest are scored
    document: np.ndarray  # document number

    def __len__(self) -> int:
        return len(self.start)

    @property
    def scored(self) -> np.ndarray:
        """(W,) tokens that each window scores."""
        return self.length - self.skip

    def take(self, index: np.ndarray) -> Windows:
        """The windows at these places."""
        return Windows(self.start[index], self.length[index], self.skip[index], self.document[index])


def cut(starts: np.ndarray, n_tokens: int, context_length: int, stride: int | None = None) -> Windows:
    """Windows over every document of a packed text.

    Args:
        starts: (D,) where each document's bos stands. n_tokens: length of the packed text.
        context_length: T, positions the model reads at once.
        stride: S, 1..T; half of T unless given. T reads each token once, which is quickest and gives the least context.
    Raises:
        ValueError: a length or stride outside its range.
    """
    stride = max(1, context_length // 2) if stride is None else stride
    if context_length < 1 or not 1 <= stride <= context_length:
        raise ValueError(f"stride {stride} must lie in 1..context_length ({context_length})")
    starts = np.asarray(starts, np.int64)
    ends = np.append(starts[1:], n_tokens)
    text = ends - starts - 2  # without bos and eos
    has_text = np.flatnonzero(text > 0)
    m = text[has_text]
    more = np.maximum(0, -(-(m - context_length) // stride))  # windows after the first
    count = 1 + more
    owner = np.repeat(np.arange(len(has_text)), count)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    m_of = m[owner]
    target_low = np.where(step == 0, 0, context_length + (step - 1) * stride)  # first scored prediction, counted in the document
    target_high = np.minimum(m_of, context_length + step * stride)
    first = np.maximum(0, target_high - context_length)
    return Windows(
        start=starts[has_text][owner] + first,
        length=target_high - first,
        skip=target_low - first,
        document=has_text[owner],
    )


def evenly(windows: Windows, limit_tokens: int) -> Windows:
    """At most `limit_tokens` scored tokens: whole windows, evenly spaced over all (at least one)."""
    total = int(windows.scored.sum())
    if total <= limit_tokens or len(windows) <= 1:
        return windows
    keep = max(1, int(len(windows) * limit_tokens / total))
    while True:
        chosen = windows.take((np.arange(keep) * len(windows)) // keep)
        if keep == 1 or int(chosen.scored.sum()) <= limit_tokens:
            return chosen
        keep -= max(1, keep // 50)
