"""The second pass over a part, where it needs one: its documents go to the sides that were settled for them, whole or cut.

A part whose worker guessed every side right, and of which nothing was left out since, is not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.core.atomic import writing
from phiforge.data.decide import GLOBAL_REASONS, UNREAD, VALIDATION
from phiforge.data.document import Document
from phiforge.data.parts import SIDES, Lines, Part, json_line, token_type
from phiforge.data.routes import Router, by_block, by_chunk, by_tail
from phiforge.data.work import cleaner_of, tokenizer_of

MARK = ".2"  # of the files that this pass makes, before their suffix
_COLUMNS = ("characters", "bytes", "tokens")


@dataclass(frozen=True)
class Cut:
    """How documents are cut. kind: chunks, blocks, tail."""

    kind: str
    size: int = 0  # of chunks and blocks
    held: frozenset[str] | bytes = b""  # names of blocks; of each chunk of the part, 0 or 1
    border: int = 0
    at: int = 0

    def router(self) -> Router:
        """What does it."""
        if self.kind == "chunks":
            assert isinstance(self.held, bytes)
            return by_chunk(np.frombuffer(self.held, bool), self.size)
        if self.kind == "blocks":
            assert isinstance(self.held, frozenset)
            return by_block(self.held, self.size)
        return by_tail(self.border, self.at)


@dataclass(frozen=True)
class SecondTask:
    """A part, the state of its documents, and how they are cut, if they are."""

    folder: str
    key: str
    state: bytes
    config: str
    tokenizer: str | None = None
    cut: Cut | None = None


@dataclass
class Piece:
    """What one part gives to one side. tokens: None where none were made. columns (D,): characters, bytes, tokens of each document."""

    documents: Path
    tokens: Path | None
    columns: dict[str, np.ndarray]
    digests: np.ndarray  # (D, 32) uint8


def needs_second(part: Part, state: np.ndarray) -> bool:
    """Whether what came through is not simply the two files that are there."""
    reason, guess = part.columns("reason", "guess")
    return bool((state != guess)[reason == 0].any())


def pieces(part: Part, state: np.ndarray, *, second: bool, cut: bool, tokens: bool) -> dict[str, Piece]:
    """What a part gives to each side."""
    found: dict[str, Piece] = {}
    mark = MARK if second else ""
    for side, name in enumerate(SIDES):
        if cut:
            with np.load(part.path(f"{MARK}.npz")) as made:
                columns = {column: made[f"{name}_{column}"] for column in _COLUMNS}
                digests = made[f"{name}_digest"]
        else:
            mine = state == side
            columns = {column: part.column(column)[mine] for column in _COLUMNS}
            digests = part.column("digest")[mine]
        path = part.path(f"{mark}.{name}.tok") if tokens else None
        found[name] = Piece(part.path(f"{mark}.{name}.zst"), path, columns, digests)
    return found


def second_pass(task: SecondTask) -> str:
    """Write the two sides of a part anew; its key. Raises DataError, PreflightError."""
    part = Part(Path(task.folder), task.key)
    with writing(part.folder):
        if task.cut is None:
            _sort(part, np.frombuffer(task.state, np.uint8), task)
        else:
            _cut(part, np.frombuffer(task.state, np.uint8), task, task.cut)
        if cleaner_of(task.config)[0].save_dropped:
            _copy_dropped(part, np.frombuffer(task.state, np.uint8))
    return task.key


def _sort(part: Part, state: np.ndarray, task: SecondTask) -> None:
    """Whole documents, in the order in which they were read."""
    with ExitStack() as opened:
        out = [opened.enter_context(Lines(part.path(f"{MARK}.{name}.zst"))) for name in SIDES]
        for line, at in zip(part.all_lines(), state[part.column("reason") == 0], strict=True):
            if at <= VALIDATION:
                out[at].write(line + b"\n")
    if task.tokenizer:
        _sort_tokens(part, state, token_type(tokenizer_of(task.tokenizer).vocab_size))


def _sort_tokens(part: Part, state: np.ndarray, dtype: np.dtype[Any]) -> None:
    reason, guess, tokens = part.columns("reason", "guess", "tokens")
    sources = [np.fromfile(part.path(f".{name}.tok"), dtype) for name in SIDES]
    at = [0, 0]
    with ExitStack() as opened:
        streams = [opened.enter_context(part.path(f"{MARK}.{name}.tok").open("wb")) for name in SIDES]
        for row in np.flatnonzero(reason == 0):
            side, count = int(guess[row]), int(tokens[row])
            if state[row] <= VALIDATION:
                streams[state[row]].write(sources[side][at[side] : at[side] + count].tobytes())
            at[side] += count


def kept_documents(part: Part, state: np.ndarray) -> Iterator[Document]:
    """The documents of a part that are kept, with their text."""
    came_through = state[part.column("reason") == 0]
    for line, at in zip(part.all_lines(), came_through, strict=True):
        if at <= VALIDATION:
            record = json.loads(line)
            yield Document(record["id"], record["text"], record["source"])


def _cut(part: Part, state: np.ndarray, task: SecondTask, cut: Cut) -> None:
    """Documents in pieces: new texts, new ids, new tokens."""
    tokenizer = tokenizer_of(task.tokenizer) if task.tokenizer else None
    route = cut.router()
    numbers: dict[str, list[int]] = {f"{name}_{column}": [] for name in SIDES for column in _COLUMNS}
    digests: dict[str, list[bytes]] = {name: [] for name in SIDES}
    with ExitStack() as opened:
        out = {name: opened.enter_context(Lines(part.path(f"{MARK}.{name}.zst"))) for name in SIDES}
        named = SIDES if tokenizer else ()
        tokens = {name: opened.enter_context(part.path(f"{MARK}.{name}.tok").open("wb")) for name in named}
        for side, piece in (found for document in kept_documents(part, state) for found in route(document)):
            encoded, count = piece.text.encode("utf-8"), 0
            if tokenizer is not None:
                dtype = token_type(tokenizer.vocab_size)
                ids = np.concatenate([[tokenizer.bos_id], tokenizer.raw_batch([piece.text], threads=1)[0], [tokenizer.eos_id]])
                tokens[side].write(ids.astype(dtype).tobytes())
                count = len(ids)
            out[side].write(json_line(piece.id, encoded, piece.source))
            digests[side].append(hashlib.sha256(encoded).digest())
            for column, value in zip(_COLUMNS, (len(piece.text), len(encoded), count), strict=True):
                numbers[f"{side}_{column}"].append(value)
    arrays: dict[str, np.ndarray] = {name: np.array(values, np.int64) for name, values in numbers.items()}
    arrays |= {f"{name}_digest": np.frombuffer(b"".join(digests[name]), np.uint8).reshape(-1, 32) for name in SIDES}
    np.savez(part.path(f"{MARK}.npz"), allow_pickle=False, **arrays)


def _copy_dropped(part: Part, state: np.ndarray) -> None:
    """What was left out by the worker and since, each with its reason."""
    reason = part.column("reason")
    lines, rest = part.all_lines(), part.lines("dropped")
    with Lines(part.path(f"{MARK}.dropped.zst")) as dropped:
        for row, at in enumerate(state):
            line = next(lines) if reason[row] == 0 else next(rest)
            if at > VALIDATION and at != UNREAD:
                why = f', "reason": {json.dumps(GLOBAL_REASONS[int(at)])}}}\n'.encode() if reason[row] == 0 else b"}\n"
                dropped.write(line[:-1] + why)
