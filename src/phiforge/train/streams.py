"""What a run draws from and on, as digests: two runs that share one had the same first weights, order of data, text or tokenizer.

A comparison of paired runs reads them to say what its arms share and what they don't.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import nn

from phiforge.core.runs import RunWriter
from phiforge.train.batches import Order, TrainStream
from phiforge.train.config import TrainConfig

ORDER_ROWS, TEXT_ROWS = 4096, 8  # how much of the order is digested, and how many of its first rows with their tokens


def record_streams(
    config: TrainConfig,
    model: nn.Module,
    stream: TrainStream,
    run: RunWriter,
    *,
    train_text: str,
    validation_text: str | None,
    tokenizer: str,
) -> dict[str, Any]:
    """Decide (once, before training) `streams`: initialisation, data_order, dropout, train_text, validation_text, tokenizer.

    train_text, validation_text, tokenizer: digests of what they say. dropout: the seed of the generator that it draws from.
    """
    return run.decide(
        "streams",
        lambda: {
            "initialisation": weights_digest(model),
            "data_order": order_digest(stream),
            "dropout": config.seed if config.dropout_seed is None else config.dropout_seed,
            "train_text": train_text,
            "validation_text": validation_text,
            "tokenizer": tokenizer,
        },
        "digests of what a paired run may share",
    )


def weights_digest(model: nn.Module) -> str:
    """sha256 of all weights and buffers, by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def order_digest(stream: TrainStream) -> str:
    """sha256 of the uniform order of the first rows of the run, and of the tokens of its very first ones (a shifted row is another row).

    What a phase draws by difficulty is not in it: that follows from settings, not from a stream of its own.
    """
    order = Order(stream.n, stream.order.seed)
    places = [order[g] for g in range(ORDER_ROWS)]
    first = [index for epoch, index in places[:TEXT_ROWS] if epoch == 0]
    found = hashlib.sha256(np.asarray(places, np.int64).tobytes())
    found.update(np.ascontiguousarray(stream.rows_of(0).batch(first)["input_ids"]).tobytes())
    return found.hexdigest()


def arrays_digest(arrays: Any) -> str:
    """sha256 of arrays of integers, one after the other, with their lengths."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, np.int64).tobytes())
    return found.hexdigest()
