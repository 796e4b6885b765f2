"""The same results in process, in worker processes and on Ray; a dead worker is one item's failure."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phiforge.core import parallel
from phiforge.core.errors import ConfigError, DataError, Interrupted, PhiforgeError
from phiforge.core.parallel import run_all, threads_each

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'phiforge[cluster]')")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One local Ray for the tests of this file: run_all uses what is started and leaves it."""
    ray = parallel._ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=100_000_000)
    yield "local:2"
    ray.shutdown()


def work(item: Any) -> Any:
    """Does what the item says."""
    match item:
        case "fail":
            raise DataError("row 3 is no number", fix="give one")
        case "bug":
            return [][1]
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(7)
        case ("die once", path):
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "alive"
        case "where":
            return os.getpid(), os.environ.get("OMP_NUM_THREADS")
        case ("touch and sleep", path):
            try:
                Path(path).write_text(str(os.getpid()))
                time.sleep(60)
            except KeyboardInterrupt:
                Path(path).with_suffix(".saved").touch()
                raise
        case "unsendable":
            return lambda: None
    return item


def train(seed: int) -> list[float]:
    """A real, tiny training: the losses of a small net, and a sum over its weights."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x = torch.randn(128, 16)
    losses = []
    for _ in range(20):
        loss = (net(x) - x.sum(dim=1, keepdim=True).sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, float(sum(p.detach().double().sum() for p in net.parameters()))]


def results(items: list[Any], **how: Any) -> list[Any]:
    found = dict(run_all(work, items, **how))
    assert sorted(found) == list(range(len(items)))
    return [found[index] for index in range(len(items))]


def same_failures(found: list[Any]) -> None:
    assert found[0] == 1 and found[4] == {"x": 2.5}
    assert isinstance(found[1], DataError) and str(found[1]) == "row 3 is no number -> give one" and found[1].fix == "give one"
    assert isinstance(found[2], IndexError)
    assert found[3] is None


ITEMS = [1, "fail", "bug", None, {"x": 2.5}]


def test_here_a_failure_is_one_item_s() -> None:
    assert [index for index, _ in run_all(work, ITEMS)] == [0, 1, 2, 3, 4]
    same_failures(results(ITEMS))


def test_in_processes_as_here() -> None:
    same_failures(results(ITEMS, jobs=2))


def test_a_killed_worker_is_one_item_s_failure_and_the_rest_goes_on(tmp_path: Path) -> None:
    found = results([1, "die", 2, "leave", 3, "unsendable"], jobs=2)
    assert [found[0], found[2], found[4]] == [1, 2, 3]
    assert isinstance(found[1], PhiforgeError) and "SIGKILL" in str(found[1]) and "fewer jobs" in str(found[1])
    assert isinstance(found[3], PhiforgeError) and "exit code 7" in str(found[3])
    assert isinstance(found[5], BaseException)
    mark = str(tmp_path / "mark")
    assert results([("die once", mark), 5], jobs=2, retries=1) == ["alive", 5]


def test_workers_are_processes_of_their_own_with_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallel, "cpu_count", lambda: 6)
    assert [threads_each(jobs) for jobs in (1, 2, 4, 12)] == [6, 3, 1, 1]
    found = results(["where", "where"], jobs=2)
    assert os.getpid() not in {process for process, _ in found}
    assert {threads for _, threads in found} == {"3"}
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads_each(2) == 1


def test_training_is_the_same_to_the_last_bit_in_processes() -> None:
    here = dict(run_all(train, [0, 1, 2]))
    assert dict(run_all(train, [0, 1, 2], jobs=2)) == here
    assert here[0] != here[1]


def weigh(item: int, shared: dict[str, int]) -> int:
    return item * shared["weight"]


def test_what_is_shared_reaches_every_call() -> None:
    for how in ({}, {"jobs": 2}):
        assert dict(run_all(weigh, [1, 2], shared={"weight": 3}, **how)) == {0: 3, 1: 6}


def test_what_can_not_be_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="jobs=0 must be at least 1"):
        run_all(work, [1], jobs=0)
    with pytest.raises(ConfigError, match="is no number of processes"):
        list(run_all(work, [1], cluster="local:many"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'phiforge\[cluster\]'"):
        list(run_all(work, [1], cluster="local:2"))


def stopped(item: int) -> int:
    if item == 1:
        raise Interrupted("stopped by the user")
    return item


def test_being_stopped_ends_it_here() -> None:
    seen = []
    with pytest.raises(Interrupted):
        for index, _ in run_all(stopped, [0, 1, 2]):
            seen.append(index)
    assert seen == [0]


PARENT = """
import sys
sys.path.insert(0, {root!r})
from phiforge.core.parallel import run_all
from tests.unit.core.test_parallel import work
if __name__ == "__main__":
    list(run_all(work, [("touch and sleep", {a!r}), ("touch and sleep", {b!r})], jobs=2))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    a, b = tmp_path / "a.pid", tmp_path / "b.pid"
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(root=str(Path(__file__).parents[3]), a=str(a), b=str(b)))
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (a.is_file() and b.is_file() and a.read_text() and b.read_text()):
        assert parent.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    parent.send_signal(how)
    _, said = parent.communicate(timeout=60)
    for file in (a, b):
        while alive(int(file.read_text())):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert file.with_suffix(".saved").exists() == (how == signal.SIGINT)
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in said


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@needs_ray
def test_on_ray_as_here(cluster: str) -> None:
    same_failures(results(ITEMS, cluster=cluster))


@needs_ray
def test_what_is_shared_reaches_every_task(cluster: str) -> None:
    assert dict(run_all(weigh, [1, 2], shared={"weight": 3}, cluster=cluster)) == {0: 3, 1: 6}


@needs_ray
def test_a_killed_ray_worker_is_one_item_s_failure(cluster: str, tmp_path: Path) -> None:
    found = results([1, "die", 2], cluster=cluster)
    assert [found[0], found[2]] == [1, 2]
    assert isinstance(found[1], PhiforgeError) and "Ray task died" in str(found[1])
    assert results([("die once", str(tmp_path / "mark"))], cluster=cluster, retries=1) == ["alive"]


@needs_ray
def test_training_is_the_same_to_the_last_bit_on_ray(cluster: str) -> None:
    assert dict(run_all(train, [0, 1, 2], cluster=cluster)) == dict(run_all(train, [0, 1, 2]))
