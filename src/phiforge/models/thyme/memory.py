"""The parts of a Thyme model: residual MLPs, and the layers around its one state (equations in modeling.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phiforge.models.thyme.configuration import ThymeConfig
from phiforge.models.thyme.spec import AXIOMS, STATE
from phiforge.nn.recurrence import scan

LITERAL_D, LITERAL_M = 0.9, 0.1  # what the first design starts from, before the sigmoid


class ThymeBlock(nn.Module):
    """x + W2 relu(W1 norm(x))^2 (So et al. 2021, arXiv 2109.08668)."""

    def __init__(self, config: ThymeConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(.., D) -> (.., D)."""
        inner = F.relu(self.up_proj(self.norm(x))).square()
        return x + F.dropout(self.down_proj(inner), self.dropout, self.training)


@dataclass(frozen=True)
class Written:
    """What a token does to a state and asks of it: see `nn.recurrence.scan`. `axioms` (B, T, 12)."""

    k: Tensor
    v: Tensor
    q: Tensor | None
    log_decay: Tensor | None
    beta: Tensor | None
    axioms: Tensor


class ThymeMemory(nn.Module):
    """The state layer of the outer form."""

    def __init__(self, config: ThymeConfig) -> None:
        super().__init__()
        self.config = config
        width, rows = config.hidden_size, config.value_rows
        moved = STATE if config.decay != "none" and config.data_dependent else 0
        self.parts = [STATE, rows, config.reads * STATE, moved, 1 if config.delta else 0]
        self.norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.axiom_proj = nn.Linear(width, AXIOMS)
        self.axiom_norm = nn.LayerNorm(AXIOMS)
        self.write_proj = nn.Linear(width + AXIOMS + (STATE if config.token_shift else 0), sum(self.parts))
        if config.token_shift:
            self.register_proj = nn.Linear(width, STATE, bias=False)
        if config.decay != "none":
            self.log_time_bias = nn.Parameter(torch.zeros(STATE if config.decay == "golden" else 1))
        self.read_norm = nn.RMSNorm(config.read_width, eps=config.rms_norm_eps)
        self.o_proj = nn.Linear(config.read_width, width, bias=False)

    def axioms(self, h: Tensor) -> Tensor:
        """(.., D) -> (.., 12) in (-1, 1)."""
        return torch.tanh(self.axiom_norm(self.axiom_proj(h)))

    def marks(self, h: Tensor) -> Tensor:
        """What each token leaves in the register: (B, T, D) -> (B, T, 24) float32 of root mean square 1."""
        return F.rms_norm(self.register_proj(h).float(), (STATE,), eps=self.config.rms_norm_eps)

    def write(self, h: Tensor, before: Tensor | None = None) -> Written:
        """What tokens of normalised h (B, T, D) do, in float32. before (B, T, 24): the register as each finds it, where there is one."""
        config = self.config
        a = self.axioms(h)
        inputs = [h, a.to(h.dtype)] + ([] if before is None else [before.to(h.dtype)])
        k, v, q, bend, b = self.write_proj(torch.cat(inputs, -1)).float().split(self.parts, -1)
        queries = q.unflatten(-1, (config.reads, STATE)) if config.reads else None
        if config.normalise_keys:
            k = F.normalize(k, dim=-1)
            queries = None if queries is None else F.normalize(queries, dim=-1)
        return Written(k, v, queries, self._log_decay(bend), torch.sigmoid(b.squeeze(-1)) if config.delta else None, a)

    def _log_decay(self, bend: Tensor) -> Tensor | None:
        """-exp(bend) / tau of each column (B, T, 24), or one for all (B, T, 1); the bend is kept within e^3."""
        if self.config.decay == "none":
            return None
        bent = 3 * torch.tanh(bend / 3) if self.config.data_dependent else bend.new_zeros(*bend.shape[:-1], self.log_time_bias.numel())
        return -torch.exp(bent - self.log_time_bias.float())

    def read(self, x: Tensor, read: Tensor | None, states: Tensor | None, before: Tensor | None = None) -> Tensor:
        """x (B, T, D) with what was read of the state added."""
        found = [part.flatten(2) for part in (read, states, before) if part is not None]
        return x + F.dropout(self.o_proj(self.read_norm(torch.cat(found, -1)).to(x.dtype)), self.config.dropout, self.training)

    def forward(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, D), state (B, rows, 24), reset (B, T) -> the new x and the state after the last token.

        With a register the state's last row is it, and the rows before it are the matrix that is scanned.
        """
        h = self.norm(x)
        before = last = None
        if self.config.token_shift:
            marks = self.marks(h)
            first = torch.zeros_like(marks[:, :1]) if state is None else state[:, -1:]
            before, last = torch.cat([first, marks[:, :-1]], 1), marks[:, -1:]
            if reset is not None:
                before = torch.where(reset[..., None], 0.0, before)
            state = None if state is None else state[:, :-1]
        w = self.write(h, before)
        done = scan(w.k, w.v, q=w.q, log_decay=w.log_decay, beta=w.beta, state=state, reset=reset, states=self.config.read_state)
        final = done.final if last is None else torch.cat([done.final, last], 1)
        return self.read(x, done.read, done.states, before), final


class LiteralMemory(nn.Module):
    """The state of the literal form, and what is made of it: embeddings (B, T, E) -> GELU(W3 vec S) (B, T, 512)."""

    def __init__(self, config: ThymeConfig) -> None:
        super().__init__()
        self.axiom_proj = nn.Linear(config.hidden_size, AXIOMS)
        self.axiom_norm = nn.LayerNorm(AXIOMS)
        self.composite_proj = nn.Linear(AXIOMS, STATE)
        self.composite_norm = nn.LayerNorm(STATE)
        self.d_bias = nn.Parameter(torch.tensor(LITERAL_D))
        self.m_bias = nn.Parameter(torch.tensor(LITERAL_M))
        self.up_proj = nn.Linear(STATE * STATE, config.intermediate_size)
        self.dropout = config.dropout

    def axioms(self, e: Tensor) -> Tensor:
        """(.., E) -> (.., 12) in (-1, 1)."""
        return torch.tanh(self.axiom_norm(self.axiom_proj(e)))

    def write(self, e: Tensor) -> Written:
        """S <- sigmoid(d) S + sigmoid(m) c c^T as keys, values and one decay for all."""
        a = self.axioms(e)
        c = torch.tanh(self.composite_norm(self.composite_proj(a))).float()
        decay = F.logsigmoid(self.d_bias.float()).expand(*c.shape[:2], 1)
        return Written(c, torch.sigmoid(self.m_bias.float()) * c, None, decay, None, a)

    def read(self, states: Tensor) -> Tensor:
        """States (B, T, 24, 24) -> (B, T, 512)."""
        return F.dropout(F.gelu(self.up_proj(states.flatten(2))), self.dropout, self.training)

    def forward(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """As ThymeMemory's; what comes out is as wide as W3 makes it."""
        w = self.write(x)
        done = scan(w.k, w.v, log_decay=w.log_decay, state=state, reset=reset, states=True)
        assert done.states is not None
        return self.read(done.states), done.final
