"""The stages of this room, for the runner. Light: the bodies are imported when they run."""

from __future__ import annotations

from phiforge.core.stages import Role, Stage
from phiforge.train.config import PretrainConfig

PRETRAIN = Stage(
    name="pretrain",
    about="train a decoder on a prepared corpus: from scratch, or on from an earlier model",
    config=PretrainConfig,
    body="phiforge.train.pretrain:run",
    roles=(
        Role(name="data", about="a `data prepare` run: the documents"),
        Role(name="tokenizer", about="a `tokenizer train` run"),
        Role(name="model", about="a run whose model is trained on, instead of a new one", required=False),
    ),
)

STAGES = (PRETRAIN,)
