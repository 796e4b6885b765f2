"""The same experiment in this process, on two Ray workers, and on workers that don't see its folder: one table. Real trainings, tiny."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from phiforge.core import parallel
from phiforge.core.errors import DataError, PhiforgeError
from phiforge.core.runs import Run
from phiforge.lab import cluster as lab_cluster
from phiforge.lab import compare as lab_compare
from phiforge.lab.cluster import Bundle, gather, pack, run_apart, take_back, unpack
from phiforge.lab.compare import How, compare
from phiforge.lab.experiment import load_experiment
from phiforge.lab.trials import Task, run_trial

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'phiforge[cluster]')")

RECIPE = """
steps:
  - {name: data, stage: data prepare, config: {source: TEXT, validation_fraction: 0.2, min_bytes: 1000}}
  - {name: tokenizer, stage: tokenizer train, parents: {data: data}, config: {vocab_size: 300, template: plain}}
  - name: pretrain
    stage: pretrain
    parents: {data: data, tokenizer: tokenizer}
    config: {model: {size: 50K, context_length: 32}, max_steps: 4, precision: fp32, loss: stock, sample_tokens: 2, eval_steps: 2}
"""
EXPERIMENT = """
recipe: recipe.yaml
baseline: standard
arms: {standard: {}, fast: {learning_rate: 3.0e-3}}
seeds: 2
metric: eval_loss
controls: none
"""
CLOCKS = {"seconds", "cpu_seconds", "peak_memory_bytes", "equal_seconds", "made", "command", "path", "tokens_per_second"}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    words = "the golden ratio of a line is that of its greater part to its less and the whole is to the greater as the greater is".split()
    text = " ".join(words[(i * i + i // 7) % len(words)] + (".\n" if i % 11 == 0 else "") for i in range(4000))
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("TEXT", str(tmp_path / "text.txt")))
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    return tmp_path / "experiment.yaml"


@pytest.fixture(scope="module")
def two_workers() -> Iterator[str]:
    ray = parallel._ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=100_000_000)
    yield "local:2"
    ray.shutdown()


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(inner) for key, inner in value.items() if key not in CLOCKS}
    return [without_clocks(inner) for inner in value] if isinstance(value, list) else value


def table(verdict: dict[str, Any]) -> dict[str, Any]:
    """All but clocks; curves are [tokens, seconds, value]."""
    curves = {arm: [[(p[0], p[2]) for p in curve["points"]] for curve in found] for arm, found in verdict["curves"].items()}
    return without_clocks({**verdict, "curves": curves})


def run(experiment: Path, out: Path, **how: Any) -> dict[str, Any]:
    verdict = compare(load_experiment(str(experiment)), out, name="x", how=How(**how))
    assert [t["status"] for arm in verdict["arms"] for t in arm["trials"]] == ["complete"] * 4
    return verdict


@needs_ray
def test_two_ray_workers_give_the_table_of_one_process_to_the_last_bit(
    experiment: Path, tmp_path: Path, two_workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(experiment, tmp_path / "here")
    values = {t["value"] for arm in here["arms"] for t in arm["trials"]}
    assert len(values) == 4
    assert table(run(experiment, tmp_path / "ray", cluster=two_workers)) == table(here)
    # and on workers that can't see the folder
    monkeypatch.setattr(lab_compare, "run_tasks", partial(lab_cluster.run_tasks, apart=True))
    apart = run(experiment, tmp_path / "apart", cluster=two_workers)
    assert table(apart) == table(here)
    trial = tmp_path / "apart" / "trials" / "fast" / "seed-1"
    manifest = Run.open(trial).manifest
    assert manifest.parents["data"].path == str((tmp_path / "apart" / "shared" / "data").absolute())
    assert not (trial / "checkpoints").exists()
    before = (trial / "run.json").read_bytes()
    assert table(run(experiment, tmp_path / "apart")) == table(here)  # gone on with in this process: nothing is run again
    assert (trial / "run.json").read_bytes() == before
    assert "phiforge-worker" not in "".join(file.read_text(errors="replace") for file in trial.glob("*.*"))


def one_task(out: Path, text: Path, **config: Any) -> Task:
    """A recipe of two own steps, one of which reads a file."""
    steps = [
        {"name": "data", "stage": "data prepare", "config": {"source": str(text), "min_bytes": 100, "validation_fraction": 0.3, **config}},
        {"name": "tokenizer", "stage": "tokenizer train", "parents": {"data": "data"}, "config": {"vocab_size": 280, "template": "plain"}},
    ]
    return Task(arm="a", seed=1, recipe={"steps": steps}, folder=str(out / "trial"))


def test_files_and_steps_of_a_trial_come_back_as_if_run_here(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = experiment.parent / "text.txt"
    monkeypatch.setenv(lab_cluster.ROOT, str(tmp_path / "elsewhere"))
    here, there = one_task(tmp_path / "here", text), one_task(tmp_path / "there", text)
    run_trial(here)
    bundle = gather(run_trial, [there], None)
    assert list(bundle.places) == [str(text)]
    moved = text.rename(text.with_name("gone.txt"))  # the worker has only what it was sent
    returned = run_apart(there, bundle)
    moved.rename(text)
    assert isinstance(returned, lab_cluster.Returned) and returned.error is None
    take_back(returned, there)
    for step in ("", "data"):
        one, two = (Run.open(Path(task.folder) / step) for task in (here, there))
        assert one.config == two.config and one.manifest.inputs == two.manifest.inputs
        assert one.manifest.config_hash == two.manifest.config_hash and set(one.manifest.artefacts) == set(two.manifest.artefacts)
    texts = [json.loads((Path(task.folder) / "data" / "data.json").read_text())["sha256"] for task in (here, there)]
    assert texts[0] == texts[1]
    assert two.path.parent == tmp_path / "there" / "trial"
    made = Run.open(there.folder).manifest.parents["data"]
    assert made.path == str(tmp_path / "there" / "trial" / "data") and made.fingerprint == two.fingerprint
    began = [Run.open(Path(there.folder) / step).manifest.started for step in ("", "data")]
    run_trial(there)  # a finished run is not run again: it is whole
    assert [Run.open(Path(there.folder) / step).manifest.started for step in ("", "data")] == began


def test_a_trial_that_fails_elsewhere_sends_back_what_it_left(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lab_cluster.ROOT, str(tmp_path / "elsewhere"))
    task = one_task(tmp_path, experiment.parent / "text.txt", min_bytes=10_000_000)
    returned = run_apart(task, gather(run_trial, [task], None))
    assert isinstance(returned, lab_cluster.Returned)
    assert isinstance(returned.error, PhiforgeError) and "too little text" in str(returned.error)
    take_back(returned, task)
    assert Run.open(Path(task.folder) / "data").status == "failed"
    assert [item.name for item in (tmp_path / "elsewhere").glob("*/*")] == [".lock", "given"] or not list(
        (tmp_path / "elsewhere").glob("*/a-*")
    )


def test_a_worker_that_sees_the_folder_works_in_it(experiment: Path, tmp_path: Path) -> None:
    task = one_task(tmp_path, experiment.parent / "text.txt")
    (tmp_path / "token").write_text("word")
    bundle = Bundle(token=(str(tmp_path / "token"), "word"), trial="phiforge.lab.trials:run_trial")
    assert run_apart(task, bundle) == task.folder and Run.open(task.folder).status == "complete"


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "", ".", "a\\..\\out"])
def test_what_would_be_written_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    with pytest.raises(DataError):
        unpack(stream.getvalue(), tmp_path / "in")
    assert not any(tmp_path.rglob("*out*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match="no file inside its folder"):
        unpack(stream.getvalue(), tmp_path / "in")


def test_packing_and_back(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "checkpoints" / "x").write_text("left")
    (tmp_path / "run" / "model" / ("w" * 150)).write_bytes(b"\0\1")
    (tmp_path / "run" / "link").symlink_to("/etc/passwd")
    (tmp_path / "run" / "naïve.json").write_text(json.dumps({"a": 1}))
    content = pack({"": tmp_path / "run"})
    unpack(content, tmp_path / "back")
    found = sorted(str(file.relative_to(tmp_path / "back")) for file in (tmp_path / "back").rglob("*") if file.is_file())
    assert found == ["model/" + "w" * 150, "naïve.json"]
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack(content, tmp_path / "back")
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack(b"no tar at all" * 100, tmp_path / "other")
