"""Batched, cached generation for any of our models.

    engine = Engine(model)
    completions = engine.generate([[5, 6, 7], [8]], SamplingConfig(temperature=0.0, max_new_tokens=32), stop_ids=[2])
    for piece in engine.stream([5, 6, 7], sampling, tokenizer=tokenizer): print(piece.text, end="")

Stock starcoder2 and llama models take the fast paths (`native`, `stock`); every other causal model goes through its own forward
(`reference`). A prompt must leave room for one token in the model's context, or it is an error; a row that reaches the end of the context
ends there with finish reason "context": nothing is dropped from the front of a prompt in silence.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from phiforge.core.errors import ConfigError
from phiforge.generate.config import SamplingConfig
from phiforge.generate.decoder import Decoder, Session
from phiforge.generate.native import NativeDecoder, NativeSession
from phiforge.generate.reference import ReferenceDecoder
from phiforge.generate.stock import StockDecoder, stock_shape
from phiforge.generate.text import Decodes, TextStream

AHEAD = 16  # greedy steps gone at once where a row may stop on the way: what comes after its stop is work for nothing
FinishReason = Literal["stop", "length", "context"]
Path = Literal["auto", "native", "stock", "reference"]


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


@dataclass
class _Row:
    """One prompt under way."""

    index: int
    prompt: list[int]
    budget: int
    at_budget: FinishReason
    uniforms: Tensor | None  # (budget,) the row's own randomness, drawn beforehand
    text: TextStream | None
    ids: list[int]
    reason: FinishReason | None = None


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

    @property
    def context_length(self) -> int | None:
        """Most tokens in one row, prompt included; None when the model has no bound."""
        return self.decoder.context_length

    def refresh(self) -> None:
        """Take the model's weights as they are now."""
        self.decoder.refresh()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        stop_ids: Iterable[int] = (),
        tokenizer: Decodes | None = None,
        on_token: Callable[[int, int], None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Complete every prompt; the completions in the prompts' order.

        Prompts may differ in length. Row i draws from its own stream, seeded with `sampling.seed + i` (or `seeds[i]`), so what it samples
        does not depend on the rows around it. `stop_ids` end a row; so do `sampling.stop` texts, which need the tokenizer.
        `on_token(row, id)` is called for every new id.
        """
        rows = self._rows(prompts, sampling, tokenizer, seeds)
        stops = frozenset(stop_ids)
        for rows_together in self._batches(rows):
            for fresh in self._run(rows_together, sampling, stops, quiet=on_token is None):
                if on_token is not None:
                    for row, token in fresh:
                        on_token(row.index, token)
        completions = []
        for row in rows:
            assert row.reason is not None
            if row.text is not None:
                row.text.finish()
            completions.append(Completion(row.ids, row.reason, row.text.text if row.text is not None else ""))
        return completions

    def stream(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        stop_ids: Iterable[int] = (),
        tokenizer: Decodes | None = None,
    ) -> Iterator[Piece]:
        """Complete one prompt piece by piece. Texts hold whole characters only; the last piece has no id and carries the finish reason."""
        (row,) = self._rows([prompt], sampling, tokenizer, None)
        shown = 0
        for fresh in self._run([row], sampling, frozenset(stop_ids)):
            ready = "" if row.text is None else row.text.shown
            yield Piece([token for _, token in fresh], ready[shown:])
            shown = len(ready)
        yield Piece([], "" if row.text is None else row.text.finish(), row.reason)

    def _rows(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, tokenizer: Decodes | None, seeds: Sequence[int] | None
    ) -> list[_Row]:
        """Check the prompts and give each its budget and its randomness."""
        if sampling.stop and tokenizer is None:
            raise ConfigError("stop texts need a tokenizer to be recognised", fix="pass tokenizer=, or stop ids instead")
        if seeds is not None and len(seeds) != len(prompts):
            raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts", fix="give one seed a prompt, or none")
        first = sampling.seed if sampling.seed is not None else secrets.randbelow(2**62)
        vocabulary, context = self.decoder.vocab_size, self.decoder.context_length
        rows = []
        for index, prompt in enumerate(prompts):
            ids = list(prompt)
            _check_prompt(index, ids, vocabulary, context)
            room = sampling.max_new_tokens if context is None else context - len(ids)
            budget = min(sampling.max_new_tokens, room)
            uniforms = None
            if not sampling.greedy:
                stream = torch.Generator().manual_seed(seeds[index] if seeds is not None else first + index)
                uniforms = torch.rand(budget, generator=stream)
            text = None if tokenizer is None else TextStream(tokenizer, sampling.stop)
            rows.append(_Row(index, ids, budget, "length" if budget == sampling.max_new_tokens else "context", uniforms, text, []))
        return rows

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows in batches, near lengths together (little padding); only equal lengths where the model can't be padded."""
        ordered = sorted(rows, key=lambda row: len(row.prompt))
        batch: list[_Row] = []
        for row in ordered:
            full = len(batch) == self.max_batch or (batch and not self.decoder.ragged and len(batch[0].prompt) != len(row.prompt))
            # Padding counts against a row's context, so a batch must have room for its longest prompt and its longest answer together.
            if full or (batch and not self._fits([*batch, row])):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _fits(self, batch: list[_Row]) -> bool:
        longest = max(len(row.prompt) for row in batch)
        context = self.decoder.context_length
        return context is None or longest + max(row.budget for row in batch) <= context

    def _run(
        self, rows: list[_Row], sampling: SamplingConfig, stops: frozenset[int], *, quiet: bool = False
    ) -> Iterator[Iterable[tuple[_Row, int]]]:
        """Generate for rows that fit one batch; yields, step by step, the new id of each live row. `quiet`: nobody looks at the steps."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            yield from _Batch(self.decoder, rows, sampling, stops, quiet).run()
        finally:
            if training:
                self.model.train()


class _Batch:
    """Rows that step together; the finished ones leave once they are a quarter of the batch (leaving costs a copy of the cache).

    New ids are kept as columns, one list a step, and handed to their rows when rows leave: a step costs no Python loop over the rows unless
    a row may end there. Where nobody looks at the steps and the decoder can go several greedy steps by itself, it does.
    """

    def __init__(self, decoder: Decoder, rows: list[_Row], sampling: SamplingConfig, stops: frozenset[int], quiet: bool) -> None:
        self.decoder, self.rows, self.sampling, self.stops = decoder, rows, sampling, stops
        self.columns: list[list[int]] = []
        self.flushed = 0  # steps whose ids the rows already have
        self.watched = any(row.text is not None for row in rows)
        self.alone = quiet and not self.watched and sampling.greedy and sampling.repetition_penalty == 1
        self.seen: Tensor | None = None
        self.uniforms: Tensor | None = None

    def run(self) -> Iterator[Iterable[tuple[_Row, int]]]:
        room = max(row.budget for row in self.rows)
        nearest = min(row.budget for row in self.rows)
        try:
            with torch.inference_mode():
                session, logits = self.decoder.start([row.prompt for row in self.rows], room)
                self._prepare(logits, room)
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
                    ahead = min(nearest - 1 - step, AHEAD if self.stops else nearest)
                    if self.alone and ahead > 1 and isinstance(session, NativeSession):
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

    def _take(self, chosen: list[int], step: int, nearest: int) -> None:
        """Write down the ids of a step, and end the rows that end there."""
        self.columns.append(chosen)
        if self.watched or step + 1 >= nearest or not self.stops.isdisjoint(chosen):
            self._end_rows(chosen, step)

    def _prepare(self, logits: Tensor, room: int) -> None:
        """What sampling needs beside the logits: (room, B) uniforms and, with a repetition penalty, the tokens seen (B, V)."""
        if not self.sampling.greedy:
            uniforms = torch.zeros(room, len(self.rows))
            for place, row in enumerate(self.rows):
                if row.uniforms is not None:
                    uniforms[: row.budget, place] = row.uniforms
            self.uniforms = uniforms.to(logits.device)
        if self.sampling.repetition_penalty != 1:
            self.seen = torch.zeros(logits.shape, dtype=torch.bool)
            for line, row in zip(self.seen, self.rows, strict=True):
                line[row.prompt] = True
            self.seen = self.seen.to(logits.device)

    def _choose(self, logits: Tensor, step: int) -> Tensor:
        tokens = self.decoder.choose(logits, self.sampling, None if self.uniforms is None else self.uniforms[step], self.seen)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        return tokens

    def _end_rows(self, chosen: list[int], step: int) -> None:
        """See which live rows end with their new id: at a stop id, a stop text, or the end of their budget."""
        for row, token in zip(self.rows, chosen, strict=True):
            if row.reason is not None:
                continue
            if token in self.stops:
                row.reason = "stop"
            elif row.text is not None:
                row.text.push(token)
                row.reason = "stop" if row.text.stopped else None
            if row.reason is None and step + 1 == row.budget:
                row.reason = row.at_budget
            if row.reason is not None:
                row.budget = step + 1  # ids after this one are not the row's

    def _flush(self) -> None:
        """Hand the columns since the last flush to their rows."""
        for row, ids in zip(self.rows, zip(*self.columns, strict=True), strict=bool(self.columns)):
            row.ids.extend(ids[: row.budget - self.flushed])
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


def choose_decoder(model: nn.Module, dtype: torch.dtype, path: Path) -> Decoder:
    """The decoder for a model: the fastest that can run it, or the one that was named."""
    shape = None if path == "reference" else stock_shape(model)
    if shape is None:
        if path in ("native", "stock"):
            raise ConfigError(
                f"the {path} path runs stock starcoder2 and llama layouts, not this {type(model).__name__}", fix="use path='auto'"
            )
        if dtype != torch.float32:
            model_dtype = next(model.parameters()).dtype
            if model_dtype != dtype:
                raise ConfigError(
                    f"dtype {dtype} is for the stock layouts; this model runs in its own {model_dtype}", fix="convert the model"
                )
        return ReferenceDecoder(model)
    if path in ("auto", "native"):
        problem = NativeDecoder.problem(model, dtype)
        if problem is None:
            return NativeDecoder(model, shape)
        if path == "native":
            raise ConfigError(f"the native path can't run here: {problem}", fix="use path='auto'")
    return StockDecoder(model, shape, dtype)
