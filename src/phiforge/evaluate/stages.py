"""The stages of this room, for the runner. Light: the bodies are imported when they run."""

from __future__ import annotations

from phiforge.core.stages import Role, Stage
from phiforge.evaluate.config import EvaluateConfig

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
STAGES = (EVALUATE,)
