"""What a model makes of held-out conversations: how well it foresees the answers, and what it answers itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from phiforge.core.seeds import derive
from phiforge.data.tokenizer import Tokenizer
from phiforge.evaluate.bits_per_byte import Precision, token_losses
from phiforge.evaluate.score import Score, ratio_score
from phiforge.generate.config import SamplingConfig
from phiforge.generate.engine import Engine
from phiforge.train.chat_format import ChatFormat
from phiforge.train.chat_rows import Example


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """Over the assistant's tokens only, the ends of its turns included; errors are clustered by conversation.

    loss: nats a token. accuracy: share of tokens that were the model's first choice. turn_ends: the same of the ends of turns alone.
    bits_per_byte: of the answers' text, ends of turns left out, so that tokenizers compare.
    """

    loss: Score
    accuracy: Score
    turn_ends: Score
    bits_per_byte: Score

    def metrics(self) -> dict[str, float]:
        """Under the names of metrics.jsonl; what has no value (no whole turn, no byte) is left out."""
        found = {
            "eval_loss": self.loss,
            "eval_bits_per_byte": self.bits_per_byte,
            "eval_accuracy": self.accuracy,
            "eval_turn_end_accuracy": self.turn_ends,
        }
        return {name: score.value for name, score in found.items() if math.isfinite(score.value)}


class HeldOut:
    """Held-out conversations, laid out as evaluate.bits_per_byte reads documents."""

    def __init__(self, examples: Sequence[Example], form: ChatFormat, context_length: int) -> None:
        self.context_length, self.turn_end = context_length, form.turn_end
        # The reader never asks for a document's last token (its eos), so each gets one more.
        padded = [np.append(example.ids, form.tokenizer.pad_id) for example in examples]
        self.tokens: np.ndarray = np.concatenate(padded)
        self.starts: np.ndarray = np.cumsum([0, *(len(ids) for ids in padded[:-1])])
        self.trained: np.ndarray = np.concatenate([example.trained[1:] for example in examples])
        self.bytes_of: np.ndarray = token_bytes(form.tokenizer)
        self.n_bytes = int(self.bytes_of[self.tokens].sum())

    def score(self, model: nn.Module, precision: Precision = "fp32") -> AnswerScores:
        """The model's scores now. No random number is drawn."""
        losses = token_losses(model, self, context_length=self.context_length, stride=self.context_length, precision=precision)
        learnt = self.trained
        token, document = losses.token[learnt], losses.document[learnt]
        loss, correct = losses.loss[learnt].astype(np.float64), losses.correct[learnt].astype(np.float64)
        ends = token == self.turn_end
        return AnswerScores(
            loss=ratio_score(loss, np.ones(len(loss)), document),
            accuracy=ratio_score(correct, np.ones(len(loss)), document),
            turn_ends=ratio_score(correct[ends], np.ones(int(ends.sum())), document[ends]),
            bits_per_byte=ratio_score(loss[~ends] / math.log(2), self.bytes_of[token[~ends]].astype(np.float64), document[~ends]),
        )


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) UTF-8 bytes that each token spells; 0 for special tokens."""
    special = set(tokenizer.specials.values())
    return np.array([0 if token in special else len(piece) for token, piece in enumerate(tokenizer.pieces)], np.int64)


def evenly(examples: Sequence[Example], limit_tokens: int | None) -> list[Example]:
    """Conversations spread evenly over all, at most `limit_tokens` tokens together (at least one conversation)."""
    total = sum(example.positions for example in examples)
    if limit_tokens is None or total <= limit_tokens:
        return list(examples)
    wanted = max(1, int(len(examples) * limit_tokens / total))
    return [examples[place * len(examples) // wanted] for place in range(wanted)]


@dataclass(frozen=True)
class Answer:
    """What the model said to a question, and whether it ended its turn by itself."""

    question: str
    text: str
    ended: bool


class Answerer:
    """Answers the first question of each conversation; called with the step, as EarlyWords does."""

    def __init__(self, model: nn.Module, form: ChatFormat, examples: Sequence[Example], tokens: int, seed: int) -> None:
        self.model, self.form, self.tokens, self.seed = model, form, tokens, seed
        context = getattr(getattr(model, "config", None), "max_position_embeddings", 1 << 30)
        self.examples = [example for example in examples if len(example.prompt) < context]

    def __call__(self, step: int) -> list[tuple[str, str]]:
        """(question, answer) pairs; an answer that was cut off ends in an ellipsis."""
        answers = self.answer(derive(self.seed, "samples", step))
        return [(f"{answer.question}\n", answer.text + ("" if answer.ended else " …")) for answer in answers]

    def answer(self, seed: int | None = None) -> list[Answer]:
        """One answer to each; greedy without a seed. The global random state and the model's mode stay as they were."""
        if not self.examples:
            return []
        greedy = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        options = SamplingConfig(max_new_tokens=self.tokens, seed=seed, **({} if seed is not None else greedy))  # type: ignore[arg-type]
        threads = torch.get_num_threads()
        completions = Engine(self.model).generate(
            [example.prompt for example in self.examples], options, stop_ids=self.form.stops, tokenizer=self.form.tokenizer
        )
        torch.set_num_threads(threads)
        return [
            Answer(example.question, completion.text.strip(), completion.finish_reason == "stop")
            for example, completion in zip(self.examples, completions, strict=True)
        ]


def reference(example: Example, form: ChatFormat) -> str | None:
    """The first answer of a held-out conversation as text; None where it was cut off, so that no answer could equal it."""
    trained = np.flatnonzero(example.trained)
    breaks = np.flatnonzero(np.diff(trained) > 1)
    first = example.ids[trained[: breaks[0] + 1 if len(breaks) else len(trained)]]
    ends = np.flatnonzero(np.isin(first, form.stops))
    return form.tokenizer.decode([int(token) for token in first[: ends[0]]]).strip() if len(ends) else None


def items(examples: Sequence[Example], answers: Sequence[Answer], form: ChatFormat) -> list[dict[str, str | bool]]:
    """[{item, correct}]: whether an answer is its reference word for word, ended by the model itself.

    An item is called by its conversation's text, so that runs with other seeds and tokenizers have the same ones.
    """
    pairs = [(example, answer, reference(example, form)) for example, answer in zip(examples, answers, strict=True)]
    return [
        {"item": example.key.hex()[:16], "correct": answer.ended and answer.text == expected}
        for example, answer, expected in pairs
        if expected is not None
    ]
