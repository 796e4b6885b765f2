"""Thyme in C (`recurrent.c`), on a CPU in fp32, where the machine has a compiler; `recurrent.py` is the fallback.

The weights are packed once: gains of norms go into the matrices behind them, matrices into the panels of native.c, whose product is used.
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
from phiforge.generate import native
from phiforge.generate.config import SamplingConfig
from phiforge.generate.recurrent import pieces, start
from phiforge.models.thyme.spec import AXIOMS, STATE
from phiforge.models.thyme.state import ThymeState

MEMO_BYTES = 256 << 20  # what tokens write into the first state is kept up to this size
_ROWS_A_THREAD = 8
_INTEGERS = (
    "literal", "width", "mlp", "vocab", "memories", "rows", "registers", "reads", "read_state", "delta", "normalise", "decays", "bends",
    "before", "after", "positions",
)  # fmt: skip
_MEMORY = (
    "axiom", "axiom_bias", "axiom_gain", "axiom_shift", "write", "write_bias", "mark", "marked", "gain", "shift", "log_time", "out",
    "out_bias",
)  # fmt: skip


class _CBlock(ctypes.Structure):
    _fields_ = [("up", ctypes.c_void_p), ("down", ctypes.c_void_p)]


class _CMemory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _MEMORY]


class _CModel(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("epsilon", ctypes.c_double),
        ("write_scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("embedding", "place", "memo", "known")),
        ("memory", ctypes.POINTER(_CMemory)),
        ("block", ctypes.POINTER(_CBlock)),
        *((name, ctypes.c_void_p) for name in ("head", "head_bias", "product", "best")),
    ]


@functools.cache
def library() -> tuple[ctypes.CDLL, ctypes.CDLL] | str:
    """The compiled steps and the compiled products they use; or why there are none."""
    products = native.library()
    if isinstance(products, str):
        return products
    try:
        made = load(Path(__file__).with_name("recurrent.c"))
    except Unavailable as error:
        return str(error)
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    made.phiforge_recurrent_record.argtypes = [pointer]
    made.phiforge_recurrent_work.argtypes, made.phiforge_recurrent_work.restype = [pointer, integer, integer], ctypes.c_int64
    made.phiforge_recurrent_read.argtypes = [pointer] * 4 + [integer] + [pointer] * 3 + [integer]
    made.phiforge_recurrent_read.restype = None
    made.phiforge_recurrent_greedy.argtypes = [pointer] * 4 + [integer] * 3 + [pointer] * 3
    made.phiforge_recurrent_greedy.restype = None
    return made, products


class NativeRecurrentDecoder:
    """The C path. Holds a packed fp32 copy of the weights."""

    name = "native"
    ragged = True

    @staticmethod
    def problem(model: nn.Module, dtype: torch.dtype = torch.float32) -> str | None:
        """Why this path can't (or shouldn't) run the model here; None when it can."""
        if (reason := native.NativeDecoder.problem(model, dtype)) is not None:
            return reason
        made = library()
        return made if isinstance(made, str) else None

    def __init__(self, model: nn.Module) -> None:
        made = library()
        if isinstance(made, str):
            raise Unavailable(made)
        self.library, self.products = made
        self.model = model
        whole: Any = model
        self.vocab_size = int(whole.config.vocab_size)
        self.context_length: int | None = None
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Pack the model's weights as they are now."""
        whole: Any = self.model
        base, config = whole.model, whole.config
        literal = config.form == "literal"
        self.panel = self.products.phiforge_panel()
        self._alive: list[Tensor] = []  # what the C structures point at
        self.state_shape = (config.state_layers, config.rows_of_state, STATE)
        blocks = [] if literal else [_CBlock(*self._block(part)) for part in (*base.before, *base.after)]
        memories = [self._literal(part) if literal else self._memory(part, config) for part in base.memories]
        self._blocks, self._memories = (_CBlock * max(len(blocks), 1))(*blocks), (_CMemory * len(memories))(*memories)
        head, bias = whole.lm_head.weight, whole.lm_head.bias
        place = base.embed_positions.weight if config.positions == "literal" else None
        address = functools.partial(ctypes.cast, typ=ctypes.c_void_p)
        self._c_model = _CModel(
            literal=literal, width=config.hidden_size, mlp=config.intermediate_size, vocab=config.vocab_size, memories=len(memories),
            rows=config.value_rows, registers=config.token_shift, reads=0 if literal else config.reads,
            read_state=literal or config.read_state, delta=not literal and config.delta, normalise=config.normalise_keys,
            decays=config.decay != "none", bends=config.decay != "none" and config.data_dependent,
            before=0 if literal else config.depth_before, after=0 if literal else len(base.after),
            positions=0 if place is None else len(place), epsilon=config.rms_norm_eps,
            write_scale=float(torch.sigmoid(base.memories[0].m_bias)) if literal else 1.0, embedding=self._keep(base.embed_tokens.weight),
            place=self._keep(place), memory=self._memories, block=self._blocks,
            head=self._matrix(head if literal else head * base.norm.weight), head_bias=self._bias(bias),
            product=address(self.products.phiforge_product).value, best=address(self.products.phiforge_best).value,
        )  # fmt: skip
        self.c_pointer = ctypes.addressof(self._c_model)
        self._make_memo(place)

    def _make_memo(self, place: Tensor | None) -> None:
        """Room for what each token writes into the first state, unless that depends on its position."""
        record = self.library.phiforge_recurrent_record(self.c_pointer)
        if place is not None or self.vocab_size * record * 4 > MEMO_BYTES:
            return
        # filled, so that its pages are there from the beginning: memory does not grow as tokens are met
        memo, known = torch.empty(self.vocab_size, record).fill_(0.0), torch.zeros(self.vocab_size, dtype=torch.uint8)
        self._alive += [memo, known]
        self._c_model.memo, self._c_model.known = memo.data_ptr(), known.data_ptr()

    def _keep(self, tensor: Tensor | None) -> int | None:
        """The address of a float32 copy."""
        if tensor is None:
            return None
        kept = torch.empty(tensor.shape, dtype=torch.float32)
        advise_huge_pages(kept.data_ptr(), kept.numel() * 4)
        self._alive.append(kept.copy_(tensor.detach()))
        return kept.data_ptr()

    def _matrix(self, weight: Tensor) -> int | None:
        """A linear layer's weight (outputs, inputs), packed."""
        return self._keep(native.pack(weight.detach().float().t(), self.panel))

    def _bias(self, bias: Tensor | None) -> int | None:
        return self._keep(native.fill_up(None if bias is None else bias.detach().float(), self.panel))

    def _block(self, block: Any) -> tuple[int | None, int | None]:
        return self._matrix(block.up_proj.weight * block.norm.weight), self._matrix(block.down_proj.weight)

    def _axioms(self, memory: Any, gain: Tensor | float) -> dict[str, int | None]:
        return {
            "axiom": self._matrix(memory.axiom_proj.weight * gain), "axiom_bias": self._bias(memory.axiom_proj.bias),
            "axiom_gain": self._keep(memory.axiom_norm.weight), "axiom_shift": self._keep(memory.axiom_norm.bias),
        }  # fmt: skip

    def _memory(self, memory: Any, config: Any) -> _CMemory:
        gain, wide = memory.norm.weight, config.hidden_size + AXIOMS
        both = torch.cat([gain, gain.new_ones(AXIOMS)])
        # queries go last: a token that nothing is asked of needs no product for them
        k, v, q, bend, b = torch.arange(sum(memory.parts)).split(memory.parts)
        order = torch.cat([k, v, bend, b, q])
        weight, bias = memory.write_proj.weight[order], memory.write_proj.bias[order]
        shift = config.token_shift
        log_time = memory.log_time_bias.expand(STATE) if config.decay != "none" else None
        return _CMemory(
            **self._axioms(memory, gain), write=self._matrix(weight[:, :wide] * both), write_bias=self._bias(bias),
            mark=self._matrix(memory.register_proj.weight * gain) if shift else None,
            marked=self._matrix(weight[:, wide:]) if shift else None, log_time=self._keep(log_time),
            out=self._matrix(memory.o_proj.weight * memory.read_norm.weight),
        )  # fmt: skip

    def _literal(self, memory: Any) -> _CMemory:
        log_time = -torch.log(-torch.nn.functional.logsigmoid(memory.d_bias)).expand(STATE)  # sigmoid(d) = exp(-exp(-log_time))
        return _CMemory(
            **self._axioms(memory, 1.0), write=self._matrix(memory.composite_proj.weight),
            write_bias=self._bias(memory.composite_proj.bias), gain=self._keep(memory.composite_norm.weight),
            shift=self._keep(memory.composite_norm.bias), log_time=self._keep(log_time), out=self._matrix(memory.up_proj.weight),
            out_bias=self._bias(memory.up_proj.bias),
        )  # fmt: skip

    def start(self, prompts: Sequence[Sequence[int]], room: int, state: ThymeState | None = None) -> tuple[NativeRecurrentSession, Tensor]:
        """See `Decoder.start`; `state` is what every row goes on from."""
        session, logits = start(self, prompts, state)
        assert isinstance(session, NativeRecurrentSession)
        return session, logits

    def begin(self, rows: int, state: ThymeState | None) -> NativeRecurrentSession:
        """See `StateDecoder.begin`."""
        states = torch.zeros(rows, *self.state_shape)
        if state is not None:
            states += state.memory
        return NativeRecurrentSession(self, states, torch.full((rows,), 0 if state is None else state.seen - 1))

    def feed(self, session: Any, prompts: Sequence[Sequence[int]]) -> None:
        """See `StateDecoder.feed`."""
        for share in pieces(prompts):
            session.read(share)

    def choose(self, logits: Tensor, config: SamplingConfig, uniforms: Tensor | None, seen: Tensor | None) -> Tensor:
        """One token (B,) a row, as `sampling.sample` would."""
        return native.choose(self.products, logits, config, uniforms, seen)


@dataclass(frozen=True, kw_only=True)
class _Share:
    """Rows that one thread reads: the first, how many, and where what belongs to them begins."""

    first: int
    rows: int
    states: int
    seen: int
    logits: int
    work: Tensor


class NativeRecurrentSession:
    """A batch: its states (B, state layers, rows, 24) and how many tokens each row has read."""

    def __init__(self, decoder: NativeRecurrentDecoder, states: Tensor, seen: Tensor) -> None:
        self.decoder, self.states, self.seen = decoder, states, seen
        threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(threads) if threads > 1 and len(states) >= 2 * _ROWS_A_THREAD else None
        self._plan_step()

    def _plan_step(self) -> None:
        """Fix what all single-token calls share: logits, working memory and the pointers."""
        rows = len(self.states)
        self.logits = torch.empty(rows, self.decoder.vocab_size)
        self.edges = torch.arange(rows + 1)
        self.step_shares = self._shares([1] * rows)

    def memory(self) -> Tensor:
        """See `StateSession.memory`."""
        return self.states

    def keep(self, rows: Tensor) -> None:
        self.states, self.seen = self.states[rows], self.seen[rows]
        self._plan_step()

    def read(self, share: Sequence[Sequence[int]]) -> None:
        """Append each row's ids, any number of them; no logits."""
        lengths = [len(part) for part in share]
        ids = torch.tensor(list(itertools.chain.from_iterable(share)), dtype=torch.int64)
        self._run(self._shares(lengths), ids, torch.tensor([0, *itertools.accumulate(lengths)]), 0)

    def step(self, tokens: Tensor) -> Tensor:
        self._run(self.step_shares, tokens.contiguous(), self.edges, 1)
        return self.logits

    def greedy(self, tokens: Tensor, steps: int) -> Tensor:
        """`steps` likeliest tokens (steps, B) after `tokens` (B,), the last of which is not read yet: one call for all of them."""
        model, run = self.decoder.c_pointer, self.decoder.library.phiforge_recurrent_greedy
        ids = torch.empty(steps + 1, len(self.states), dtype=torch.int64)
        ids[0] = tokens
        at, edge, all_rows = ids.data_ptr(), self.edges.data_ptr(), len(self.states)

        def call(s: _Share) -> None:
            run(model, at + 8 * s.first, edge, s.seen, s.rows, all_rows, steps, s.states, s.work.data_ptr(), s.logits)

        self._share_out(call, self.step_shares)
        return ids[1:]

    def _shares(self, lengths: list[int]) -> list[_Share]:
        """Each thread's share of the rows, with its own working memory."""
        decoder, rows = self.decoder, len(lengths)
        parts = torch.get_num_threads() if self.pool is not None else 1
        edges = [rows * part // parts for part in range(parts + 1)]
        size = decoder.library.phiforge_recurrent_work
        return [
            _Share(
                first=first,
                rows=behind - first,
                states=self.states[first:].data_ptr(),
                seen=self.seen[first:].data_ptr(),
                logits=self.logits[first:].data_ptr(),
                work=torch.empty(size(decoder.c_pointer, behind - first, sum(lengths[first:behind]))),
            )
            for first, behind in itertools.pairwise(edges)
            if behind > first
        ]

    def _run(self, shares: list[_Share], ids: Tensor, edges: Tensor, want: int) -> None:
        """Read ids, row r's from edges[r] to edges[r + 1] (the compiled code runs without the interpreter's lock)."""
        model, read = self.decoder.c_pointer, self.decoder.library.phiforge_recurrent_read
        at, edge = ids.data_ptr(), edges.data_ptr()

        def call(s: _Share) -> None:
            read(model, at, edge + 8 * s.first, s.seen, s.rows, s.states, s.work.data_ptr(), s.logits, want)

        self._share_out(call, shares)

    def _share_out(self, call: Callable[[_Share], None], shares: list[_Share]) -> None:
        if self.pool is None:
            call(shares[0])
        else:
            for done in [self.pool.submit(call, share) for share in shares]:
                done.result()
