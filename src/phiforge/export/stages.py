"""The stages of this room, for the runner. Light: the bodies are imported when they run."""

from __future__ import annotations

from phiforge.core.stages import Role, Stage
from phiforge.export.config import ExportConfig

EXPORT = Stage(
    name="export",
    about="a trained model -> GGUF, Ollama or a Hugging Face folder, checked against the model it came from",
    config=ExportConfig,
    body="phiforge.export.stage:run",
    roles=(Role(name="model", about="a run with a model, or a folder written by save_pretrained"),),
)

STAGES = (EXPORT,)
