"""The fast path in C (`native.c`) for stock layouts on a CPU, fp32, where the machine has a compiler; `stock.py` is the fallback.

At the sizes this project trains (widths of 128 to 512) torch spends as long on calling an operation as on doing it; one call a token for
the whole model is what makes sampling several times faster. Rows are shared out over torch's number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phiforge.core.compiler import Unavailable, load
from phiforge.core.hardware import advise_huge_pages
from phiforge.generate.config import SamplingConfig
from phiforge.generate.decoder import pad_left
from phiforge.generate.sampling import sample
from phiforge.generate.stock import Layer, StockShape, prepare_layer, rope_table, side_by_side

# Beyond this, decoding is bound by memory, where torch's threads do as well without a packed copy of the weights.
MOST_PARAMETERS = 100_000_000
FIRST_LAYER_TABLE_BYTES = 64 << 20
MOST_TOP_K = 256  # the C selection keeps k tokens in order by insertion: quadratic in k
_PREFILL_ROWS = 4096  # tokens read in one call at most: bounds the working memory
_ROWS_A_THREAD = 8


class _CLayer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "norm1", "norm1_bias", "qkv", "qkv_bias", "out", "out_bias", "norm2", "norm2_bias", "up", "up_bias", "down", "down_bias",
        )
    ]  # fmt: skip


class _CModel(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("llama", "layers", "width", "heads", "kv_heads", "head_dim", "mlp", "vocab")),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("embedding", "first", "cosine", "sine", "norm", "norm_bias", "head", "head_bias")),
        ("layer", ctypes.POINTER(_CLayer)),
    ]


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled library, checked against torch on one product; or why there is none."""
    try:
        made = load(Path(__file__).with_name("native.c"))
    except Unavailable as error:
        return str(error)
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    made.phiforge_product.argtypes = [integer] * 3 + [pointer, integer, pointer, pointer, pointer, integer, integer]
    made.phiforge_product.restype = None
    made.phiforge_read.argtypes = [pointer] * 3 + [integer] * 5 + [pointer] * 4 + [integer]
    made.phiforge_read.restype = None
    made.phiforge_best.argtypes = [pointer, integer, integer, pointer]
    made.phiforge_best.restype = None
    made.phiforge_greedy.argtypes = [pointer] * 3 + [integer] * 5 + [pointer] * 4
    made.phiforge_greedy.restype = None
    real = ctypes.c_float
    made.phiforge_sample.argtypes = [pointer] * 3 + [integer] * 2 + [real, integer, real, real, real, pointer, pointer]
    made.phiforge_sample.restype = None
    x, weight = torch.linspace(-1, 1, 13 * 37).view(13, 37), torch.linspace(-2, 1, 37 * 41).view(37, 41)
    if not torch.allclose(product(made, x, weight, None), x @ weight, atol=1e-3):
        return "the compiled product does not agree with torch on this machine"
    return made


def pack(weight: Tensor, panel: int) -> Tensor:
    """A weight (K, N) in panels (N / panel, K, panel), columns filled up with zeros."""
    inputs, outputs = weight.shape
    whole = torch.nn.functional.pad(weight, (0, -outputs % panel))
    return whole.view(inputs, -1, panel).transpose(0, 1).contiguous()


def fill_up(bias: Tensor | None, panel: int) -> Tensor | None:
    """A bias filled up with zeros to whole panels."""
    return None if bias is None else torch.nn.functional.pad(bias, (0, -len(bias) % panel)).contiguous()


def product(made: ctypes.CDLL, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (M, K) times weight (K, N) plus bias through the compiled kernel."""
    panel = made.phiforge_panel()
    packed, filled = pack(weight, panel), fill_up(bias, panel)
    x = x.contiguous()
    out = torch.empty(x.shape[0], weight.shape[1])
    made.phiforge_product(
        *(x.shape[0], weight.shape[1], x.shape[1], x.data_ptr(), x.shape[1], packed.data_ptr()),
        *(None if filled is None else filled.data_ptr(), out.data_ptr(), weight.shape[1], 0),
    )
    return out


def choose(made: ctypes.CDLL, logits: Tensor, config: SamplingConfig, uniforms: Tensor | None, seen: Tensor | None) -> Tensor:
    """`sampling.sample` in C where the settings allow it: greedy, any top-k up to MOST_TOP_K, or no limit at all."""
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64)
    if config.greedy and seen is None:
        made.phiforge_best(logits.data_ptr(), rows, vocabulary, tokens.data_ptr())
        return tokens
    limited = 0 < config.top_k < vocabulary
    unlimited = not limited and config.top_p >= 1 and config.min_p <= 0
    if config.greedy or uniforms is None or not (unlimited or (limited and config.top_k <= MOST_TOP_K)):
        return sample(logits, config, uniforms, seen)
    k = config.top_k if limited else 0
    uniforms = uniforms.contiguous()
    work = torch.empty(vocabulary // made.phiforge_lanes() + 1 + (vocabulary + made.phiforge_lanes()) // 2 + 1 + k, dtype=torch.float64)
    made.phiforge_sample(
        *(logits.data_ptr(), None if seen is None else seen.data_ptr(), uniforms.data_ptr(), rows, vocabulary, config.temperature),
        *(k, config.top_p, config.min_p, config.repetition_penalty, work.data_ptr(), tokens.data_ptr()),
    )
    return tokens


class NativeDecoder:
    """The C path. Holds a packed fp32 copy of the weights."""

    name = "native"
    ragged = True

    @staticmethod
    def problem(model: nn.Module, dtype: torch.dtype = torch.float32) -> str | None:
        """Why this path can't (or shouldn't) run the model here; None when it can."""
        if dtype != torch.float32:
            return f"it computes in float32, not {dtype}"
        device = next(model.parameters()).device
        if device.type != "cpu":
            return f"it runs on the CPU and the model is on {device}"
        size = sum(parameter.numel() for parameter in model.parameters())
        if size > MOST_PARAMETERS:
            return f"{size:,} parameters are more than the {MOST_PARAMETERS:,} up to which it pays"
        made = library()
        return made if isinstance(made, str) else None

    def __init__(self, model: nn.Module, shape: StockShape) -> None:
        made = library()
        if isinstance(made, str):
            raise Unavailable(made)
        self.library, self.model, self.shape = made, model, shape
        self.vocab_size = shape.vocab_size
        self.context_length: int | None = shape.context_length
        self.qkv_width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.panel, self.lanes = made.phiforge_panel(), made.phiforge_lanes()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Pack the model's weights as they are now."""
        model, shape = self.model, self.shape
        assert isinstance(model.model, nn.Module) and isinstance(model.lm_head, nn.Linear)
        base: Any = model.model
        self._alive: list[Tensor] = []  # what the C structures point at
        weights = sum(parameter.numel() for parameter in model.parameters())
        self._arena = _empty(int(1.05 * weights) + shape.vocab_size * (shape.width + self.qkv_width) + 65_536)
        self._used = 0
        layers = [prepare_layer(block, shape, torch.float32, paired=False) for block in base.layers[: shape.layers]]
        self._layers = (_CLayer * shape.layers)(*(self._c_layer(layer) for layer in layers))
        head, head_bias = side_by_side((model.lm_head, None, 1.0), dtype=torch.float32)
        rotation = rope_table(model, shape.context_length)
        embedding = base.embed_tokens.weight.detach().float().clone()
        self._c_model = _CModel(
            int(shape.family == "llama"), shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_dim, shape.mlp,
            shape.vocab_size, shape.epsilon, self._keep(embedding), self._first_table(layers[0], embedding, base.layers[0].input_layernorm),
            self._keep(rotation.real.contiguous()), self._keep(rotation.imag.contiguous()),
            self._keep(base.norm.weight.detach().float().clone()), self._keep(_copy(getattr(base.norm, "bias", None))),
            self._keep(pack(head, self.panel)), self._keep(fill_up(head_bias, self.panel)), self._layers,
        )  # fmt: skip
        self.c_pointer = ctypes.addressof(self._c_model)

    def _keep(self, tensor: Tensor | None) -> int | None:
        """The address of a float32 copy in the arena; of the tensor itself where the arena is full."""
        if tensor is None:
            return None
        whole = -(-tensor.numel() // self.lanes) * self.lanes
        if self._used + whole <= self._arena.numel():
            place = self._arena[self._used : self._used + tensor.numel()]
            place.copy_(tensor.reshape(-1))
            self._used += whole
            return place.data_ptr()
        self._alive.append(tensor)
        return tensor.data_ptr()

    def _c_layer(self, layer: Layer) -> _CLayer:
        matrices = {name: self._keep(pack(getattr(layer, name), self.panel)) for name in ("qkv", "out", "up", "down")}
        biases = {f"{name}_bias": self._keep(fill_up(getattr(layer, f"{name}_bias"), self.panel)) for name in ("qkv", "out", "up", "down")}
        norms = {name: self._keep(getattr(layer, name)) for name in ("norm1", "norm1_bias", "norm2", "norm2_bias")}
        return _CLayer(**matrices, **biases, **norms)

    def _first_table(self, layer: Layer, embedding: Tensor, norm: nn.Module) -> int | None:
        """The first layer's q, k and v depend on the token alone: for a small vocabulary they are looked up."""
        if self.shape.vocab_size * self.qkv_width * 4 > FIRST_LAYER_TABLE_BYTES:
            return None
        return self._keep(product(self.library, norm(embedding), layer.qkv, layer.qkv_bias))

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[NativeSession, Tensor]:
        """See `Decoder.start`."""
        rows, pads = pad_left(prompts)
        session = NativeSession(self, pads, len(rows[0]) + room)
        return session, session.read(torch.tensor(rows))

    def choose(self, logits: Tensor, config: SamplingConfig, uniforms: Tensor | None, seen: Tensor | None) -> Tensor:
        """One token (B,) a row, as `sampling.sample` would."""
        return choose(self.library, logits, config, uniforms, seen)


def _empty(*shape: int) -> Tensor:
    """Memory for what is read at every step, in large pages where the system gives them."""
    made = torch.empty(*shape)
    advise_huge_pages(made.data_ptr(), made.numel() * made.element_size())
    return made


def _copy(value: Any) -> Tensor | None:
    return None if value is None else value.detach().float().clone()


@dataclass(frozen=True, kw_only=True)
class _Share:
    """Rows that one call reads: the first, how many, and the addresses where what belongs to them begins."""

    first: int
    rows: int
    keys: int
    values: int
    pads: int
    logits: int
    work: Tensor


class NativeSession:
    """A batch with its cache: keys (layers, B, kv, places in blocks), values (layers, B, kv, capacity, head_dim filled up to lanes).

    Nothing in the cache is initialised: places that a row has not written are never read, or overwritten with -inf before they count.
    """

    def __init__(self, decoder: NativeDecoder, pads: list[int], room: int) -> None:
        shape, lanes = decoder.shape, decoder.lanes
        self.decoder, self.length = decoder, 0
        self.capacity = -(-room // lanes) * lanes
        self.keys = _empty(shape.layers, len(pads), shape.kv_heads, shape.head_dim, self.capacity)
        self.values = _empty(shape.layers, len(pads), shape.kv_heads, self.capacity, -(-shape.head_dim // lanes) * lanes)
        self.pads = torch.tensor(pads, dtype=torch.int64)
        threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(threads) if threads > 1 and len(pads) >= 2 * _ROWS_A_THREAD else None
        self._plan_step()

    def _plan_step(self) -> None:
        """Fix what all single-token calls share: logits, working memory and the pointers."""
        self.logits = torch.empty(len(self.pads), self.decoder.shape.vocab_size)
        self.step_calls = self._calls(1, self.logits)

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values, self.pads = self.keys[:, rows], self.values[:, rows], self.pads[rows]
        self._plan_step()

    def step(self, tokens: Tensor) -> Tensor:
        self._run(self.step_calls, tokens.contiguous(), 1, 1)
        return self.logits

    def greedy(self, tokens: Tensor, steps: int) -> Tensor:
        """`steps` likeliest tokens (steps, B) after `tokens` (B,), the last of which is not read yet: one call for all of them."""
        model, run = self.decoder.c_pointer, self.decoder.library.phiforge_greedy
        ids = torch.empty(steps + 1, len(self.pads), dtype=torch.int64)
        ids[0] = tokens
        all_rows, at, length, capacity = len(self.pads), ids.data_ptr(), self.length, self.capacity

        def call(s: _Share) -> None:
            here = at + 8 * s.first
            run(model, here, s.pads, s.rows, all_rows, steps, length, capacity, s.keys, s.values, s.work.data_ptr(), s.logits)

        self._share_out(call, self.step_calls)
        self.length += steps
        return ids[1:]

    def read(self, ids: Tensor) -> Tensor:
        """Append ids (B, N); the logits (B, V) after the last."""
        rows, count = ids.shape
        chunk = max(_PREFILL_ROWS // rows, 1)
        for begin in range(0, count, chunk):
            part = ids[:, begin : begin + chunk].contiguous()
            self._run(self._calls(part.shape[1], self.logits), part, part.shape[1], int(begin + chunk >= count))
        return self.logits

    def _calls(self, count: int, logits: Tensor) -> list[_Share]:
        """Each thread's share of the rows, with its own working memory."""
        decoder, shape, rows = self.decoder, self.decoder.shape, len(self.pads)
        each = 2 * shape.width + decoder.qkv_width + shape.heads * shape.head_dim + shape.mlp * (1 + (shape.family == "llama"))
        parts = torch.get_num_threads() if self.pool is not None else 1
        edges = [rows * part // parts for part in range(parts + 1)]
        return [
            _Share(
                first=first,
                rows=behind - first,
                keys=self.keys[:, first:].data_ptr(),
                values=self.values[:, first:].data_ptr(),
                pads=self.pads[first:].data_ptr(),
                logits=logits[first:].data_ptr(),
                work=torch.empty((behind - first) * count * each + self.capacity),
            )
            for first, behind in itertools.pairwise(edges)
            if behind > first
        ]

    def _run(self, shares: list[_Share], ids: Tensor, count: int, want: int) -> None:
        """Read ids (B, count), each share of the rows in its own thread (the compiled code runs without the interpreter's lock)."""
        model, read = self.decoder.c_pointer, self.decoder.library.phiforge_read
        all_rows, at, length, capacity = len(self.pads), ids.data_ptr(), self.length, self.capacity

        def call(s: _Share) -> None:
            here = at + 8 * s.first * count
            read(model, here, s.pads, s.rows, all_rows, count, length, capacity, s.keys, s.values, s.work.data_ptr(), s.logits, want)

        self._share_out(call, shares)
        self.length += count

    def _share_out(self, call: Callable[[_Share], None], shares: list[_Share]) -> None:
        if self.pool is None:
            call(shares[0])
        else:
            for done in [self.pool.submit(call, share) for share in shares]:
                done.result()
