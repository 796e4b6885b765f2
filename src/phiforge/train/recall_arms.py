"""The models that the synthetic tasks compare, of equal size, and how one of them learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.core.seeds import derive
from phiforge.evaluate.memory_tasks import Alphabet, Batch, make, row_length
from phiforge.evaluate.score import Score
from phiforge.models import decoder
from phiforge.models.sizes import DecoderShape, DecoderSpec, resolve
from phiforge.models.thyme.modeling import build_thyme
from phiforge.models.thyme.spec import ThymeSpec, resolve_thyme
from phiforge.optim.build import OptimizerSettings, build
from phiforge.train.recall_config import Kind, RecallConfig

TOLERANCE = 0.02  # two models of one size differ by at most this share of their parameters


@dataclass(frozen=True)
class Kindred:
    """A kind of model: its name, what a person calls it, how it is built from a seed, and its rate."""

    name: str
    label: str
    make: Callable[[int], Any]
    learning_rate: float
    twin: bool = True  # whether it is of the common size


def alphabet_of(config: RecallConfig) -> Alphabet:
    """The vocabulary of the tasks."""
    return Alphabet(keys=config.keys, values=config.values)


def longest_row(config: RecallConfig) -> int:
    """Tokens of the longest row there is."""
    return max(row_length(kind, config.sizes[-1]) for kind in config.tasks)


def kinds(config: RecallConfig) -> list[Kindred]:
    """The kinds to compare, the constant-state model first. Raises ConfigError where the decoder can't be made as large."""
    vocabulary = alphabet_of(config).vocab_size
    thyme = resolve_thyme(config.model.model_copy(update={"vocab_size": vocabulary}))
    attention = twin_of(thyme.parameters(), config.attention, vocabulary, longest_row(config))
    rate = config.learning_rate
    found = [
        Kindred("thyme", "Thyme", lambda seed: build_thyme(thyme, seed=seed), rate),
        Kindred("attention", "attention decoder", lambda seed: decoder.build(attention, seed=seed), config.attention_learning_rate or rate),
    ]
    if config.literal:
        literal = resolve_thyme(ThymeSpec(form="literal", vocab_size=vocabulary, width=config.model.width, dropout=0.0))
        found.append(Kindred("literal", "Thyme, literal", lambda seed: build_thyme(literal, seed=seed), rate, twin=False))
    return found


def twin_of(parameters: int, spec: DecoderSpec, vocab_size: int, context_length: int) -> DecoderShape:
    """The decoder of this spec with so many parameters, within 2 %: what its MLP's width is for.

    Raises:
        ConfigError: no width of the MLP comes near.
    """
    asked = spec.model_copy(update={"vocab_size": vocab_size, "context_length": context_length})

    def shaped(width: int) -> DecoderShape:
        return resolve(asked.model_copy(update={"mlp_width": width}))

    least, next_ = shaped(8).parameters(), shaped(9).parameters()
    shape = shaped(max(8, 8 + round((parameters - least) / (next_ - least))))  # the count is linear in the MLP's width
    if abs(shape.parameters() / parameters - 1) > TOLERANCE:
        raise ConfigError(
            f"attention: no MLP width gives {parameters:,} parameters; the nearest has {shape.parameters():,}",
            fix="another attention.width or attention.depth",
        )
    return shape


@dataclass
class Learner:
    """One model as it learns; `seconds` of CPU (all threads) are those of its steps alone."""

    kind: Kindred
    seed: int
    config: RecallConfig
    model: Any
    optimizer: torch.optim.Optimizer
    rates: list[float]
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def new(cls, kind: Kindred, seed: int, config: RecallConfig) -> Learner:
        """Fresh weights from the seed."""
        model = kind.make(seed)
        settings = OptimizerSettings(learning_rate=kind.learning_rate, weight_decay=config.weight_decay, adam_beta2=config.adam_beta2)
        optimizer = build("adamw", model, settings)
        return cls(kind, seed, config, model.train(), optimizer, [group["lr"] for group in optimizer.param_groups])

    def train(self, steps: int, planned: int) -> Iterator[float]:
        """Go on for `steps` steps; yields each loss. planned: the steps that the curriculum is spread over.

        Raises:
            PhiforgeError: the loss is no number any more.
        """
        alphabet = alphabet_of(self.config)
        for _ in range(steps):
            kind, size = lesson(self.config, self.seed, self.step, planned)
            rows = max(1, self.config.tokens_per_step // row_length(kind, size))
            batch = make(kind, size, rows, alphabet, self.seed, "train", self.step)
            began = time.process_time()
            loss = self._step(batch)
            self.seconds += time.process_time() - began
            self.step += 1
            self.tokens += batch.tokens.size
            if not np.isfinite(loss):
                raise PhiforgeError(
                    f"{self.kind.label}, seed {self.seed}: the loss is {loss} at step {self.step}", fix="lower learning_rate"
                )
            yield loss

    def _step(self, batch: Batch) -> float:
        warm = min(1.0, (self.step + 1) / (self.config.warmup_steps + 1))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm
        logits, targets = answers(self.model, batch)
        loss = F.cross_entropy(logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return float(loss.detach())


def lesson(config: RecallConfig, seed: int, step: int, planned: int) -> tuple[Kind, int]:
    """Which task, and how large, at a step: the same for every model of a seed.

    The tasks take turns; the size is drawn from those that the curriculum has reached, every other time the largest of them.
    """
    rise = config.curriculum * planned
    reached = len(config.sizes) if step >= rise else 1 + int(step / rise * len(config.sizes))
    draw = derive(seed, "lesson", step)
    index = reached - 1 if draw & 1 else (draw >> 1) % reached
    return config.tasks[step % len(config.tasks)], config.sizes[index]


def answers(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, V) where an answer is asked for, and the answers (N,). The head is given those places only."""
    asked = torch.from_numpy(np.flatnonzero(batch.asked[0]))
    hidden = model.model(input_ids=torch.from_numpy(batch.tokens), use_cache=False).last_hidden_state[:, asked]
    return model.lm_head(hidden).flatten(0, 1), torch.from_numpy(batch.targets)[:, asked].flatten()


def examine(model: Any, config: RecallConfig, seed: int) -> dict[tuple[Kind, int], Score]:
    """Accuracy at each task and size on rows never trained on; the error is over rows, which are independent."""
    alphabet, found = alphabet_of(config), {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for kind in config.tasks:
            for size in config.sizes:
                batch = make(kind, size, max(16, -(-config.test_answers // size)), alphabet, seed, "test")
                logits, targets = answers(model, batch)
                right = (logits.argmax(-1) == targets).view(len(batch.tokens), -1).double().mean(1).numpy()
                error = float(right.std(ddof=1) / np.sqrt(len(right)))
                found[kind, size] = Score(
                    value=float(right.mean()), standard_error=error, n=targets.numel(), clusters=len(right), cluster="row"
                )
    model.train(was_training)
    return found
