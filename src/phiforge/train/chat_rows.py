"""Conversations as training rows: read, counted, split without leaks, packed so that none sees another.

A row holds whole conversations (best fit, longest first); what is left of it is padding. position_ids restart at 0 at each conversation,
which is how transformers knows that they must not see each other.
Only what the assistant says is a label, and the token that ends its turn.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.core.errors import ConfigError, DataError
from phiforge.data.chats import Chat, chat_files, read_chats
from phiforge.data.packed import IGNORED
from phiforge.train.chat_format import ChatFormat

# Tokens in a row where none are asked for: rows of one short conversation are mostly padding, rows of 32k would not fit a small machine.
LEAST_CONTEXT, MOST_CONTEXT = 256, 2048
_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation up to the end of its last answer. ids, trained (T,); positions = T - 1, what it takes in a row."""

    ids: np.ndarray
    trained: np.ndarray
    question: str
    key: bytes

    @property
    def positions(self) -> int:
        return len(self.ids) - 1

    @property
    def prompt(self) -> list[int]:
        """What the model is given to make the first answer."""
        return [int(token) for token in self.ids[: int(np.argmax(self.trained))]]


@dataclass
class Counts:
    """What became of the conversations that were read."""

    conversations: int = 0
    without_answer: int = 0
    question_too_long: int = 0
    truncated: int = 0
    repeats: int = 0


@dataclass(frozen=True, kw_only=True)
class ChatSet:
    """The conversations of a run, split. context_length: positions in a row."""

    train: list[Example]
    validation: list[Example]
    context_length: int
    counts: Counts
    files: list[str] = field(default_factory=list)


def load(sources: Sequence[str], form: ChatFormat, *, validation_fraction: float, context_length: int | None, most: int) -> ChatSet:
    """Read, encode, cut and split. most: the model's context. Raises DataError (naming the file), ConfigError."""
    if context_length is not None and context_length > most:
        raise ConfigError(f"context_length={context_length} is beyond the model's {most}", fix=f"context_length={most} or less")
    counts, examples = Counts(), []
    files = list(dict.fromkeys(file for source in sources for file in chat_files(Path(source))))
    for file in files:
        before = counts.conversations
        examples += list(_encoded(read_chats(file), form, counts))
        if counts.conversations == before:
            raise DataError(f"{file}: no conversation in it (the file is empty)", fix=_FORM)
    if not examples:
        raise DataError(
            f"{files[0]}{' and others' if len(files) > 1 else ''}: none of {counts.conversations:,} conversations has an assistant turn"
            " with text, so there is nothing to learn from",
            fix=_FORM,
        )
    length = context_length or min(most, MOST_CONTEXT, max(LEAST_CONTEXT, -8 * (-max(e.positions for e in examples) // 8)))
    kept = [cut for example in examples if (cut := _cut(example, length, counts)) is not None]
    if not kept:
        raise DataError(
            f"every question alone fills a row of {length} tokens; no answer is left to learn from",
            fix="a larger context_length, or shorter questions",
        )
    train, validation = split(kept, validation_fraction)
    counts.repeats = len(kept) - len({example.key for example in kept})
    return ChatSet(train=train, validation=validation, context_length=length, counts=counts, files=[str(file) for file in files])


def _encoded(chats: Iterable[Chat], form: ChatFormat, counts: Counts) -> Iterable[Example]:
    for chat in chats:
        counts.conversations += 1
        messages = chat.messages
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        if not any(messages[number]["content"].strip() for number in answers):
            counts.without_answer += 1
            continue
        try:
            ids, trained = form.encode(messages)
        except DataError as error:
            raise DataError(f"{chat.source}: {error.what}", fix=error.fix) from None
        key = hashlib.sha256(json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False).encode()).digest()
        question = messages[answers[0] - 1]["content"] if answers[0] else ""
        yield _up_to_last_answer(Example(ids.astype(np.int32), trained, question, key))


def _up_to_last_answer(example: Example) -> Example:
    end = int(np.flatnonzero(example.trained)[-1]) + 1
    return Example(example.ids[:end], example.trained[:end], example.question, example.key)


def _cut(example: Example, length: int, counts: Counts) -> Example | None:
    """The example within `length` positions; None when no answer is left of it."""
    if example.positions <= length:
        return example
    short = Example(example.ids[: length + 1], example.trained[: length + 1], example.question, example.key)
    if not short.trained.any():
        counts.question_too_long += 1
        return None
    counts.truncated += 1
    return _up_to_last_answer(short)


def split(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(train, validation). Whether a conversation is held out depends on its own text alone (and how many are), not on a seed or an order.

    Equal conversations are on one side; validation has each once. At least one is held out, unless all are equal or the fraction is 0.
    """
    keys = sorted({example.key for example in examples})
    wanted = min(len(keys) - 1, max(1, round(fraction * len(keys)))) if fraction else 0
    held = set(keys[:wanted])
    train = [example for example in examples if example.key not in held]
    validation = list({example.key: example for example in examples if example.key in held}.values())
    return train, validation


def best_fit(sizes: Sequence[int], room: int, order: Sequence[int]) -> list[list[int]]:
    """Items into rows of `room`: the longest first, each into the fullest row that still takes it. `order`: who goes first among equals.

    >>> best_fit([3, 5, 2, 2], 6, [0, 1, 2, 3])
    [[1], [0, 2], [3]]
    """
    rows: list[list[int]] = []
    with_space: dict[int, list[int]] = {}  # free places -> rows that have as many
    spaces: list[int] = []  # its keys, ascending
    for item in sorted(order, key=lambda item: -sizes[item]):
        at = bisect.bisect_left(spaces, sizes[item])
        if at == len(spaces):
            row, space = len(rows), room
            rows.append([])
        else:
            space = spaces[at]
            row = with_space[space].pop()
            if not with_space[space]:
                del with_space[space]
                spaces.pop(at)
        rows[row].append(item)
        left = space - sizes[item]
        if left not in with_space:
            with_space[left] = []
            bisect.insort(spaces, left)
        with_space[left].append(row)
    return rows


class ChatRows:
    """Rows of `context_length` = T positions. As a RowSource: input_ids, shift_labels, position_ids, each (B, T) int64."""

    def __init__(self, examples: Sequence[Example], context_length: int, *, pad_id: int, seed: int) -> None:
        self.examples, self.context_length, self.pad_id = examples, context_length, pad_id
        order = np.random.default_rng(seed).permutation(len(examples)).tolist()
        self.rows = best_fit([example.positions for example in examples], context_length, order)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """The rows `indices`, stacked."""
        shape = (len(indices), self.context_length)
        ids, labels, positions = np.full(shape, self.pad_id), np.full(shape, IGNORED), np.zeros(shape, np.int64)
        for line, index in enumerate(indices):
            at = 0
            for number in self.rows[index]:
                example = self.examples[number]
                end = at + example.positions
                ids[line, at:end] = example.ids[:-1]
                labels[line, at:end] = np.where(example.trained[1:], example.ids[1:], IGNORED)
                positions[line, at:end] = np.arange(example.positions)
                at = end
            positions[line, at:] = np.arange(self.context_length - at)  # padding is one more document, seen by nobody
        return {"input_ids": ids.astype(np.int64), "shift_labels": labels.astype(np.int64), "position_ids": positions}


def facts(chats: ChatSet, rows: ChatRows, form: ChatFormat) -> dict[str, Any]:
    """What data.json says."""

    def side(examples: Sequence[Example]) -> dict[str, Any]:
        tokens, trained = sum(len(e.ids) for e in examples), sum(int(e.trained.sum()) for e in examples)
        return {
            "conversations": len(examples),
            "tokens": tokens,
            "trained_tokens": trained,
            "trained_fraction": round(trained / tokens, 4) if tokens else 0.0,
        }

    used = sum(example.positions for example in chats.train)
    return {
        "files": chats.files,
        "template": form.name,
        "added_tokens": form.added,
        "context_length": chats.context_length,
        **vars(chats.counts),
        "train": {**side(chats.train), "rows": len(rows), "filled": round(used / (len(rows) * chats.context_length), 4)},
        "validation": side(chats.validation),
    }
