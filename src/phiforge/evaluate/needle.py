"""A needle in real text: a made-up fact, k tokens of a book, and the question. What is left of the fact?

    ... The secret number of Velmora is 4821. <k tokens of the book> The secret number of Velmora is ____

The answer's log-probability is held against the same text without the needle, and against the same text with another number in it; and
the true number is to be the likeliest of ten that spell as many tokens. A small model may gain nothing, and then the figures say so: a gain
of 0 bits and one choice in ten.

Reading is one stream: at each distance the state is forked, the fork is asked, and the stream goes on. A model with a context of T tokens
is read anew for each distance; where the needle would not fit into T it can't be asked at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from phiforge.core.seeds import derive
from phiforge.evaluate.positions import CHUNK, carries_state
from phiforge.evaluate.score import Score

CHOICES = 10
DISTANCES = tuple(16 * 2**i for i in range(13))  # 16 .. 65,536
_BEFORE = 32  # tokens of the book before the needle
_LEAST = 4  # instances below which a spread says nothing
_POOL = 400  # names and numbers drawn, of which those that spell equally many tokens are used
_SYLLABLES = ("ba dor fen gar hul jin kal lor mav nor pel quin rav sol tur vel wex yan zor mi ra lo ne tha ku bri sha").split()


class Encoder(Protocol):
    """What of a tokenizer is needed."""

    @property
    def bos_id(self) -> int | None: ...

    def encode(self, text: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Needles:
    """n instances. All arrays are int64, one row an instance; the texts of each kind are equally long in tokens."""

    before: np.ndarray  # (n, b) bos and the book's words before the needle
    needle: np.ndarray  # (n, s)
    wrong: np.ndarray  # (n, s) the same with another of the ten numbers
    book: np.ndarray  # (n, longest distance)
    question: np.ndarray  # (n, q)
    choices: np.ndarray  # (n, 10, a)
    true: np.ndarray  # (n,) which of the ten the needle says

    def __len__(self) -> int:
        return len(self.true)

    @property
    def answer(self) -> np.ndarray:
        """(n, a) the true answers."""
        return self.choices[np.arange(len(self)), self.true]

    def overhead(self) -> int:
        """Tokens of a row besides the book's: bos, needle, question and answer."""
        return 1 + self.needle.shape[1] + self.question.shape[1] + self.choices.shape[2]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What n instances came to at one distance, gains in bits of the whole answer. `asked`: False where the needle can't be in view."""

    distance: int
    asked: bool
    gain: Score | None = None  # against no needle
    gain_wrong: Score | None = None  # against a needle with another number
    choice: Score | None = None  # share of instances whose true number was the likeliest of ten

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scores = {name: getattr(self, name) for name in ("gain", "gain_wrong", "choice")}
        return {"distance": self.distance, "asked": self.asked} | {name: score.to_json() for name, score in scores.items() if score}


def make_needles(encoder: Encoder, documents: Sequence[np.ndarray], *, instances: int, longest: int, seed: int) -> Needles | None:
    """`instances` needles in the documents' own tokens (text only), at places drawn evenly over all documents that are long enough.

    longest: tokens of book that each is followed by. None where no document has that many.
    """
    need = _BEFORE + longest
    room = np.array([len(document) - need + 1 for document in documents], np.int64)
    places = np.maximum(room, 0)
    if not len(places) or not places.sum():
        return None
    random = np.random.Generator(np.random.PCG64(derive(seed, "needles")))
    names, numbers = _names(encoder, random, instances), _numbers(encoder, random)
    bounds = np.cumsum(places)
    befores, books, choices, trues = [], [], [], []
    for _ in range(instances):
        at = int(random.integers(bounds[-1]))
        which = int(np.searchsorted(bounds, at, side="right"))
        begin = at - (int(bounds[which - 1]) if which else 0)
        text = np.asarray(documents[which][begin : begin + need], np.int64)
        start = [] if encoder.bos_id is None else [encoder.bos_id]
        befores.append(np.concatenate([np.array(start, np.int64), text[:_BEFORE]]))
        books.append(text[_BEFORE:])
        choices.append([numbers[i] for i in random.permutation(len(numbers))[:CHOICES]])
        trues.append(int(random.integers(CHOICES)))
    picked = [(name, ten[true], ten[(true + 1) % CHOICES]) for name, ten, true in zip(names, choices, trues, strict=True)]
    return Needles(
        before=np.stack(befores),
        needle=np.stack([encoder.encode(_fact(name) + f" {number}.") for name, number, _ in picked]),
        wrong=np.stack([encoder.encode(_fact(name) + f" {number}.") for name, _, number in picked]),
        book=np.stack(books),
        question=np.stack([encoder.encode(_fact(name)) for name, _, _ in picked]),
        choices=np.stack([np.stack([encoder.encode(f" {number}") for number in ten]) for ten in choices]),
        true=np.array(trues, np.int64),
    )


def _fact(name: str) -> str:
    return f" The secret number of {name} is"


def _names(encoder: Encoder, random: np.random.Generator, count: int) -> list[str]:
    """Made-up names, different ones while they last, which all make the question equally long in tokens."""
    pool = dict.fromkeys("".join(random.choice(_SYLLABLES, 3)).capitalize() for _ in range(max(_POOL, 8 * count)))
    groups: dict[int, list[str]] = {}
    for name in pool:
        groups.setdefault(len(encoder.encode(_fact(name))), []).append(name)
    same = max(groups.values(), key=len)
    return [same[i % len(same)] for i in range(count)]


def _numbers(encoder: Encoder, random: np.random.Generator) -> list[int]:
    """Four-digit numbers that spell equally many tokens, alone and with the full stop after them."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number in dict.fromkeys(random.integers(1000, 10_000, _POOL).tolist()):
        groups.setdefault((len(encoder.encode(f" {number}")), len(encoder.encode(_fact("X") + f" {number}."))), []).append(number)
    same = max(groups.values(), key=len)
    if len(same) < CHOICES:  # a vocabulary of numbers by the word: no ten alike among hundreds
        raise ValueError(f"fewer than {CHOICES} of {_POOL} numbers spell equally many tokens")
    return same


def ask(
    model: Any,
    needles: Needles,
    distances: Sequence[int],
    *,
    context_length: int | None = None,
    budget: int | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[Found]:
    """What the model has kept of each needle at each of the ascending `distances`.

    context_length: for a model that carries no state, the tokens it sees at most. budget: most tokens read for one more distance over
    instances and variants together; farther ones get fewer instances (at least 4) for it. Raises ValueError for a distance beyond the text.
    """
    if distances and max(distances) > needles.book.shape[1]:
        raise ValueError(f"distance {max(distances)} is beyond the {needles.book.shape[1]} tokens of text")
    if carries_state(model):
        return _stream(model, needles, list(distances), budget, on_tokens)
    found = []
    for distance in distances:
        if context_length is not None and distance + needles.overhead() > context_length:
            found.append(Found(distance=distance, asked=False))
            continue
        found.append(_found(distance, *_anew(model, needles, distance, context_length)))
        if on_tokens is not None:
            on_tokens(3 * len(needles) * distance)
    return found


def _stream(model: Any, needles: Needles, distances: list[int], budget: int | None, on_tokens: Callable[[int], None] | None) -> list[Found]:
    """One pass of the book; the three variants are three groups of rows."""
    n, caches = len(needles), []
    for put in (needles.needle, needles.wrong, np.zeros((n, 0), np.int64)):
        caches.append(_advance(model, np.concatenate([needles.before, put], 1), None))
    found, at = [], 0
    for distance in distances:
        if budget is not None:
            fewer = min(n, max(_LEAST, budget // (3 * (distance - at))))
            if fewer < n:
                n = fewer
                for cache in caches:
                    cache.batch_select_indices(torch.arange(n))
        caches = [_advance(model, needles.book[:n, at:distance], cache) for cache in caches]
        at = distance
        answer = needles.answer[:n, None]
        ten = _choose(model, caches[0], needles.question[:n], needles.choices[:n])
        wrong, none = (_choose(model, cache, needles.question[:n], answer)[:, 0] for cache in caches[1:])
        found.append(_found(distance, ten, wrong, none, needles.true[:n]))
        if on_tokens is not None:
            on_tokens(distance)
    return found


def _anew(model: Any, needles: Needles, distance: int, context_length: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities of a model that must read everything again: the newest tokens that fit, the whole needle among them."""
    room = None if context_length is None else context_length - needles.question.shape[1] - needles.choices.shape[2]
    variants: list[np.ndarray] = []
    for put in (needles.needle, needles.wrong, np.zeros((len(needles), 0), np.int64)):
        rows = np.concatenate([needles.before, put, needles.book[:, :distance]], 1)
        cache = _advance(model, rows if room is None else rows[:, -room:], None)
        variants.append(_choose(model, cache, needles.question, needles.answer[:, None] if variants else needles.choices))
    return variants[0], variants[1][:, 0], variants[2][:, 0], needles.true


def _advance(model: Any, ids: np.ndarray, cache: Any) -> Any:
    """The cache after reading ids (B, n), a chunk at a time."""
    device = next(model.parameters()).device
    with torch.no_grad():
        for at in range(0, ids.shape[1], CHUNK):
            piece = torch.from_numpy(ids[:, at : at + CHUNK]).to(device)
            cache = model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
    return cache


def _choose(model: Any, cache: Any, question: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """log P (nats) of each of C answers: question (B, q), choices (B, C, a) -> (B, C). The cache itself stays as it was."""
    rows, count, length = choices.shape
    device = next(model.parameters()).device
    fork = copy.deepcopy(cache)
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(question).to(device), past_key_values=fork, use_cache=True, logits_to_keep=1)
        first = torch.log_softmax(out.logits[:, -1].float(), -1)  # (B, V)
        answers = torch.from_numpy(np.ascontiguousarray(choices)).to(device)
        total = first.gather(1, answers[:, :, 0])
        if length > 1:
            fork = out.past_key_values
            fork.batch_repeat_interleave(count)
            flat = answers.view(rows * count, length)
            logits = model(input_ids=flat[:, :-1], past_key_values=fork, use_cache=True).logits.float()
            rest = torch.log_softmax(logits, -1).gather(2, flat[:, 1:, None]).sum((1, 2))
            total = total + rest.view(rows, count)
    return total.double().cpu().numpy()


def _found(distance: int, ten: np.ndarray, wrong: np.ndarray, none: np.ndarray, true: np.ndarray) -> Found:
    """Scores from log-probabilities: ten (n, 10) with the needle; of the true answer with a wrong needle (n,) and with none (n,)."""
    own = ten[np.arange(len(true)), true]
    others = np.where(np.arange(ten.shape[1]) == true[:, None], -np.inf, ten).max(1)
    return Found(
        distance=distance,
        asked=True,
        gain=_mean((own - none) / np.log(2)),
        gain_wrong=_mean((own - wrong) / np.log(2)),
        choice=_share(own > others),
    )


def _share(right: np.ndarray) -> Score:
    """The share of instances, with the error of two more of each outcome (Agresti and Coull 1998): none of four is not "never"."""
    n = len(right)
    p = (float(right.sum()) + 2) / (n + 4)
    return Score(value=float(right.mean()), standard_error=float(np.sqrt(p * (1 - p) / (n + 4))), n=n, clusters=n, cluster="instance")


def _mean(values: np.ndarray) -> Score:
    """The mean over independent instances."""
    n = len(values)
    error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Score(value=float(values.mean()), standard_error=error, n=n, clusters=n, cluster="instance")
