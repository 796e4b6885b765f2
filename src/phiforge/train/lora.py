"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: small trainable matrices beside frozen weights, merged into them at the end.

Everything downstream then sees an ordinary model; the adapter alone is kept beside it. While it trains, checkpoints hold the adapter only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phiforge.core.atomic import atomic_dir
from phiforge.core.errors import ConfigError
from phiforge.core.seeds import derive
from phiforge.train.finetune_config import LoraSettings

ADAPTER = "adapter"


def adapt(model: Any, settings: LoraSettings, *, new_tokens: Sequence[int], seed: int) -> Any:
    """`model` as a peft model: its weights frozen, LoRA beside the chosen linear layers, and the rows of `new_tokens` trainable.

    B starts at zero, so nothing changes before the first step; A is drawn from the seed alone. Raises ConfigError for layers that the
    model doesn't have.
    """
    from peft import LoraConfig, get_peft_model

    rows = {_name_of(model, module): list(new_tokens) for module in _tables(model)} if new_tokens else None
    wanted = settings.target_modules
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules="all-linear" if wanted is None else list(wanted),
        trainable_token_indices=rows,
        fan_in_fan_out=getattr(model.config, "model_type", "") == "gpt2",  # its layers are stored transposed
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]), _peft():
            torch.manual_seed(derive(seed, "lora"))
            return get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}
        )
        if wanted is None or "arget modules" not in str(error):
            raise
        names = ", ".join(linear)
        raise ConfigError(
            f"lora.target_modules={list(wanted)}: the model has no such layer", fix=f"its linear layers are {names}"
        ) from None


def is_adapted(model: Any) -> bool:
    """Whether `model` carries adapters of peft."""
    return bool(getattr(model, "peft_config", None))


def plain(model: Any) -> Any:
    """The transformers model inside, adapters in place: what evaluation and generation look at."""
    return model.get_base_model() if is_adapted(model) and hasattr(model, "get_base_model") else model


def merged(model: Any) -> Any:
    """The transformers model with the adapters added into its weights, all of them trainable again. `model` is used up."""
    if not is_adapted(model):
        return model
    with _peft():
        whole = model.merge_and_unload()
    return whole.requires_grad_(True)


def save_adapter(model: Any, folder: Path | str) -> None:
    """The adapter alone, in peft's layout. New tokens' rows are part of it; whole embeddings never are."""
    with _peft():
        model.save_pretrained(str(folder), save_embedding_layers=False)


def keep_adapter(model: Any, run: Path) -> None:
    """`adapter/` in a run's folder, whole or not at all."""
    with atomic_dir(run / ADAPTER) as folder:
        save_adapter(model, folder)


def _tables(model: Any) -> list[nn.Module]:
    """Embedding and, where it is not the same matrix, head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [embedding] if head is None or head.weight is embedding.weight else [embedding, head]


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, found in model.named_modules() if found is module)


@contextmanager
def _peft() -> Iterator[None]:
    """Without the deprecations that peft meets in transformers, and its notes on tied tables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
