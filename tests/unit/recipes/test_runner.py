"""The one runner: done is not done again, status is always true, a folder keeps the run it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge.core.errors import ConfigError, DataError, Interrupted
from phiforge.core.runs import Run
from phiforge.core.stages import Role, Stage
from phiforge.recipes.runner import run_stage
from tests.unit.recipes.fake_stages import CountConfig

BODY = "tests.unit.recipes.fake_stages:count"
FIRST = Stage(name="count", about="counts", config=CountConfig, body=BODY, inputs=lambda c: [Path(c.file)] if c.file else [])
SECOND = Stage(name="again", about="counts again", config=CountConfig, body=BODY, roles=(Role(name="data", about="the first"),))


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    first = run_stage(FIRST, CountConfig(), {}, tmp_path / "a")
    assert first.status == "complete" and first.manifest.metrics["counted"] == 3 and "out.txt" in first.manifest.artefacts
    assert run_stage(FIRST, CountConfig(), {}, tmp_path / "a").id == first.id


def test_it_is_run_again_when_a_file_it_reads_has_changed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    config = CountConfig(file=str(tmp_path / "f"))
    first = run_stage(FIRST, config, {}, tmp_path / "a")
    (tmp_path / "f").write_text("two")
    second = run_stage(FIRST, config, {}, tmp_path / "a")
    assert second.id != first.id and len(second.metrics()) == 3


def test_it_is_run_again_when_its_result_is_gone(tmp_path: Path) -> None:
    first = run_stage(FIRST, CountConfig(), {}, tmp_path / "a")
    (tmp_path / "a" / "out.txt").unlink()
    assert run_stage(FIRST, CountConfig(), {}, tmp_path / "a").id != first.id


def test_children_follow_their_parents_content(tmp_path: Path) -> None:
    one = run_stage(FIRST, CountConfig(), {}, tmp_path / "a")
    child = run_stage(SECOND, CountConfig(), {"data": one}, tmp_path / "b")
    same = run_stage(FIRST, CountConfig(), {}, tmp_path / "a2")
    assert run_stage(SECOND, CountConfig(), {"data": same}, tmp_path / "b").id == child.id
    other = run_stage(FIRST, CountConfig(upto=4), {}, tmp_path / "c")
    assert run_stage(SECOND, CountConfig(), {"data": other}, tmp_path / "b").id != child.id


def test_another_config_belongs_in_another_folder(tmp_path: Path) -> None:
    run_stage(FIRST, CountConfig(), {}, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"another config \(it differs in upto\)"):
        run_stage(FIRST, CountConfig(upto=4), {}, tmp_path / "a")
    with pytest.raises(ConfigError, match="holds a count run"):
        run_stage(SECOND, CountConfig(), {"data": Run.open(tmp_path / "a")}, tmp_path / "a")


def test_a_failure_is_recorded_and_resumed(tmp_path: Path) -> None:
    config = CountConfig(end="badly")
    with pytest.raises(DataError):
        run_stage(FIRST, config, {}, tmp_path / "a")
    failed = Run.open(tmp_path / "a")
    assert failed.status == "failed" and failed.manifest.error == "line 3: bad"
    with pytest.raises(ConfigError, match=r"unfinished run \(failed\).*--resume"):
        run_stage(FIRST, config, {}, tmp_path / "a")
    resumed = run_stage(FIRST, config, {}, tmp_path / "a", resume=True)
    assert resumed.status == "complete" and resumed.id == failed.id and resumed.manifest.decisions == failed.manifest.decisions


def test_an_interrupt_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="--resume"):
        run_stage(FIRST, CountConfig(end="interrupt"), {}, tmp_path / "a")
    assert Run.open(tmp_path / "a").status == "interrupted"


def test_a_bug_shows_as_one_and_is_logged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(FIRST, CountConfig(end="bug"), {}, tmp_path / "a")
    assert "ZeroDivisionError" in (Run.open(tmp_path / "a").manifest.error or "")
    assert "Traceback" in (tmp_path / "a" / "log.txt").read_text()


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.doc").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.doc"):
        run_stage(FIRST, CountConfig(), {}, tmp_path / "a", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        run_stage(FIRST, CountConfig(), {}, tmp_path / "file")


def test_only_a_complete_run_is_a_parent(tmp_path: Path) -> None:
    from phiforge.recipes.runner import _finished

    with pytest.raises(DataError):
        run_stage(FIRST, CountConfig(end="badly"), {}, tmp_path / "a")
    with pytest.raises(ConfigError, match="is failed"):
        _finished(tmp_path / "a", "data")
