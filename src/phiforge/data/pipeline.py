"""The input cut into pieces of work, the pieces done in worker processes, and the parts that come of it, in the order of the input."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phiforge.core import hardware
from phiforge.core.parallel import run_all
from phiforge.data.config import DataPrepareConfig
from phiforge.data.parts import Part
from phiforge.data.progress import Meter
from phiforge.data.second import SecondTask, second_pass
from phiforge.data.sources import Intake, units
from phiforge.data.unit import Unit
from phiforge.data.work import PartMade, PartTask, cleaner_of, group_units, make_part, part_key, tokenizer_of

_MANY_PARTS = 2000  # beyond so many they grow instead
Say = Callable[[str], None]


@dataclass
class Work:
    """What there is to do. intake: what was met while the sources were listed."""

    units: dict[str, list[Unit]]
    groups: list[tuple[Unit, ...]]
    intake: Intake

    @property
    def size(self) -> int:
        """Bytes on disk that will be read, as far as they are known."""
        return sum(unit.size for group in self.groups for unit in group)


def plan_work(config: DataPrepareConfig) -> Work:
    """The pieces of work, which depend on the input and the config alone. Raises DataError."""
    intake = Intake.of(config)
    found = {source: units(source, config, intake) for source in dict.fromkeys(config.source)}
    every = [unit for source in config.source for unit in found[source]]
    target = max(config.part_bytes, sum(unit.size for unit in every) // _MANY_PARTS)
    return Work(found, list(group_units(every, target)), intake)


class _Tasks(Sequence[PartTask]):
    """The tasks; what the limits make needless by the time it would be begun is skipped."""

    def __init__(self, tasks: list[PartTask]) -> None:
        self._tasks = tasks
        self._made: dict[int, PartMade] = {}
        self._next = 0
        self._given: dict[str, tuple[int, int]] = {}
        self._limits = {unit.group: (unit.max_documents, unit.max_bytes) for task in tasks for unit in task.units}

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: Any) -> Any:
        task = self._tasks[index]
        return replace(task, skip=all(self._full(unit.group) for unit in task.units))

    def done(self, index: int, made: PartMade) -> None:
        """Only what follows gaplessly from the first part counts: what comes before it may still fill the group."""
        self._made[index] = made
        while self._next in self._made:
            for group, documents, size in self._made.pop(self._next).units:
                before = self._given.get(group, (0, 0))
                self._given[group] = (before[0] + documents, before[1] + size)
            self._next += 1

    def _full(self, group: str) -> bool:
        most_documents, most_bytes = self._limits[group]
        documents, size = self._given.get(group, (0, 0))
        return (most_documents is not None and documents >= most_documents) or (most_bytes is not None and size >= most_bytes)


def make_parts(work: Work, config: DataPrepareConfig, folder: Path, tokenizer: Path | None, jobs: int, say: Say) -> list[Part]:
    """Every part that is needed, made or found in `folder`. Raises what the first worker that fails raises."""
    settings, known = config.model_dump_json(), tokenizer_of(str(tokenizer)) if tokenizer else None
    evaluation = (cleaner_of(settings)[1].evaluation or {}).get("sha256")  # filters that can't be made say so before anything is read
    keys_of = [part_key(group, config, known, evaluation) for group in work.groups]
    named = str(tokenizer) if tokenizer else None
    tasks = _Tasks([PartTask(key, str(folder), group, settings, named) for key, group in zip(keys_of, work.groups, strict=True)])
    keys: dict[int, str] = {}
    with Meter("reading", work.size, say) as meter, closing(_sound(_by(config, tasks, jobs))) as outcomes:
        for index, made in outcomes:
            if made.units:
                keys[index] = made.key
            tasks.done(index, made)
            meter.add(tasks[index].size, made)
    return [Part(folder, keys[index]) for index in sorted(keys)]


def _by(config: DataPrepareConfig, tasks: Sequence[PartTask], jobs: int) -> Iterator[tuple[int, Any]]:
    if config.executor == "processes":
        return run_all(make_part, tasks, jobs=jobs)
    from phiforge.data.datatrove import run_parts  # its library is an extra

    return run_parts(tasks, config, jobs)


def _sound(outcomes: Iterator[tuple[int, Any]]) -> Generator[tuple[int, Any], None, None]:
    """The results; the first failure is raised, which stops the other workers."""
    for index, outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        yield index, outcome


def again(tasks: list[SecondTask], jobs: int, say: Say) -> None:
    """The second pass over the parts that need one. Raises what the first worker that fails raises."""
    began = time.monotonic()
    with closing(_sound(run_all(second_pass, tasks, jobs=jobs))) as outcomes:
        for _ in outcomes:
            pass
    if time.monotonic() - began > 10:
        say(f"{len(tasks):,} parts were sorted anew in {time.monotonic() - began:.0f} s")


def jobs_of(config: DataPrepareConfig, tasks: int, size: int) -> int:
    """How many processes are worth starting: each takes half a second to begin."""
    if config.workers != "auto":
        return min(config.workers, max(1, tasks))
    return min(hardware.cpu_count(), max(1, tasks)) if size >= 2 * config.part_bytes or not size else 1
