"""Batched, cached generation for any of our models.

    engine = Engine(model)
    completions = engine.generate([[5, 6, 7], [8]], SamplingConfig(temperature=0.0, max_new_tokens=32), stop_ids=[2])
    for piece in engine.stream([5, 6, 7], sampling, tokenizer=tokenizer): print(piece.text, end="")

Stock starcoder2 and llama models take the fast paths (`native`, `stock`), constant-state models theirs (`native`, `recurrent`); every other
causal model goes through its own forward (`reference`). A prompt must leave room for one token in the model's context, or it is an error; a
row that reaches the end of the context ends there with finish reason "context": nothing is dropped from the front of a prompt in silence.
Constant-state models have no context to end; what they have read can be kept as a value (`read`) and gone on from.
"""

from __future__ import annotations

import contextlib
import secrets
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from phiforge.core.errors import ConfigError
from phiforge.generate.batch import AHEAD as AHEAD
from phiforge.generate.batch import Batch, FinishReason, Row
from phiforge.generate.config import SamplingConfig
from phiforge.generate.paths import Path
from phiforge.generate.paths import choose_decoder as choose_decoder
from phiforge.generate.recurrent import read, require_state_decoder
from phiforge.generate.text import Decodes, TextStream
from phiforge.models.thyme.state import ThymeState, fingerprint


@dataclass(frozen=True)
class Completion:
    """What was made for one prompt. `ids` are the new ids as sampled, a stop id included; `text` (with a tokenizer) ends before any
    stop."""

    ids: list[int]
    finish_reason: FinishReason
    text: str = ""


@dataclass(frozen=True)
class Piece:
    """A bit of a streamed completion: its new id (none for the last, which carries the rest of the text and the finish reason)."""

    ids: list[int]
    text: str
    finish_reason: FinishReason | None = None


class Engine:
    """A model that generates.

    `path` "auto" takes the fastest that the model, the device and the machine allow; naming one that can't run is an error. `dtype`
    bfloat16 halves the weights of the stock path. Weights are copied when the engine is made: call `refresh()` after the model was trained
    further.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype = torch.float32, path: Path = "auto", max_batch: int = 64) -> None:
        if max_batch < 1:
            raise ConfigError(f"max_batch={max_batch}: at least 1 row", fix="leave it out for 64")
        self.model = model
        self.max_batch = max_batch
        self.decoder = choose_decoder(model, dtype, path)
        self._fingerprint: str | None = None  # of the weights, once someone has asked

    @property
    def context_length(self) -> int | None:
        """Most tokens in one row, prompt included; None when the model has no bound."""
        return self.decoder.context_length

    def refresh(self) -> None:
        """Take the model's weights as they are now."""
        self.decoder.refresh()
        self._fingerprint = None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        stop_ids: Iterable[int] = (),
        tokenizer: Decodes | None = None,
        on_token: Callable[[int, int], None] | None = None,
        seeds: Sequence[int] | None = None,
        state: ThymeState | None = None,
    ) -> list[Completion]:
        """Complete every prompt; the completions in the prompts' order.

        Prompts may differ in length. Row i draws from its own stream, seeded with `sampling.seed + i` (or `seeds[i]`), so what it samples
        does not depend on the rows around it. `stop_ids` end a row; so do `sampling.stop` texts, which need the tokenizer.
        `on_token(row, id)` is called for every new id. With a `state` (`read`) every row goes on from there; its prompt may be empty then.
        """
        self._check_state(state)
        rows = self._rows(prompts, sampling, tokenizer, seeds, resumed=state is not None)
        stops = frozenset(stop_ids)
        for rows_together in self._batches(rows):
            for fresh in self._run(rows_together, sampling, stops, quiet=on_token is None, state=state):
                if on_token is not None:
                    for row, token in fresh:
                        on_token(row.index, token)
        completions = []
        for row in rows:
            assert row.reason is not None
            if row.text is not None:
                row.text.finish()
            completions.append(Completion(list(row.ids or ()), row.reason, row.text.text if row.text is not None else ""))
        return completions

    def stream(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        stop_ids: Iterable[int] = (),
        tokenizer: Decodes | None = None,
        state: ThymeState | None = None,
    ) -> Iterator[Piece]:
        """Complete one prompt piece by piece. Texts hold whole characters only; the last piece has no id and carries the finish reason.

        Nothing is kept of pieces given away: with a constant-state model, memory is the same after any number of tokens.
        """
        self._check_state(state)
        (row,) = self._rows([prompt], sampling, tokenizer, None, keep=False, resumed=state is not None)
        for fresh in self._run([row], sampling, frozenset(stop_ids), state=state):
            yield Piece([token for _, token in fresh], row.said)
        yield Piece([], "" if row.text is None else row.text.finish(), row.reason)

    def read(self, ids: Sequence[int], state: ThymeState | None = None) -> ThymeState:
        """What a constant-state model remembers after reading `ids`, from `state` on or from the beginning: 2,304 bytes, however long.

        Raises ConfigError for a model that has no such state, an empty text, ids it doesn't know, or another model's state.
        """
        decoder = require_state_decoder(self.decoder, type(self.model).__name__)
        self._check_state(state)
        whole = list(ids)
        _check_prompt(0, whole, decoder.vocab_size, None)
        with _evaluating(self.model), torch.no_grad():
            return read(decoder, whole, state, self._own_fingerprint())

    def _check_state(self, state: ThymeState | None) -> None:
        if state is not None:
            require_state_decoder(self.decoder, type(self.model).__name__)
            state.check(self._own_fingerprint())

    def _own_fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        tokenizer: Decodes | None,
        seeds: Sequence[int] | None,
        *,
        keep: bool = True,
        resumed: bool = False,
    ) -> list[Row]:
        """Check the prompts and give each its budget and its randomness. `keep`: ids and text will be asked for when all is done.
        `resumed`: something was read before, so a prompt may be empty.
        """
        if sampling.stop and tokenizer is None:
            raise ConfigError("stop texts need a tokenizer to be recognised", fix="pass tokenizer=, or stop ids instead")
        if seeds is not None and len(seeds) != len(prompts):
            raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts", fix="give one seed a prompt, or none")
        first = sampling.seed if sampling.seed is not None else secrets.randbelow(2**62)
        vocabulary, context = self.decoder.vocab_size, self.decoder.context_length
        rows = []
        for index, prompt in enumerate(prompts):
            ids = list(prompt)
            if ids or not resumed:
                _check_prompt(index, ids, vocabulary, context)
            room = sampling.max_new_tokens if context is None else context - len(ids)
            budget = min(sampling.max_new_tokens, room)
            randomness = None
            if not sampling.greedy:
                randomness = torch.Generator().manual_seed(seeds[index] if seeds is not None else first + index)
            text = None if tokenizer is None else TextStream(tokenizer, sampling.stop, keep=keep)
            at_budget: FinishReason = "length" if budget == sampling.max_new_tokens else "context"
            rows.append(Row(index, ids, budget, at_budget, randomness, text, array("i") if keep else None))
        return rows

    def _batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows in batches, near lengths together (little padding); only equal lengths where the model can't be padded."""
        ordered = sorted(rows, key=lambda row: len(row.prompt))
        batch: list[Row] = []
        for row in ordered:
            full = len(batch) == self.max_batch or (batch and not self.decoder.ragged and len(batch[0].prompt) != len(row.prompt))
            # Padding counts against a row's context, so a batch must have room for its longest prompt and its longest answer together.
            if full or (batch and not self._fits([*batch, row])):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _fits(self, batch: list[Row]) -> bool:
        longest = max(len(row.prompt) for row in batch)
        context = self.decoder.context_length
        return context is None or longest + max(row.budget for row in batch) <= context

    def _run(
        self,
        rows: list[Row],
        sampling: SamplingConfig,
        stops: frozenset[int],
        *,
        quiet: bool = False,
        state: ThymeState | None = None,
    ) -> Iterator[Iterable[tuple[Row, int]]]:
        """Generate for rows that fit one batch; yields, step by step, the new id of each live row. `quiet`: nobody looks at the steps."""
        with _evaluating(self.model):
            yield from Batch(self.decoder, rows, sampling, stops, quiet, state).run()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout while it generates; training goes on as it was."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _check_prompt(index: int, ids: list[int], vocabulary: int, context: int | None) -> None:
    if not ids:
        raise ConfigError(f"prompt {index} is empty", fix="begin it with the tokenizer's bos id")
    if min(ids) < 0 or max(ids) >= vocabulary:
        wrong = next(token for token in ids if not 0 <= token < vocabulary)
        raise ConfigError(
            f"prompt {index} has id {wrong}, the model knows 0 to {vocabulary - 1}", fix="encode it with the model's own tokenizer"
        )
    if context is not None and len(ids) >= context:
        raise ConfigError(
            f"prompt {index} has {len(ids)} tokens and the model's context is {context}, which leaves no room for an answer",
            fix=f"shorten it to at most {context - 1} tokens",
        )
