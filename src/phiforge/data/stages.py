"""The stages of this room."""

from __future__ import annotations

from pathlib import Path

from phiforge.core.stages import Role, Stage
from phiforge.data.config import DataPrepareConfig, TokenizerTrainConfig


def _files(config: DataPrepareConfig) -> list[Path]:
    """The files that the sources name now. Imported here: reading needs zstandard, listing stages does not."""
    from phiforge.data.sources import input_files

    return [path for source in config.source for path in input_files(source)]


def _gpt2(config: TokenizerTrainConfig) -> list[Path]:
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    return [Path(config.gpt2) / name for name in names if (Path(config.gpt2) / name).is_file()] if config.gpt2 else []


STAGES = (
    Stage(
        name="data prepare",
        about="texts -> clean, deduplicated training and validation documents, with a report",
        config=DataPrepareConfig,
        body="phiforge.data.prepare:run",
        roles=(Role(name="tokenizer", about="a `tokenizer train` run or a tokenizer's folder: tokens are made too", required=False),),
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
