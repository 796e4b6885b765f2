"""Run folders and data runs as trainings leave them, made up for tests through the product's own writers. No number is a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phiforge.core.atomic import write_json
from phiforge.core.config import Config
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.data.document import Document, write_documents

STREAMS = {"initialisation": "i", "data_order": "o", "dropout": "d", "train_text": "t", "validation_text": "v", "tokenizer": "k"}


class Settings(Config):
    """A few settings of a training."""

    seed: int = 0
    learning_rate: float = 1e-3
    per_device_train_batch_size: int = 8
    load_best_model_at_end: bool = True


def noise(seed: int) -> float:
    """A number that looks drawn, the same for a seed."""
    return ((seed * 7919 + 13) % 101) / 10_000


def make_run(
    folder: Path,
    seed: int,
    loss: float,
    *,
    config: dict[str, Any] | None = None,
    streams: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    lines: list[dict[str, Any]] | None = None,
    data: Path | None = None,
    status: str = "complete",
    error: str | None = None,
    weights: bytes | None = None,
) -> Path:
    """A finished (or other) pretrain run whose loss fell to `loss`; `None` in metrics takes a metric away."""
    settings = Settings(**{"seed": seed, **(config or {})})
    manifest = new_manifest("pretrain", settings)
    run = RunWriter(folder, manifest, settings)
    run.begin()
    run.decide(
        "streams", lambda: {**{name: f"{word}{seed}" if word in "iod" else word for name, word in STREAMS.items()}, **(streams or {})}
    )
    if data is not None:
        from phiforge.core.runs import Run

        manifest.parents = {"data": Run.open(data).as_parent()}
    if lines is None:
        lines = [
            {"step": s, "tokens": s * 100, "seconds": s / 10 + noise(seed), "loss": loss + 10.0 / s + noise(seed + s)} for s in (10, 20, 30)
        ]
        lines += [{"step": 30, "tokens": 3000, "seconds": 3.2, "eval_loss": loss, "eval_bits_per_byte": loss / 2}]
    for line in lines:
        run.metric(line)
    if weights is not None:
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(weights)
    final = {"steps": 30, "tokens": 3000, "model_step": 30, "eval_loss": loss, "eval_bits_per_byte": loss / 2, "eval_text_tokens": 500}
    final |= metrics or {}
    run.end(status, metrics={k: v for k, v in final.items() if v is not None} if status == "complete" else None, error=error)  # type: ignore[arg-type]
    return folder


def make_data(folder: Path, train: list[str], validation: list[str]) -> Path:
    """A data run with these documents."""
    run = RunWriter(folder, new_manifest("data prepare", Config()), Config())
    run.begin()
    (folder / "documents").mkdir()
    sides = {"train": train, "validation": validation}
    report = {}
    for side, texts in sides.items():
        writer = write_documents(
            folder / "documents" / f"{side}.jsonl.zst", [Document.of(text, f"{side}{n}") for n, text in enumerate(texts)]
        )
        report[side] = {"sha256": writer.sha256}
    write_json(folder / "data.json", {"split": report})
    run.end("complete", metrics={})
    return folder


def make_sides(root: Path, n: int = 6, effect: float = -0.05, **both: Any) -> tuple[list[Path], list[Path]]:
    """(arm's runs, baseline's runs) for seeds 1 to n under `root`; the arm is better by about `effect`."""
    base = [make_run(root / "standard" / f"seed-{s}", s, 2.0 + noise(s), **both) for s in range(1, n + 1)]
    arm = [make_run(root / "golden" / f"seed-{s}", s, 2.0 + noise(s) + effect + noise(s + 50) / 10, **both) for s in range(1, n + 1)]
    return arm, base
