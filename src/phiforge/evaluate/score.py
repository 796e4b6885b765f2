"""A score and its standard error. Every figure that evaluation reports is one of these.

Neighbouring tokens share an author and a subject, so they are not independent draws: a standard error over tokens is too small,
often by a factor of two or more. Errors here are clustered: sums are taken over whole documents (or, when there are too few documents
to judge by, over long blocks of running text), and the spread of those sums is what counts (Liang and Zeger 1986; Miller 2024, "Adding
Error Bars to Evals", section 2.2). Block errors say how the figure would move on *more of the same text*, not on other documents:
the `cluster` field tells which of the two was used.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

MIN_DOCUMENTS = 10  # below this many documents the spread between them says little: blocks are used
BLOCKS = 50  # blocks aimed at when there are few documents
MIN_BLOCK = 200  # a block shorter than this is not independent of its neighbour


@dataclass(frozen=True, kw_only=True)
class Score:
    """`value` with its `standard_error` (None where it cannot be estimated) over `n` observations (tokens, or bytes for bits per byte).

    `clusters` is how many independent pieces the error was estimated from, `cluster` what they are: "document" or "block".
    """

    value: float
    standard_error: float | None
    n: int
    clusters: int = 0
    cluster: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file. NaN and infinity, which JSON has not, become null."""
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        """The inverse of `to_json`; unknown keys are ignored, a null value is NaN."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        if known.get("value") is None:
            known["value"] = math.nan
        return cls(**known)

    def interval(self, z: float = 1.959963984540054) -> tuple[float, float] | None:
        """Normal interval value -+ z standard errors; the default z gives 95 %. None when the error is unknown.

        >>> Score(value=2.0, standard_error=0.5, n=100).interval(z=2)
        (1.0, 3.0)
        """
        if self.standard_error is None:
            return None
        return self.value - z * self.standard_error, self.value + z * self.standard_error

    def __str__(self) -> str:
        if self.standard_error is None:
            return f"{self.value:.4g}"
        digits = 3 if self.standard_error <= 0 else min(6, max(1, 1 - math.floor(math.log10(self.standard_error))))
        return f"{self.value:.{digits}f} ± {self.standard_error:.{digits}f}"


def clusters_of(documents: np.ndarray) -> tuple[np.ndarray, str]:
    """Which independent piece each observation belongs to: its document, or a block of it where documents are few.

    Args:
        documents: (N,) document number of each observation, non-decreasing, in reading order.
    Returns:
        (N,) cluster numbers counted from 0 without gaps, non-decreasing, and what the clusters are ("document" or "block").
        Blocks never span two documents.
    """
    if len(documents) == 0:
        return np.zeros(0, np.int64), "document"
    is_first = np.empty(len(documents), bool)
    is_first[0] = True
    np.not_equal(documents[1:], documents[:-1], out=is_first[1:])
    number = np.cumsum(is_first, dtype=np.int64) - 1
    if number[-1] + 1 >= MIN_DOCUMENTS:
        return number, "document"
    first = np.flatnonzero(is_first)
    length = np.diff(np.append(first, len(documents)))
    size = max(MIN_BLOCK, math.ceil(len(documents) / BLOCKS))
    pieces = np.maximum(1, length // size)  # blocks of each document; the remainder is spread over them
    within = np.arange(len(documents)) - first[number]
    block = within * pieces[number] // length[number]
    return np.concatenate(([0], np.cumsum(pieces)))[number] + block, "block"


def ratio_score(top: np.ndarray, bottom: np.ndarray, documents: np.ndarray, *, n: int | None = None) -> Score:
    """sum(top) / sum(bottom) with a clustered standard error (the linearised ratio estimator, Cochran 1977, section 6.4).

    Args:
        top, bottom: (N,) per observation, for example bits and bytes.
        documents: (N,) document numbers, non-decreasing.
        n: what to report as the number of observations; N unless given.
    """
    count = len(top) if n is None else n
    cluster, kind = clusters_of(documents)
    if count == 0 or len(cluster) == 0:
        return Score(value=math.nan, standard_error=None, n=0)
    groups = int(cluster[-1]) + 1
    tops = np.bincount(cluster, weights=top, minlength=groups)
    bottoms = np.bincount(cluster, weights=bottom, minlength=groups)
    total = float(bottoms.sum())
    value = float(tops.sum()) / total if total else math.nan
    error = None
    if groups > 1 and total:
        residual = tops - value * bottoms
        error = math.sqrt(groups / (groups - 1) * float(residual @ residual)) / total
    return Score(value=value, standard_error=error, n=count, clusters=groups, cluster=kind)


def exp_score(score: Score, *, base: float = math.e) -> Score:
    """base ** score, the error carried over by the first derivative (delta method): how a mean loss becomes a perplexity."""
    value = base**score.value if score.value * math.log(base) < 700 else math.inf
    error = None if score.standard_error is None else score.standard_error * value * math.log(base)
    return Score(value=value, standard_error=error, n=score.n, clusters=score.clusters, cluster=score.cluster)
