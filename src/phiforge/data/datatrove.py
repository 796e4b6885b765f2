"""Preparation on datatrove's executors (extra `corpus`): processes here, a Slurm cluster, Ray. The result is the same to the last byte.

What an executor runs is `work.make_part`, the very function that the local default runs, on the same pieces of the input, into the same
folder; what follows reads what lies there and can't tell who made it. The run's folder must lie where every machine sees it.

`UnitReader` and `Clean` are the same reading and cleaning as steps of a pipeline of one's own, between datatrove's other blocks.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document
from phiforge.data.sources import Intake, read_unit, units
from phiforge.data.work import PartMade, PartTask, cleaner_of, make_part

try:
    from datatrove.data import Document as Passed
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    raise ConfigError("datatrove is not installed", fix="pip install 'phiforge[corpus]', or leave executor=processes") from None

_MOST_RANKS = 1000  # of Slurm's job arrays by default
_POLL = 5.0  # seconds


class PartStep(PipelineStep):
    """Makes every world_size-th part. Passes nothing on: what it made is in the folder that its tasks name."""

    name, type = "phiforge parts", "phiforge"

    def __init__(self, tasks: Sequence[PartTask]) -> None:
        super().__init__()
        self.tasks = list(tasks)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Passed]:
        """Raises what the part can't be made for; parts that are there are not made again."""
        yield from data or ()
        for task in self.tasks[rank::world_size]:
            with self.track_time():
                made = make_part(task)
            self.stat_update("parts", value=1)
            self.stat_update("documents", value=made.documents)
            self.stat_update("bytes", value=made.bytes)


class UnitReader(PipelineStep):
    """The documents of a config's sources; each rank reads every world_size-th unit of them."""

    name, type = "phiforge sources", "phiforge"

    def __init__(self, config: DataPrepareConfig) -> None:
        super().__init__()
        self.config = config.model_dump_json()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Passed]:
        """Raises DataError for what can't be read."""
        yield from data or ()
        config = cleaner_of(self.config)[0]
        listed = [unit for source in config.source for unit in units(source, config, Intake.of(config))]
        for unit in listed[rank::world_size]:
            intake = Intake.of(config)
            for document in read_unit(unit, intake):
                yield Passed(text=document.text, id=document.id, metadata={"source": document.source})
            for reason, count in intake.skipped.items():
                self.stat_update(f"skipped_{reason}", value=count)


class Clean(PipelineStep):
    """The cleaning and the filters of a config, on documents of any reader; drops are counted by reason in datatrove's statistics."""

    name, type = "phiforge cleaning", "phiforge"

    def __init__(self, config: DataPrepareConfig) -> None:
        super().__init__()
        self.config = config.model_dump_json()

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Passed]:
        """Documents that come through, their ids made of their text."""
        cleaner = cleaner_of(self.config)[1]
        for passed in data:
            source = str(passed.metadata.get("source", passed.id))
            for cleaned in cleaner(Document.of(passed.text, source)):
                if cleaned.reason:
                    self.stat_update(f"dropped_{cleaned.reason}")
                    continue
                kept = Document.of(cleaned.text, cleaned.source)
                yield Passed(text=kept.text, id=kept.id, metadata={**passed.metadata, "source": kept.source})


def run_parts(tasks: Sequence[PartTask], config: DataPrepareConfig, jobs: int) -> Iterator[tuple[int, PartMade | Exception]]:
    """`core.parallel.run_all(make_part, tasks)`, the work done by the executor that the config names.

    A part that the executor could not make is tried here, so that what is wrong is told here too. Raises ConfigError, PhiforgeError.
    """
    if len(tasks):
        folder = Path(tasks[0].folder)
        logs = folder.with_name(f"{folder.name}.datatrove")
        shutil.rmtree(logs, ignore_errors=True)  # what an earlier attempt called done may have been cleared since
        every = [tasks[at] for at in range(len(tasks))]
        _EXECUTORS[config.executor](every, dict(config.executor_options), str(logs), max(1, jobs))
        shutil.rmtree(logs, ignore_errors=True)
    for index in range(len(tasks)):
        try:
            yield index, make_part(tasks[index])
        except PhiforgeError as error:
            yield index, error


def _local(tasks: list[PartTask], options: dict[str, Any], logs: str, jobs: int) -> None:
    from datatrove.executor import LocalPipelineExecutor

    ranks = {"tasks": min(len(tasks), _MOST_RANKS), "workers": jobs}
    _survive(_made(LocalPipelineExecutor, tasks, logs, ranks | options))


def _ray(tasks: list[PartTask], options: dict[str, Any], logs: str, jobs: int) -> None:
    from datatrove.executor.ray import RayPipelineExecutor

    ranks = {"tasks": min(len(tasks), _MOST_RANKS), "workers": jobs, "mem_per_cpu_gb": 1}
    with _ray_cluster(options.pop("address", None), jobs):
        _survive(_made(RayPipelineExecutor, tasks, logs, ranks | options))


def _slurm(tasks: list[PartTask], options: dict[str, Any], logs: str, jobs: int) -> None:
    from datatrove.executor import SlurmPipelineExecutor

    if shutil.which("sbatch") is None:
        raise ConfigError("executor=slurm: no sbatch on this machine", fix="run it where jobs are submitted, or executor=datatrove")
    missing = [name for name in ("partition", "time") if name not in options]
    if missing:
        raise ConfigError(f"executor=slurm needs {' and '.join(missing)}", fix="executor_options='{partition: NAME, time: \"2:00:00\"}'")
    ranks = {"tasks": min(len(tasks), _MOST_RANKS), "job_name": "phiforge-data"}
    executor = _made(SlurmPipelineExecutor, tasks, str(Path(logs).resolve()), ranks | options)
    executor.run()
    while executor.get_incomplete_ranks(skip_completed=True) and _queued(executor.job_id):
        time.sleep(_POLL)


_EXECUTORS = {"datatrove": _local, "slurm": _slurm, "ray": _ray}


def _made(kind: Any, tasks: list[PartTask], logs: str, options: dict[str, Any]) -> Any:
    try:
        return kind([PartStep(tasks)], logging_dir=logs, skip_completed=False, **options)
    except TypeError as error:
        raise ConfigError(f"executor_options: {error}", fix=f"they are the arguments of datatrove's {kind.__name__}") from None


def _survive(executor: Any) -> None:
    """A part that fails there is tried once more here, by `run_parts`, which then raises what is wrong with it."""
    try:
        executor.run()
    except Exception as error:
        if isinstance(error, ConfigError):
            raise


def _queued(job: str) -> bool:
    """Whether Slurm still has the job. Where it doesn't say, the job is taken to be over."""
    try:
        done = subprocess.run(["squeue", "--noheader", "--jobs", str(job)], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


@contextmanager
def _ray_cluster(address: str | None, jobs: int) -> Iterator[None]:
    """The cluster at `address`, one that is joined already, or one of our own on this machine."""
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = (
        {"address": address} if address else {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": 100_000_000}
    )
    options |= {"log_to_driver": False, "logging_level": "ERROR"}
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()
