"""Checkpoints on disk: which there are, which to keep, how several processes write one that is whole or absent.

A checkpoint is written under a temporary name, fsynced and renamed (core.atomic), so a folder that is called checkpoint-<step> is complete.
It holds model.safetensors and config.json, optimizer.pt and scheduler.pt (read with weights_only), rng_state*.pth, trainer_state.json as
transformers writes them, and phiforge.json: what transformers forgets between two log lines.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from phiforge.core.atomic import atomic_dir, clear_partials

STATE = "trainer_state.json"
EXTRA = "phiforge.json"


def step_of(path: Path) -> int | None:
    """The step in a checkpoint folder's name; None for any other name."""
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else None


def find(folder: Path) -> dict[int, Path]:
    """The complete checkpoints in `folder`, by step, in order."""
    found = {step_of(path): path for path in folder.glob("checkpoint-*") if (path / STATE).is_file()} if folder.is_dir() else {}
    return dict(sorted((step, path) for step, path in found.items() if step is not None))


def last(folder: Path) -> Path | None:
    """The latest complete checkpoint, or None."""
    return next(reversed(find(folder).values()), None)


def rotate(folder: Path, limit: int | None, keep: set[int]) -> list[Path]:
    """Remove the oldest checkpoints until `limit` are left, but never the last nor one whose step is in `keep`. Returns what went."""
    found = find(folder)
    if limit is None or not found:
        return []
    protected = keep | {max(found)}
    loose = [step for step in found if step not in protected]
    excess = max(0, len(found) - limit)
    gone = [found[step] for step in loose[:excess]]
    for path in gone:
        # Renamed first: a kill in the middle of the removal must not leave a folder that looks complete.
        doomed = path.with_name(f".partial-old-{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)
    return gone


def sweep(folder: Path) -> int:
    """Remove what a killed process left half-written. Returns how many."""
    return clear_partials(folder)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A folder that all processes of the launch may write into; it becomes `path` when all are done, or nothing does."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        with atomic_dir(path) as folder:
            yield folder
        return
    if dist.get_rank() == 0:
        with atomic_dir(path) as folder:
            _share(folder)
            yield folder
            dist.barrier()
    else:
        yield Path(_share(None))
        dist.barrier()
    dist.barrier()


def _share(path: Path | None) -> str:
    box = [str(path)]
    dist.broadcast_object_list(box, src=0)
    return box[0]
