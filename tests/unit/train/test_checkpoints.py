"""Which checkpoints there are, and which stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge.train import checkpoints


def make(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / checkpoints.STATE).write_text("{}")


def test_found_in_order_of_step_not_of_name(tmp_path: Path) -> None:
    make(tmp_path, 100, 9, 20)
    assert list(checkpoints.find(tmp_path)) == [9, 20, 100]
    assert checkpoints.last(tmp_path) == tmp_path / "checkpoint-100"


def test_half_written_and_foreign_folders_are_no_checkpoints(tmp_path: Path) -> None:
    make(tmp_path, 10)
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / ".partial-1-checkpoint-30").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert list(checkpoints.find(tmp_path)) == [10]
    assert checkpoints.last(tmp_path / "nowhere") is None
    assert checkpoints.sweep(tmp_path) == 1


@pytest.mark.parametrize(
    "limit, keep, left",
    [
        (None, set(), [10, 20, 30, 40, 50]),
        (2, set(), [40, 50]),
        (2, {20}, [20, 50]),
        (1, {20}, [20, 50]),
        (1, {10, 30}, [10, 30, 50]),
        (9, set(), [10, 20, 30, 40, 50]),
    ],
)
def test_rotation_keeps_the_last_and_what_is_named(tmp_path: Path, limit: int | None, keep: set[int], left: list[int]) -> None:
    make(tmp_path, 10, 20, 30, 40, 50)
    checkpoints.rotate(tmp_path, limit, keep)
    assert list(checkpoints.find(tmp_path)) == left
    assert not list(tmp_path.glob(".partial*"))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    make(tmp_path, 10)
    with pytest.raises(RuntimeError), checkpoints.whole(tmp_path / "checkpoint-20") as folder:
        (folder / checkpoints.STATE).write_text("{}")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
