"""The stages of this room, for the runner. Light: the bodies are imported when they run."""

from __future__ import annotations

from phiforge.core.stages import Role, Stage
from phiforge.evaluate.config import EvaluateConfig
from phiforge.evaluate.memory_config import MemoryConfig

EVALUATE = Stage(
    name="evaluate",
    about="score a model on text it has not seen, beside a 5-gram byte model and xz",
    config=EvaluateConfig,
    body="phiforge.evaluate.stage:run",
    roles=(
        Role(name="model", about="a run with a model in it"),
        Role(name="data", about="a `data prepare` run: the held-out documents, and the training documents for the baselines"),
    ),
)
MEMORY = Stage(
    name="memory",
    about="what a model does with text that lies far back: bits per byte by place, and needles",
    config=MemoryConfig,
    body="phiforge.evaluate.memory:run",
    roles=(
        Role(name="model", about="a run with a model in it"),
        Role(name="data", about="a `data prepare` run: the held-out documents"),
        Role(name="reference", about="a run whose model is measured beside it, an attention decoder for example", required=False),
        Role(name="recall", about="a `recall` run, for one report of all", required=False),
    ),
)
STAGES = (EVALUATE, MEMORY)
