"""Makes the pool of real A/A pairs for calibration.py: two tiny trainings per pair that differ in nothing but the seed of dropout.

    OMP_NUM_THREADS=1 python benchmarks/calibration_pool.py --pairs 32 --out runs/pool      # about 3 minutes on one core; resumable
    python benchmarks/calibration.py --pool benchmarks/results/calibration_pool.csv

Seed s of both arms has the same weights at the start and the same data in the same order; arm `a` draws its dropout (0.1) from seed
10,000 + s, arm `b` from 20,000 + s. The text is what comes with the interpreter, so nothing is downloaded. Writes columns arm, seed,
eval_bits_per_byte, eval_loss.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from harness import RESULTS

from phiforge.core.config import build
from phiforge.core.runs import Run
from phiforge.recipes.registry import get_stage
from phiforge.recipes.runner import run_stage

METRICS = ("eval_bits_per_byte", "eval_loss")
SETTINGS = {
    "model": {"family": "starcoder2", "width": 48, "depth": 2, "heads": 2, "context_length": 64, "dropout": 0.1},
    "max_steps": 60,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "linear_to_zero",
    "threads": 1,
    "compile": False,
    "precision": "fp32",
    "sample_prompts": [],
    "eval_steps": 60,
    "eval_tokens": 4096,
    "final_eval_tokens": 32_768,
    "save_steps": 60,
    "save_total_limit": 1,
    "load_best_model_at_end": False,
}


def train(out: Path, seed: int, dropout_seed: int, parents: dict[str, Run], **settings: object) -> dict[str, float]:
    """One training run, or what is there of it already: its final metrics."""
    stage = get_stage("pretrain")
    config = build(stage.config, SETTINGS | settings | {"seed": seed, "dropout_seed": dropout_seed}, where="pretrain")
    return run_stage(stage, config, parents, out, resume=(out / "run.json").exists(), draw=False).manifest.metrics


def parents_of(out: Path) -> dict[str, Run]:
    """The corpus and the tokenizer that all runs share."""
    data_stage, tokenizer_stage = get_stage("data prepare"), get_stage("tokenizer train")
    data = run_stage(data_stage, build(data_stage.config, {"validation_fraction": 0.05}, where="data"), {}, out / "data", draw=False)
    config = build(tokenizer_stage.config, {"template": "plain", "vocab_size": 512, "max_train_bytes": 2_000_000}, where="tokenizer")
    return {"data": data, "tokenizer": run_stage(tokenizer_stage, config, {"data": data}, out / "tokenizer", draw=False)}


def check(out: Path, parents: dict[str, Run]) -> None:
    """The pool measures dropout's seed alone: the same one gives the same run, another one another, and without dropout it does nothing."""
    plain = [train(out / f"check-{s}", 0, s, parents, max_steps=5, model=SETTINGS["model"] | {"dropout": 0.0}) for s in (1, 2)]
    dropped = [train(out / f"check-dropout-{n}", 0, s, parents, max_steps=5) for n, s in enumerate((1, 1, 2))]
    losses = [found["eval_loss"] for found in plain + dropped]
    if losses[0] != losses[1] or losses[2] != losses[3] or losses[3] == losses[4]:
        raise SystemExit(f"dropout_seed does not act on dropout alone: final losses {losses}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration-pool"), help="folder of the runs")
    parser.add_argument("--csv", type=Path, default=RESULTS / "calibration_pool.csv")
    arguments = parser.parse_args()
    parents = parents_of(arguments.out)
    check(arguments.out, parents)
    rows: list[dict[str, object]] = []
    for seed in range(arguments.pairs):
        for arm, base in (("a", 10_000), ("b", 20_000)):
            found = train(arguments.out / f"{arm}-{seed}", seed, base + seed, parents)
            rows.append({"arm": arm, "seed": seed} | {name: found[name] for name in METRICS})
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["arm", "seed", *METRICS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} runs -> {arguments.csv}")


if __name__ == "__main__":
    main()
