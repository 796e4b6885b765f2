"""Bodies of stages that the runner's tests run."""

from __future__ import annotations

import os
import signal
from typing import Any

from phiforge.core.config import Config
from phiforge.core.errors import DataError
from phiforge.core.runs import Run, RunWriter


class CountConfig(Config):
    """What the counting stage counts to, and how it ends."""

    upto: int = 3
    end: str = "well"
    file: str | None = None


def count(config: CountConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Write a line for each number; end as told."""
    (run.path / "checkpoints" / "checkpoint-1").mkdir(parents=True, exist_ok=True)
    for number in range(config.upto):
        run.metric({"step": number})
    start = run.decide("start", lambda: os.getpid())
    if config.end == "badly" and not run.resuming:
        raise DataError("line 3: bad")
    if config.end == "bug":
        raise ZeroDivisionError
    if config.end == "interrupt" and not run.resuming:
        os.kill(os.getpid(), signal.SIGINT)
    (run.path / "out.txt").write_text("x" * config.upto)
    return {"counted": config.upto, "start": start}
