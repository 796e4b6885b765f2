"""Models whose whole past is one small state: a prompt of any length in flat memory, then one step a token, the same at every place.

This is the form in plain torch, through the model's own layers, for any device; `recurrent_native.py` is the fast one in C, and
`reference.py` what both are held to. Rows need no padding: those that are longer begin earlier, and each is read by itself until they meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from phiforge.core.errors import ConfigError
from phiforge.generate.decoder import Decoder, Session
from phiforge.generate.sampling import sample
from phiforge.models.thyme.configuration import ThymeCache
from phiforge.models.thyme.state import ThymeState

CHUNK = 1024  # tokens read in one call at most, over all rows: bounds the working memory


class StateSession(Session, Protocol):
    """A batch whose past can be taken out."""

    def memory(self) -> Tensor:
        """(B, state layers, rows, 24) after everything read so far; not to be written to."""
        ...


class StateDecoder(Decoder, Protocol):
    """A decoder that can go on from a state."""

    model: nn.Module

    def start(self, prompts: Sequence[Sequence[int]], room: int, state: ThymeState | None = None) -> tuple[Any, Tensor]:
        """See `Decoder.start`; `state` is what every row goes on from."""
        ...

    def begin(self, rows: int, state: ThymeState | None) -> StateSession:
        """Rows that have read nothing, or what `state` has but for its newest token."""
        ...

    def feed(self, session: StateSession, prompts: Sequence[Sequence[int]]) -> None:
        """Read tokens whose logits nobody wants, a row's share each; any of them may be empty."""
        ...


def start(decoder: StateDecoder, prompts: Sequence[Sequence[int]], state: ThymeState | None) -> tuple[StateSession, Tensor]:
    """What `Decoder.start` does, from a state or from nothing. With a state its newest token comes first, and prompts may be empty."""
    whole = [[state.last, *prompt] for prompt in prompts] if state is not None else prompts
    session = decoder.begin(len(whole), state)
    decoder.feed(session, [prompt[:-1] for prompt in whole])
    return session, session.step(torch.tensor([prompt[-1] for prompt in whole], device=next(decoder.model.parameters()).device))


def read(decoder: StateDecoder, ids: Sequence[int], state: ThymeState | None, model: str) -> ThymeState:
    """The state after `ids`, read from `state` on or from the beginning; `model` is the fingerprint of the weights that read."""
    whole = [state.last, *ids] if state is not None else list(ids)
    session = decoder.begin(1, state)
    decoder.feed(session, [whole[:-1]])
    seen = len(whole) + (state.seen - 1 if state is not None else 0)
    return ThymeState(session.memory()[0].to("cpu", copy=True), seen, whole[-1], model)


def pieces(prompts: Sequence[Sequence[int]], most: int = CHUNK) -> Iterator[list[Sequence[int]]]:
    """Each row's next tokens, at most `most` in a call, until every row is read."""
    each = max(most // len(prompts), 1)
    for begin in range(0, max(len(prompt) for prompt in prompts), each):
        yield [prompt[begin : begin + each] for prompt in prompts]


class RecurrentDecoder:
    """Through the model's own layers: the prompt by the scan, then one step a token."""

    name = "recurrent"
    ragged = True
    choose = staticmethod(sample)

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        whole: Any = model
        self.vocab_size = int(whole.config.vocab_size)
        self.context_length: int | None = None
        self.device = next(model.parameters()).device

    def refresh(self) -> None:
        """Nothing to do: the model's own weights are used."""

    def start(self, prompts: Sequence[Sequence[int]], room: int, state: ThymeState | None = None) -> tuple[StateSession, Tensor]:
        """See `Decoder.start`; `state` is what every row goes on from."""
        return start(self, prompts, state)

    def begin(self, rows: int, state: ThymeState | None) -> RecurrentSession:
        """See `StateDecoder.begin`."""
        model: Any = self.model
        memory = model.model.new_cache(rows).state
        if state is not None:
            memory += state.memory.to(self.device)
        return RecurrentSession(model, memory, torch.full((rows,), 0 if state is None else state.seen - 1, device=self.device))

    def feed(self, session: Any, prompts: Sequence[Sequence[int]]) -> None:
        """See `StateDecoder.feed`: rows that bring equally many tokens are read together."""
        for share in pieces(prompts):
            for length in sorted({len(part) for part in share} - {0}):
                rows = [row for row, part in enumerate(share) if len(part) == length]
                ids = torch.tensor([list(share[row]) for row in rows], device=self.device)
                session.read(ids, torch.tensor(rows, device=self.device))


class RecurrentSession:
    """A batch: its states (B, state layers, rows, 24) and how many tokens each row has read."""

    def __init__(self, model: Any, states: Tensor, seen: Tensor) -> None:
        self.model, self.states, self.seen = model, states, seen

    def memory(self) -> Tensor:
        """See `StateSession.memory`."""
        return self.states

    def read(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Append ids (b, N) to these rows; what the head is given (b, N, D)."""
        places = self.seen[rows, None] + torch.arange(ids.shape[1], device=ids.device)
        # the cache's own count of tokens is not used where positions are given
        out = self.model.model(ids, position_ids=places, past_key_values=ThymeCache(self.states[rows]))
        self.states[rows] = out.past_key_values.state
        self.seen[rows] += ids.shape[1]
        hidden: Tensor = out.last_hidden_state
        return hidden

    def step(self, tokens: Tensor) -> Tensor:
        every = torch.arange(len(tokens), device=tokens.device)
        logits: Tensor = self.model.lm_head(self.read(tokens[:, None], every)[:, -1])
        return logits.float()

    def keep(self, rows: Tensor) -> None:
        self.states, self.seen = self.states[rows], self.seen[rows]


def require_state_decoder(decoder: Any, name: str) -> StateDecoder:
    """The decoder, if its model has a state that can be taken out. Raises ConfigError."""
    if not hasattr(decoder, "begin"):
        reason = (
            "runs through the reference path, which keeps no states"
            if decoder.name == "reference"
            else "remembers every token, not a state"
        )
        raise ConfigError(f"{name} {reason}", fix="states are for models of family thyme, with path='auto'")
    made: StateDecoder = decoder
    return made
