"""The stages of this room."""

from __future__ import annotations

from pathlib import Path

from phiforge.core.stages import Role, Stage
from phiforge.data.config import PYTHON, DataPrepareConfig, TokenizerTrainConfig


def _files(config: DataPrepareConfig) -> list[Path]:
    """The files that the sources name now. Imported here: reading needs zstandard, listing stages does not."""
    from phiforge.data.sources import Intake, find_files

    return [file.path for source in config.source if source != PYTHON for file in find_files(Path(source), Intake())]


def _gpt2(config: TokenizerTrainConfig) -> list[Path]:
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    return [Path(config.gpt2) / name for name in names if (Path(config.gpt2) / name).is_file()] if config.gpt2 else []


STAGES = (
    Stage(
        name="data prepare",
        about="texts -> clean, deduplicated training and validation documents, with a report",
        config=DataPrepareConfig,
        body="phiforge.data.prepare:run",
        inputs=_files,
    ),
    Stage(
        name="tokenizer train",
        about="documents -> a byte-level BPE tokenizer of our own",
        config=TokenizerTrainConfig,
        body="phiforge.data.tokenizer_train:run",
        roles=(Role(name="data", about="a data run"),),
        inputs=_gpt2,
    ),
)
