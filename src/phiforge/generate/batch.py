"""Rows that step together: choosing their tokens, seeing where they end, letting the finished ones go."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phiforge.generate.config import SamplingConfig
from phiforge.generate.decoder import Decoder, GoesAhead, Session
from phiforge.generate.recurrent import require_state_decoder
from phiforge.generate.text import TextStream
from phiforge.models.thyme.state import ThymeState

AHEAD = 16  # greedy steps gone at once where a row may stop on the way: what comes after its stop is work for nothing
BLOCK = 1024  # steps whose ids wait as columns, or whose randomness is drawn at once: memory does not grow with the steps planned
FinishReason = Literal["stop", "length", "context"]


@dataclass
class Row:
    """One prompt under way."""

    index: int
    prompt: list[int]
    budget: int
    at_budget: FinishReason
    randomness: torch.Generator | None  # the row's own stream
    text: TextStream | None
    ids: array[int] | None  # None: nobody asks for them afterwards. 4 bytes an id
    reason: FinishReason | None = None
    said: str = ""  # what the newest id added to the text


class Batch:
    """Rows that step together; the finished ones leave once they are a quarter of the batch (leaving costs a copy of the cache).

    New ids are kept as columns, one list a step, and handed to their rows when rows leave: a step costs no Python loop over the rows unless
    a row may end there. Where nobody looks at the steps and the decoder can go several greedy steps by itself, it does.
    """

    def __init__(
        self, decoder: Decoder, rows: list[Row], sampling: SamplingConfig, stops: frozenset[int], quiet: bool, state: ThymeState | None
    ) -> None:
        self.decoder, self.rows, self.sampling, self.stops, self.state = decoder, rows, sampling, stops, state
        self.columns: list[list[int]] = []
        self.flushed = 0  # steps whose ids the rows already have
        self.watched = any(row.text is not None for row in rows)
        self.alone = quiet and not self.watched and sampling.greedy and sampling.repetition_penalty == 1
        self.seen: Tensor | None = None
        self.uniforms: Tensor | None = None

    def run(self) -> Iterator[Iterable[tuple[Row, int]]]:
        room = max(row.budget for row in self.rows)
        nearest = min(row.budget for row in self.rows)
        try:
            with torch.inference_mode():
                session, logits = self._start(room)
                self._prepare(logits)
                tokens = self._choose(logits, 0)
            step = 0
            while True:
                chosen = tokens.tolist()
                live = [row.reason is None for row in self.rows]
                self._take(chosen, step, nearest)
                yield ((row, token) for row, token, was_live in zip(self.rows, chosen, live, strict=True) if was_live)
                done = sum(row.reason is not None for row in self.rows)
                if done == len(self.rows):
                    return
                with torch.inference_mode():  # not around the yield: the caller's code must not run in inference mode
                    if 4 * done >= len(self.rows):
                        tokens = self._leave(session, tokens)
                    ahead = min(nearest - 1 - step, AHEAD if self.stops else BLOCK)
                    if self.alone and ahead > 1 and isinstance(session, GoesAhead):
                        block = session.greedy(tokens, ahead)
                        for between in block[:-1].tolist():
                            step += 1
                            self._take(between, step, nearest)
                        tokens = block[-1]
                    else:
                        tokens = self._choose(session.step(tokens), step + 1)
                step += 1
        finally:
            self._flush()

    def _start(self, room: int) -> tuple[Session, Tensor]:
        prompts = [row.prompt for row in self.rows]
        if self.state is None:
            return self.decoder.start(prompts, room)
        return require_state_decoder(self.decoder, self.decoder.name).start(prompts, room, self.state)

    def _take(self, chosen: list[int], step: int, nearest: int) -> None:
        """Write down the ids of a step, and end the rows that end there."""
        self.columns.append(chosen)
        if len(self.columns) == BLOCK:
            self._flush()
        if self.watched or step + 1 >= nearest or not self.stops.isdisjoint(chosen):
            self._end_rows(chosen, step)

    def _prepare(self, logits: Tensor) -> None:
        """What sampling needs beside the logits: with a repetition penalty, the tokens seen (B, V)."""
        if self.sampling.repetition_penalty != 1:
            self.seen = torch.zeros(logits.shape, dtype=torch.bool)
            for line, row in zip(self.seen, self.rows, strict=True):
                line[row.prompt] = True
            self.seen = self.seen.to(logits.device)

    def _choose(self, logits: Tensor, step: int) -> Tensor:
        uniforms = None
        if not self.sampling.greedy:
            if step % BLOCK == 0:  # (BLOCK, B); a stream gives the same numbers in one block as in several
                drawn = [torch.rand(BLOCK, generator=row.randomness) for row in self.rows]
                self.uniforms = torch.stack(drawn, dim=1).to(logits.device)
            assert self.uniforms is not None
            uniforms = self.uniforms[step % BLOCK]
        tokens = self.decoder.choose(logits, self.sampling, uniforms, self.seen)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        return tokens

    def _end_rows(self, chosen: list[int], step: int) -> None:
        """See which live rows end with their new id: at a stop id, a stop text, or the end of their budget."""
        for row, token in zip(self.rows, chosen, strict=True):
            if row.reason is not None:
                continue
            row.said = ""
            if token in self.stops:
                row.reason = "stop"
            elif row.text is not None:
                row.said = row.text.push(token)
                row.reason = "stop" if row.text.stopped else None
            if row.reason is None and step + 1 == row.budget:
                row.reason = row.at_budget
            if row.reason is not None:
                row.budget = step + 1  # ids after this one are not the row's

    def _flush(self) -> None:
        """Hand the columns since the last flush to their rows."""
        for row, ids in zip(self.rows, zip(*self.columns, strict=True), strict=bool(self.columns)):
            if row.ids is not None:
                row.ids.extend(ids[: max(row.budget - self.flushed, 0)])  # a row that has ended may still be in the batch
        self.flushed += len(self.columns)
        self.columns = []

    def _leave(self, session: Session, tokens: Tensor) -> Tensor:
        """Drop the finished rows from the batch and everything that goes with it."""
        self._flush()
        live = [place for place, row in enumerate(self.rows) if row.reason is None]
        places = torch.tensor(live, device=tokens.device)
        session.keep(places)
        self.rows = [self.rows[place] for place in live]
        self.uniforms = None if self.uniforms is None else self.uniforms[:, places]
        self.seen = None if self.seen is None else self.seen[places]
        return tokens[places]
