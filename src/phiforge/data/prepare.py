"""Stage "data prepare": texts in, a training and a validation set out, with a report of everything that was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from phiforge.core.errors import DataError
from phiforge.data.document import DocumentFile

Split = Literal["train", "validation"]


def read_split(run_dir: Path, split: Split) -> DocumentFile:
    """The documents of one side of a data run: iterate as often as you like, one document in memory at a time."""
    path = Path(run_dir) / "documents" / f"{split}.jsonl.zst"
    if not path.is_file():
        raise DataError(f"{run_dir}: no {split} documents in it", fix="give a run made by `phiforge data prepare`")
    return DocumentFile(path)
