"""A training stage that draws its result instead of training, so that the comparison around it can be tested in milliseconds."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from phiforge.core.config import Config
from phiforge.core.errors import PhiforgeError
from phiforge.core.runs import Run, RunWriter
from phiforge.core.stages import Role, Stage
from phiforge.lab.trials import Task
from phiforge.lab.trials import run_trial as real_trial
from phiforge.recipes.registry import STAGES
from phiforge.train.config import TrainConfig


class GatherConfig(Config):
    """Text, of a kind."""

    words: int = 100


class FakeConfig(TrainConfig):
    """The result is base + effect * (how far the rate is from best) + noise that the seed shares between arms + a little of its own."""

    effect: float = 0.0
    own_noise: float = 0.01
    best_rate: float = 1e-3
    fail_on: list[int] = []
    nan_on: list[int] = []
    stop_on: list[int] = []
    kill_on: list[int] = []
    sleep: float = 0.0
    shape: str = "plain"
    tokens_a_second: float = 1000.0
    told: str = "eval_bits_per_byte"


def gather(config: GatherConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """A file of words."""
    (run.path / "words.txt").write_text("word " * config.words)
    return {"words": config.words}


def train(config: FakeConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Lines of metrics.jsonl, a model, checkpoints; ends as told."""
    run.decide("precision", lambda: "fp32")
    run.decide(
        "streams", lambda: {"initialisation": f"{config.seed}-{config.shape}", "data_order": config.seed, "dropout": config.dropout_seed}
    )
    (run.path / "checkpoints" / "checkpoint-1").mkdir(parents=True, exist_ok=True)
    (run.path / "checkpoints" / "checkpoint-1" / "weights").write_bytes(b"1" * 100)
    time.sleep(config.sleep)
    if config.seed in config.stop_on and not run.resuming:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    if config.seed in config.kill_on and not run.resuming:
        os.kill(os.getpid(), signal.SIGKILL)
    shared = random.Random(config.seed).gauss(0, 0.1)
    own = random.Random(f"{config.seed}/{config.effect}/{config.learning_rate}/{config.dropout_seed}/{config.shape}").gauss(
        0, config.own_noise
    )
    value = 3.0 + shared + own + config.effect + abs(config.learning_rate - config.best_rate) * 100
    steps = config.max_steps or (config.max_tokens or 1000) // 100
    for step in range(1, steps + 1):
        loss = value * (1 + 1 / step)
        run.metric(
            {
                "step": step,
                "tokens": step * 100,
                "seconds": step * 100 / config.tokens_a_second,
                "loss": loss,
                "grad_norm": 1.0,
                "tokens_per_second": 1000.0,
            }
        )
        run.metric({"step": step, "tokens": step * 100, "seconds": step * 100 / config.tokens_a_second, "eval_bits_per_byte": loss})
    if config.seed in config.fail_on:
        raise PhiforgeError("the loss is nan at step 3: training has diverged")
    (run.path / "model").mkdir()
    (run.path / "model" / "model.safetensors").write_bytes(b"0" * 1000)
    final = float("nan") if config.seed in config.nan_on else value
    return {config.told: final, "eval_loss": value, "steps": steps, "tokens": steps * 100, "parameters": 1000}


GATHER = Stage(name="gather", about="words", config=GatherConfig, body=f"{__name__}:gather")
TRAIN = Stage(
    name="fake train",
    about="a result, drawn",
    config=FakeConfig,
    body=f"{__name__}:train",
    roles=(Role(name="model", about="what gather made", required=False),),
)
RECIPE = """
steps:
  - {name: words, stage: gather}
  - name: train
    stage: fake train
    parents: {model: words}
    config: {max_steps: 10}
"""


def register() -> None:
    """Put the stages into the table."""
    STAGES[GATHER.name], STAGES[TRAIN.name] = GATHER, TRAIN


def run_trial(task: Task) -> str:
    """The real one, in a process that doesn't know the stages yet."""
    register()
    return real_trial(task)


def main(experiment: str, out: str) -> None:
    """What the tests that kill a comparison run in a process of its own."""
    from phiforge.lab.compare import compare
    from phiforge.lab.experiment import load_experiment

    register()
    compare(load_experiment(experiment), Path(out), name="killed")


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
