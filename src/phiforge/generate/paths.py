"""Which implementation runs a model: the fastest that can, or the one that was named."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from phiforge.core.errors import ConfigError
from phiforge.generate.decoder import Decoder
from phiforge.generate.native import NativeDecoder
from phiforge.generate.recurrent import RecurrentDecoder
from phiforge.generate.recurrent_native import NativeRecurrentDecoder
from phiforge.generate.reference import ReferenceDecoder
from phiforge.generate.stock import StockDecoder, stock_shape

Path = Literal["auto", "native", "stock", "recurrent", "reference"]


def choose_decoder(model: nn.Module, dtype: torch.dtype, path: Path) -> Decoder:
    """The decoder for a model: the fastest that can run it, or the one that was named."""
    if path == "reference":
        return ReferenceDecoder(model)
    if getattr(getattr(model, "config", None), "model_type", "") == "phiforge_thyme":
        return _choose_recurrent(model, dtype, path)
    shape = stock_shape(model)
    if shape is None or path == "recurrent":
        if path in ("native", "stock"):
            raise ConfigError(
                f"the {path} path runs stock starcoder2 and llama layouts, not this {type(model).__name__}", fix="use path='auto'"
            )
        if path == "recurrent":
            raise ConfigError(f"the recurrent path runs constant-state models, not this {type(model).__name__}", fix="use path='auto'")
        _check_own_dtype(model, dtype)
        return ReferenceDecoder(model)
    if path in ("auto", "native"):
        problem = NativeDecoder.problem(model, dtype)
        if problem is None:
            return NativeDecoder(model, shape)
        if path == "native":
            raise ConfigError(f"the native path can't run here: {problem}", fix="use path='auto'")
    return StockDecoder(model, shape, dtype)


def _choose_recurrent(model: nn.Module, dtype: torch.dtype, path: Path) -> Decoder:
    if path == "stock":
        raise ConfigError(f"the stock path runs stock starcoder2 and llama layouts, not this {type(model).__name__}", fix="use path='auto'")
    if path != "recurrent":
        problem = NativeRecurrentDecoder.problem(model, dtype)
        if problem is None:
            return NativeRecurrentDecoder(model)
        if path == "native":
            raise ConfigError(f"the native path can't run here: {problem}", fix="use path='auto'")
    _check_own_dtype(model, dtype)
    return RecurrentDecoder(model)


def _check_own_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """A dtype can be asked for where weights are prepared; other paths run the model as it is."""
    own = next(model.parameters()).dtype
    if dtype not in (torch.float32, own):
        raise ConfigError(f"dtype {dtype} is for the stock layouts; this model runs in its own {own}", fix="convert the model")
