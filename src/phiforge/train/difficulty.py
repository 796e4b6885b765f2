"""How difficult each training row is: one number a row, by which exploitation phases weight what is drawn.

"unigram" costs one pass over the tokens and knows no model: a row of rare tokens is difficult. "loss" asks the model that is about to be
trained; of a model with random weights it says next to nothing, so it is meant for a borrowed one. "column:NAME" is what the data says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from phiforge.core.errors import ConfigError, DataError
from phiforge.train.batches import RowSource

IGNORED = -100
_COLUMN = "column:"
_UNIGRAM_ROWS = 256  # rows counted at once, where no model is run


def difficulties(
    kind: str,
    rows: RowSource,
    n: int,
    *,
    model: nn.Module | None = None,
    vocabulary: int | None = None,
    column: Sequence[float] | np.ndarray | None = None,
    batch: int = 8,
) -> np.ndarray:
    """(n,) float64, greater = more difficult, of rows 0 .. n-1 of `rows`.

    kind: "unigram" = mean surprise (nats) of a row's labels under the counts of all labels of these rows; "loss" = mean loss (nats) of
    `model` over the row's labels, `batch` rows at a time; "column:NAME" = `column`, one value a row. A row without a label has 0.
    The model is left as it was (mode, gradients, random state). vocabulary: number of token ids, where known.
    Raises ConfigError (what the kind needs is missing), DataError (a difficulty is not a finite number; the row is named).
    """
    if kind == "unigram":
        found = _unigram(rows, n, vocabulary)
    elif kind == "loss":
        if model is None:
            raise ConfigError("difficulty=loss needs a model to measure with", fix="difficulty=unigram needs none")
        found = _loss(model, rows, n, max(1, batch))
    elif kind.startswith(_COLUMN) and len(kind) > len(_COLUMN):
        found = _column(kind, column, n)
    else:
        raise ConfigError(f"difficulty={kind!r} must be unigram, loss or column:NAME")
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise DataError(
            f"difficulty={kind}: row {bad[0]} of {n} has {found[bad[0]]} ({bad.size} such rows)",
            fix="every row needs a finite number: mend the column, or use difficulty=unigram",
        )
    return found


def shifted_labels(batch: dict[str, Any]) -> np.ndarray:
    """(B, T) the token that each position should predict, -100 for none: `shift_labels`, or `labels` moved by one as transformers does."""
    if "shift_labels" in batch:
        return np.asarray(batch["shift_labels"])
    labels = np.asarray(batch["labels"])
    return np.concatenate([labels[:, 1:], np.full((len(labels), 1), IGNORED, labels.dtype)], axis=1)


def _unigram(rows: RowSource, n: int, vocabulary: int | None) -> np.ndarray:
    counts = np.zeros(vocabulary or 0, np.int64)
    for first in range(0, n, _UNIGRAM_ROWS):
        labels = shifted_labels(rows.batch(range(first, min(first + _UNIGRAM_ROWS, n))))
        seen = np.bincount(labels[labels != IGNORED], minlength=len(counts))
        seen[: len(counts)] += counts
        counts = seen
    surprise = -np.log(np.maximum(counts, 1) / max(1, counts.sum()))  # (V,) nats; ids that never occur are never looked up
    found = np.zeros(n)
    for first in range(0, n, _UNIGRAM_ROWS):
        labels = shifted_labels(rows.batch(range(first, min(first + _UNIGRAM_ROWS, n))))
        known = labels != IGNORED
        sums = np.where(known, surprise[np.where(known, labels, 0)] if len(surprise) else 0.0, 0.0).sum(axis=1)
        found[first : first + len(labels)] = sums / np.maximum(known.sum(axis=1), 1)
    return found


def _loss(model: nn.Module, rows: RowSource, n: int, batch: int) -> np.ndarray:
    found = np.zeros(n)
    modes = {module: module.training for module in model.modules()}  # not all alike: LoRA and frozen parts keep their own
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            for first in range(0, n, batch):
                found[first : first + batch] = _row_losses(model, rows.batch(range(first, min(first + batch, n))), device)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return found


def _row_losses(model: nn.Module, batch: dict[str, np.ndarray], device: torch.device) -> np.ndarray:
    """(B,) mean loss of each row."""
    if "input_ids" not in batch:
        raise ConfigError("difficulty=loss is of single texts, and these rows are pairs", fix="difficulty=unigram or column:NAME")
    labels = torch.from_numpy(np.ascontiguousarray(shifted_labels(batch))).to(device)
    inputs = {
        name: torch.from_numpy(np.ascontiguousarray(batch[name])).to(device)
        for name in ("input_ids", "position_ids", "attention_mask")
        if name in batch
    }
    # With a cache, transformers does not look at position_ids and the documents of a packed row see each other.
    logits = model(**inputs, use_cache=False).logits  # (B, T, V)
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    known = (labels != IGNORED).sum(dim=1).clamp(min=1)
    return (losses.double().sum(dim=1) / known).cpu().numpy()


def _column(kind: str, column: Sequence[float] | np.ndarray | None, n: int) -> np.ndarray:
    name = kind.removeprefix(_COLUMN)
    if column is None:
        raise ConfigError(f"difficulty={kind}: the data has no column {name!r}", fix="name a column of numbers, or use difficulty=unigram")
    try:
        found = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"difficulty={kind}: the column {name!r} holds something that is not a number") from None
    if found.shape != (n,):
        raise DataError(f"difficulty={kind}: {found.size} values for {n} rows", fix="one number a row")
    return found
