"""Run folders: whole or not at all, one writer at a time, decisions kept, torn lines survived."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from phiforge.core import atomic
from phiforge.core.config import Config
from phiforge.core.errors import FolderInUse, PreflightError, RunError
from phiforge.core.gates import Check, GateReport
from phiforge.core.lock import Lock, is_live
from phiforge.core.runs import Run, RunWriter, find_runs, new_manifest, own_files


class Settings(Config):
    seed: int = 3


def names(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir()]


def start(path: Path) -> RunWriter:
    writer = RunWriter(path, new_manifest("try", Settings()), Settings())
    writer.begin()
    return writer


def test_what_is_written_is_read(tmp_path: Path) -> None:
    writer = start(tmp_path / "a")
    writer.metric({"step": 1, "loss": 2.0})
    writer.metric({"step": 2, "loss": float("nan")})
    (writer.path / "model").mkdir()
    (writer.path / "model" / "w.bin").write_bytes(b"weights")
    writer.gate(GateReport(gate="parity", checks=[Check(name="ids", passed=True)]))
    writer.end("complete", metrics={"loss": 2.0})
    run = Run.open(tmp_path / "a")
    assert run.status == "complete" and run.manifest.seed == 3 and run.config == {"seed": 3}
    assert [line["loss"] for line in run.metrics()] == [2.0, None]
    assert run.manifest.artefacts["model/w.bin"].bytes == 7
    assert run.manifest.gates[0].passed


def test_decisions_are_made_once(tmp_path: Path) -> None:
    writer = start(tmp_path / "a")
    assert writer.decide("threads", lambda: 2) == 2
    again = RunWriter(tmp_path / "a", Run.open(tmp_path / "a").manifest, Settings(), resuming=True)
    assert again.decide("threads", lambda: pytest.fail("computed twice")) == 2


def test_metrics_are_cut_at_the_checkpoint_and_torn_lines_left_out(tmp_path: Path) -> None:
    writer = start(tmp_path / "a")
    for step in range(1, 6):
        writer.metric({"step": step})
    with (tmp_path / "a" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')
    assert len(Run.open(tmp_path / "a").metrics()) == 5
    writer.truncate_metrics(3)
    assert [line["step"] for line in Run.open(tmp_path / "a").metrics()] == [1, 2, 3]


def test_equal_content_has_an_equal_fingerprint(tmp_path: Path) -> None:
    prints = []
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        writer = start(tmp_path / name)
        (writer.path / "out.txt").write_text(text)
        prints.append(writer.end("complete").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_one_process_at_a_time_and_a_dead_one_is_seen(tmp_path: Path) -> None:
    start(tmp_path / "a")
    assert Run.open(tmp_path / "a").status == "interrupted"  # says running, but nobody holds it
    hold = "\n".join(
        [
            "import sys, time; from pathlib import Path; from phiforge.core.lock import Lock",
            "with Lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)",
        ]
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert Run.open(tmp_path / "a").status == "running"
        with pytest.raises(FolderInUse, match=f"process {holder.pid} is working in this folder"), Lock(tmp_path / "a"):
            pass
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    assert not is_live(tmp_path / "a")
    with Lock(tmp_path / "a"):
        assert is_live(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "damaged"), ("{", "damaged"), ("[]", "damaged"), ('{"schema_version": 99}', "newer phiforge"), ('{"id": "x"}', "damaged")],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=words):
        Run.open(tmp_path)
    assert find_runs(tmp_path) == []


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        Run.open(tmp_path / "none")


def test_runs_inside_a_run_are_not_its_files(tmp_path: Path) -> None:
    writer = start(tmp_path / "a")
    start(tmp_path / "a" / "data")
    (tmp_path / "a" / "data" / "x").write_text("x")
    (tmp_path / "a" / "checkpoints").mkdir()
    (tmp_path / "a" / "checkpoints" / "x").write_text("x")
    (tmp_path / "a" / "mine").write_text("x")
    assert [str(file) for file in own_files(writer.path)] == ["mine"]
    assert [run.path.name for run in find_runs(tmp_path)] == ["a", "data"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "f", "old")
    with pytest.raises(ZeroDivisionError), atomic.atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "f", {"x": float("nan")})
    assert (tmp_path / "f").read_text() == "old" and names(tmp_path) == ["f"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic.atomic_dir(tmp_path / "d") as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "d" / "x").read_text() == "two" and names(tmp_path) == ["d"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="the disk is full"), atomic.writing(tmp_path / "x"):
        raise OSError(28, "No space left on device")


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial-1-model").mkdir()
    (tmp_path / ".partial-1-f").write_text("")
    assert atomic.clear_partials(tmp_path) == 2 and names(tmp_path) == []


def test_a_gate_names_what_failed() -> None:
    from phiforge.core.errors import GateFailed

    report = GateReport(
        gate="parity", checks=[Check(name="ids", passed=True), Check(name="logits", value=0.5, limit="<= 1e-3", passed=False)]
    )
    with pytest.raises(GateFailed, match=r"logits = 0.5 \(must be <= 1e-3\)"):
        report.require()
    assert not GateReport(gate="empty", checks=[]).passed
    assert json.loads(report.model_dump_json())["gate"] == "parity"
