"""Whatever runs the workers, the corpus is the same to the last byte."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.data import prepare as stage
from phiforge.data.config import DataPrepareConfig
from phiforge.data.prepare import read_split
from phiforge.data.work import PartMade, PartTask, make_part

pytest.importorskip("datatrove")
from phiforge.data import datatrove

WORDS = "light table wind seven stone paper morning small river quick under seldom bring north after window".split()
FILES = ("data.json", "documents/train.jsonl.zst", "documents/validation.jsonl.zst", "documents/dropped.jsonl.zst")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the library's pools and managers
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six books in several parts; one is copied with changes, one is short, one lies in a subfolder."""
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    draw = random.Random(0)
    for number in range(6):
        text = ". ".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(400))
        (folder / ("more" if number == 3 else "") / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "copy.txt").write_text((folder / "1.txt").read_text().replace("seven stone", "eight stones"), encoding="utf-8")
    (folder / "short.txt").write_text("Too short.", encoding="utf-8")
    return folder


def made(source: Path, out: Path, **settings: Any) -> dict[str, bytes]:
    """The files of a data run."""
    base = {
        "source": str(source),
        "min_bytes": 1000,
        "min_characters": 50,
        "near_duplicates": True,
        "save_dropped": True,
        "part_bytes": 1 << 16,
    }
    config = build(DataPrepareConfig, base | settings, where="test")
    writer = RunWriter(out, new_manifest("data prepare", config), config)
    writer.begin()
    stage.run(config, {}, writer)
    assert {path.name for path in out.iterdir()} >= {"data.json", "documents"} and not list(out.glob("*datatrove*"))
    return {name: (out / name).read_bytes() for name in FILES}


def test_datatrove_gives_the_same_bytes(source: Path, tmp_path: Path, elsewhere: list[bool]) -> None:
    expected = made(source, tmp_path / "here")
    report = json.loads(expected["data.json"])
    assert report["dropped"]["near duplicate"] == 1 and sum(report["dropped"].values()) == 2
    options = {"start_method": "fork", "tasks": 2}
    assert made(source, tmp_path / "there", executor="datatrove", executor_options=options, workers=2) == expected
    assert len(elsewhere) > 1 and all(elsewhere)


def test_what_is_wrong_is_said_as_it_is_here(source: Path, tmp_path: Path) -> None:
    (source / "2.txt").write_bytes(b"caf\xe9 " * 40_000)
    messages = []
    for executor in ("processes", "datatrove"):
        with pytest.raises(DataError) as error:
            made(source / "2.txt", tmp_path / executor, executor=executor, workers=1, executor_options={})
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "2.txt" in messages[0]
    with pytest.raises(ConfigError, match=r"executor_options: .*colour"):
        made(source, tmp_path / "wrong", executor="datatrove", executor_options={"colour": "red"})


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each part asked for in this process whether the executor had made it: parts that it left would be made here, unseen."""
    had: list[bool] = []

    def watched(task: PartTask) -> PartMade:
        made = make_part(task)
        if os.getpid() == here:
            had.append(made.found)
        return made

    here = os.getpid()
    monkeypatch.setattr(datatrove, "make_part", watched)
    return had


def _command(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def test_slurm_gives_the_same_bytes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: list[bool]) -> None:
    """sbatch and its companions stand in for a cluster: the job array of the library's own script is run, task by task."""
    expected = made(source, tmp_path / "here")
    commands = tmp_path / "bin"
    commands.mkdir()
    _command(
        commands,
        "sbatch",
        f"""#!{sys.executable}
import os, pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[-1]).read_text()
with open({str(tmp_path / "submitted")!r}, "a") as log:
    log.write(script)
last = int(re.search(r"--array=0-(\\d+)", script)[1]) if "launch_pickled_pipeline" in script else -1
for task in range(last + 1):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here", "RUN_OFFSET": "0", "SLURM_JOB_ID": "7"}}
    subprocess.run(["bash", sys.argv[-1]], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
""",
    )
    _command(commands, "srun", '#!/bin/bash\nwhile [[ "$1" == -* ]]; do if [[ "$1" == -n ]]; then shift; fi; shift; done\nexec "$@"\n')
    _command(commands, "scontrol", "#!/bin/bash\necho here\n")
    _command(commands, "squeue", "#!/bin/bash\nexit 0\n")
    tools = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{commands}:{tools}:{os.environ['PATH']}")
    options = {"partition": "cpu", "time": "0:10:00", "tasks": 2, "qos": ""}
    assert made(source, tmp_path / "there", executor="slurm", executor_options=options) == expected
    assert len(elsewhere) > 1 and all(elsewhere)
    submitted = (tmp_path / "submitted").read_text()
    assert "#SBATCH --partition=cpu" in submitted and "#SBATCH --array=0-1" in submitted


def test_slurm_says_what_it_needs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="executor=slurm: no sbatch on this machine"):
        made(source, tmp_path / "none", executor="slurm")
    _command(tmp_path, "sbatch", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="executor=slurm needs partition and time"):
        made(source, tmp_path / "bare", executor="slurm")


@pytest.mark.slow
def test_ray_gives_the_same_bytes(source: Path, tmp_path: Path, elsewhere: list[bool]) -> None:
    pytest.importorskip("ray")
    expected = made(source, tmp_path / "here")
    assert made(source, tmp_path / "there", executor="ray", executor_options={"tasks": 2, "mem_per_cpu_gb": 0.5}, workers=2) == expected
    assert len(elsewhere) > 1 and all(elsewhere)


def test_reader_and_cleaning_are_steps_of_any_pipeline(source: Path, tmp_path: Path) -> None:
    """Between datatrove's own blocks, by two ranks: the documents that the local default keeps, before any is compared with another."""
    from datatrove.executor import LocalPipelineExecutor

    found: list[tuple[str, str, str]] = []

    def keep(data: Any, rank: int, world_size: int) -> Any:
        for document in data:
            found.append((document.id, document.text, document.metadata["source"]))
            yield document

    config = build(DataPrepareConfig, {"source": str(source), "min_characters": 50, "min_bytes": 1000}, where="test")
    steps = [datatrove.UnitReader(config), datatrove.Clean(config), keep]
    stats = LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir=str(tmp_path / "logs")).run()
    made(source, tmp_path / "here", near_duplicates=False, validation_fraction=0.15)
    here = {(d.id, d.text, d.source) for side in ("train", "validation") for d in read_split(tmp_path / "here", side)}
    assert set(found) == here and len(found) == len(here) == 7
    assert "dropped_shorter than 50 characters" in stats.to_json()
