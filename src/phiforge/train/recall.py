"""Stage "recall": how much can be kept in 2,304 bytes, against an attention decoder of the same size? Writes recall.json.

Models of both kinds learn multi-query associative recall and copying (evaluate/memory_tasks.py) on the same rows, generated without end
from the seed, and are tested on rows of another stream. First at equal steps and tokens; then the quicker kind goes on until it has had the
slower one's CPU seconds. Both are shown. Short: nothing is kept to resume from.

Small: `phiforge run thyme/memory`, or a recipe with `stage: recall` alone and `config: {max_steps: 50, seeds: 1}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from phiforge.core import atomic, console, hardware
from phiforge.core.runs import Run, RunWriter
from phiforge.evaluate.memory_config import RECALL
from phiforge.evaluate.memory_tasks import most_accuracy, row_length
from phiforge.evaluate.positions import held_bytes
from phiforge.evaluate.score import Score
from phiforge.models.inspect import count_parameters
from phiforge.models.thyme.spec import STATE_BYTES
from phiforge.report.memory import recall_sentence, recall_table
from phiforge.train.recall_arms import Kindred, Learner, alphabet_of, examine, kinds
from phiforge.train.recall_config import RecallConfig

SCHEMA_VERSION = 1
DEFAULT_STEPS = 900
_PROBE = 12  # steps in which the speed is measured, the first of them left out
Scores = dict[tuple[Any, int], Score]


def run(config: RecallConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Train and test every kind at every seed. Returns the final metrics.

    Raises:
        ConfigError: the decoder can't be made as large as the model. PhiforgeError: a loss that is no number.
    """
    hardware.configure_allocator()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are small, and CPU seconds are what is compared
    try:
        return _run(config, run)
    finally:
        torch.set_num_threads(threads)


def _run(config: RecallConfig, run: RunWriter) -> dict[str, Any]:
    compared = kinds(config)
    steps = int(run.decide("steps", lambda: _steps(config, compared), why="of each model, at equal tokens"))
    seeds = [config.seed + i for i in range(config.seeds)]
    results: list[dict[str, Any]] = []
    costs: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in compared}
    with console.progress("recall", len(seeds) * len(compared) * steps) as bar:
        for seed in seeds:
            learners = [Learner.new(kind, seed, config) for kind in compared]
            for learner in learners:
                _go_on(learner, steps, steps, run, bar.advance)
                _note(results, learner, "steps", examine(learner.model, config, seed), costs, run)
            if config.equal_seconds:
                slowest = max(learner.seconds for learner in learners)
                for learner in learners:
                    more = _more(learner, slowest, run)
                    _go_on(learner, more, steps, run, lambda n: None)
                    _note(results, learner, "seconds", examine(learner.model, config, seed), costs, run)
    found = _result(config, compared, steps, seeds, results, costs)
    found["sentence"] = recall_sentence(found)
    atomic.write_json(run.path / RECALL, found)
    console.table(*recall_table(found))
    run.log(found["sentence"])
    return _metrics(found)


def _steps(config: RecallConfig, compared: list[Kindred]) -> int:
    """Steps of each model: as told, or as many as fit into the CPU seconds at the speed that a few steps show.

    Where the quicker kinds will go on until they have had the slowest one's time, every kind costs what the slowest does.
    """
    if config.train_seconds is None:
        return config.max_steps or DEFAULT_STEPS
    paces = []
    for kind in compared:
        learner = Learner.new(kind, config.seed, config.model_copy(update={"curriculum": 0.0}))
        for _ in learner.train(1, 1):
            learner.seconds = 0.0
        for _ in learner.train(_PROBE, 1):
            pass
        paces.append(learner.seconds / _PROBE)
    pace = max(paces) * len(paces) if config.equal_seconds else sum(paces)
    return max(1, int(config.train_seconds / (config.seeds * pace)))


def _more(learner: Learner, seconds: float, run: RunWriter) -> int:
    """Steps that bring a model to so many CPU seconds at its own pace; none for the one that had them."""
    pace = learner.seconds / max(1, learner.step)
    name = f"further steps: {learner.kind.name}, seed {learner.seed}"
    return int(run.decide(name, lambda: round(max(0.0, seconds - learner.seconds) / pace), why="to equal CPU seconds"))


def _go_on(learner: Learner, steps: int, planned: int, run: RunWriter, advance: Callable[[float], None]) -> None:
    """Train, with a line of metrics at every twentieth."""
    every = max(1, planned // 20)
    recent: list[float] = []
    for loss in learner.train(steps, planned):
        recent.append(loss)
        advance(1)
        if learner.step % every == 0:
            run.metric({"step": learner.step, f"loss {learner.kind.name} {learner.seed}": float(np.mean(recent))})
            recent = []


def _note(
    results: list[dict[str, Any]], learner: Learner, budget: str, scores: Scores, costs: dict[str, list[dict[str, float]]], run: RunWriter
) -> None:
    """Keep what a model came to, and what it cost."""
    for (kind, size), score in scores.items():
        results.append(
            {"kind": learner.kind.name, "budget": budget, "task": kind, "size": size, "seed": learner.seed, "accuracy": score.to_json()}
        )
    cost: dict[str, Any] = {
        "budget": budget,
        "seed": learner.seed,
        "steps": learner.step,
        "tokens": learner.tokens,
        "cpu_seconds": learner.seconds,
    }
    costs[learner.kind.name].append(cost)
    said = ", ".join(f"{kind} {size}: {score.value:.0%}" for (kind, size), score in scores.items())
    run.note(f"{learner.kind.label}, seed {learner.seed}, equal {budget}, {learner.step} steps, {learner.seconds:.1f} CPU s: {said}")


def _result(
    config: RecallConfig,
    compared: list[Kindred],
    steps: int,
    seeds: list[int],
    results: list[dict[str, Any]],
    costs: dict[str, list[dict[str, float]]],
) -> dict[str, Any]:
    """recall.json: what was asked, who answered, how well, and what no memory of that size could exceed."""
    alphabet = alphabet_of(config)
    bits = 8 * STATE_BYTES
    asked = [
        {
            "task": task,
            "size": size,
            "tokens": row_length(task, size),
            "bits": alphabet.bits(size),
            "bound": most_accuracy(bits, size, alphabet.values),
        }
        for task in config.tasks
        for size in config.sizes
    ]
    lengths = sorted({row_length(task, size) for task in config.tasks for size in config.sizes})
    about = []
    for kind in compared:
        model = kind.make(config.seed)
        memory = {str(length): held_bytes(model.eval(), length) for length in lengths}
        about.append(
            {
                "name": kind.name,
                "label": kind.label,
                "parameters": count_parameters(model),
                "memory_bytes": memory,
                "costs": costs[kind.name],
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "state_bytes": STATE_BYTES,
        "state_bits": bits,
        "chance": alphabet.chance,
        "values": alphabet.values,
        "bits_per_answer": math.log2(alphabet.values),
        "threshold": config.threshold,
        "steps": steps,
        "seeds": seeds,
        "asked": asked,
        "kinds": about,
        "results": results,
    }


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """Mean accuracies by kind, task and size at equal steps."""
    sums: dict[str, list[float]] = {}
    for one in found["results"]:
        if one["budget"] == "steps":
            sums.setdefault(f"{one['kind']}_{one['task']}_{one['size']}_accuracy", []).append(one["accuracy"]["value"])
    metrics: dict[str, Any] = {name: float(np.mean(values)) for name, values in sums.items()}
    return metrics | {"steps": found["steps"], **{f"{kind['name']}_parameters": kind["parameters"] for kind in found["kinds"]}}
