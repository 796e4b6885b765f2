"""The stages of this room, for the runner. Light: the bodies are imported when they run."""

from __future__ import annotations

from pathlib import Path

from phiforge.core.errors import ConfigError
from phiforge.core.stages import Role, Stage
from phiforge.models.sizes import PRESETS, resolve
from phiforge.models.thyme.spec import ThymeSpec, resolve_thyme
from phiforge.train.config import PretrainConfig
from phiforge.train.finetune_config import FinetuneConfig
from phiforge.train.recall_config import RecallConfig


def _new_model_fits(config: PretrainConfig, roles: frozenset[str]) -> None:
    """What is known of a new model before its tokenizer is: that there is such a shape, and that a row fits its context."""
    if "model" in roles:
        return
    spec = config.model
    if isinstance(spec, ThymeSpec):  # reads a row of any length
        if spec.vocab_size:
            resolve_thyme(spec)
        return
    if spec.width and spec.depth and not spec.vocab_size:
        spec = spec.model_copy(update={"vocab_size": 512})  # any will do: the shape doesn't depend on it
    known = spec.vocab_size or spec.size in PRESETS
    most = resolve(spec).context_length if known else spec.context_length
    if config.context_length and config.context_length > most:
        raise ConfigError(
            f"context_length={config.context_length} is beyond the model's {most}", fix=f"model.context_length={config.context_length}"
        )


PRETRAIN = Stage(
    name="pretrain",
    about="train a decoder on a prepared corpus: from scratch, or on from an earlier model",
    config=PretrainConfig,
    body="phiforge.train.pretrain:run",
    check=_new_model_fits,
    distributed=True,
    roles=(
        Role(name="data", about="a `data prepare` run: the documents"),
        Role(name="tokenizer", about="a `tokenizer train` run"),
        Role(name="model", about="a run whose model is trained on, instead of a new one", required=False),
    ),
)


def _conversation_files(config: FinetuneConfig) -> list[Path]:
    from phiforge.data.chats import chat_files  # brings numpy and the tokenizers

    return [file for source in config.data for file in chat_files(Path(source))]


FINETUNE = Stage(
    name="finetune",
    about="teach a model to chat, from conversations: it learns what the assistant says, and to end its turns",
    config=FinetuneConfig,
    body="phiforge.train.finetune:run",
    inputs=_conversation_files,
    distributed=True,
    roles=(Role(name="model", about="a run with a model, or a model folder in Hugging Face's layout"),),
)

RECALL = Stage(
    name="recall",
    about="how many pairs, and how long a string, a memory of 2,304 bytes keeps, against attention of the same size",
    config=RecallConfig,
    body="phiforge.train.recall:run",
)
STAGES = (PRETRAIN, FINETUNE, RECALL)
