"""Trials on machines that don't see the experiment's folder: what a trial reads travels with it, and its run folder travels back.

Both ways as a tar of plain files, unpacked by `unpack`, which takes nothing but files below the folder it is given. Where a worker does see
the folder (one machine, or a shared file system), the trial runs in it and nothing travels.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from phiforge.core import atomic
from phiforge.core.config import build, identity, to_yaml
from phiforge.core.errors import DataError, FolderInUse, PhiforgeError, PreflightError
from phiforge.core.lock import Lock
from phiforge.core.parallel import local_processes, run_all
from phiforge.core.runs import CONFIG, MANIFEST, Run
from phiforge.lab.trials import Task
from phiforge.recipes.recipe import Recipe, Step

ROOT = "PHIFORGE_WORKER_ROOT"  # environment variable: where a worker without the experiment's folder works; none = the temporary folder
_MOST = 4_000_000_000  # bytes that one trial may send or be sent
_LEFT = ("checkpoints", ".lock")  # of a run folder: made for going on, which happens where the run is


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What all trials read. token: (file, its text) by which a worker tells that it sees the experiment's folder; None = it never does.

    trial: module:function that runs one. places: path as the recipes name it -> its place in `content`, a tar.
    """

    token: tuple[str, str] | None
    trial: str
    places: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""

    @property
    def name(self) -> str:
        """Equal content, equal name: a worker unpacks it once."""
        return hashlib.sha256(self.content).hexdigest()[:24]


@dataclass(frozen=True, kw_only=True)
class Returned:
    """A trial that ran elsewhere: its folder, and what it raised."""

    content: bytes
    error: BaseException | None


def run_tasks(
    trial: Callable[[Task], str],
    tasks: Sequence[Task],
    *,
    out: Path,
    jobs: int = 1,
    cluster: str | None = None,
    gpus: float = 0.0,
    retries: int = 0,
    apart: bool = False,
) -> Iterator[tuple[int, Any]]:
    """`run_all` for trials; on a cluster of other machines with what they need. `apart`: as if no worker saw the folder `out`."""
    if cluster is None or (local_processes(cluster) is not None and not apart):
        yield from run_all(trial, tasks, jobs=jobs, cluster=cluster, gpus=gpus, retries=retries)
        return
    token = out / f".cluster-{secrets.token_hex(8)}"
    text = secrets.token_hex(16)
    try:
        if not apart:
            atomic.write_text(token, text)
        bundle = gather(trial, tasks, None if apart else (str(token.absolute()), text))
        for index, result in run_all(run_apart, tasks, cluster=cluster, gpus=gpus, retries=retries, shared=bundle):
            if isinstance(result, Returned):
                take_back(result, tasks[index])
                result = result.error or tasks[index].folder
            yield index, result
    finally:
        token.unlink(missing_ok=True)


# -- on the head --------------------------------------------------------------------------------------------------------


def gather(trial: Callable[[Task], str], tasks: Iterable[Task], token: tuple[str, str] | None) -> Bundle:
    """The runs and files that the tasks' recipes name, packed. Raises PreflightError where that is too much to send."""
    places: dict[str, str] = {}
    for task in tasks:
        recipe = build(Recipe, task.recipe, where=f"arm {task.arm}")
        own = {step.name for step in recipe.steps}
        for step in recipe.steps:
            for word in (*(parent for parent in step.parents.values() if parent not in own), *_inputs(recipe, step)):
                places.setdefault(word, f"{len(places)}-{Path(word).name}")
    name = f"{trial.__module__}:{trial.__qualname__}"
    return Bundle(token=token, trial=name, places=places, content=pack({place: Path(word) for word, place in places.items()}))


def _inputs(recipe: Recipe, step: Step) -> list[str]:
    """Words of a step's config that name the files it reads, or folders of them."""
    stage = recipe.stage_of(step)
    files = {path.absolute() for path in stage.inputs(build(stage.config, step.config, where=f"step {step.name}"))}

    def named(word: str) -> bool:
        return any(Path(word).absolute() in (file, *file.parents) for file in files)

    return [word for word in _words(step.config) if files and named(word)]


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _words(inner)


def take_back(returned: Returned, task: Task) -> None:
    """Put a trial's folder where it belongs, its manifests naming this machine's paths and configs."""
    folder = Path(task.folder)
    with atomic.atomic_dir(folder) as temporary:
        unpack(returned.content, temporary)
    recipe = build(Recipe, task.recipe, where=f"arm {task.arm}")
    runs = {step.name: folder if step is recipe.steps[-1] else folder / step.name for step in recipe.steps}
    for step in recipe.steps:
        if not Run.is_run(runs[step.name]):
            continue
        manifest = Run.open(runs[step.name]).manifest
        stage = recipe.stage_of(step)
        config = build(stage.config, step.config, where=f"step {step.name}")
        for role, name in step.parents.items():
            if role in manifest.parents:
                parent = runs.get(name, Path(name))
                fingerprint = Run.open(parent).fingerprint if name in runs else manifest.parents[role].fingerprint
                manifest.parents[role] = manifest.parents[role].model_copy(
                    update={"path": str(parent.absolute()), "fingerprint": fingerprint}
                )
        if manifest.inputs:
            files = stage.inputs(config)
            manifest.inputs = {str(file): sha256 for file, sha256 in zip(files, manifest.inputs.values(), strict=True)}
        manifest.config_hash = identity(config)
        atomic.write_text(runs[step.name] / CONFIG, to_yaml(config))
        atomic.write_json(runs[step.name] / MANIFEST, manifest.model_dump(mode="json"))


# -- on the worker ------------------------------------------------------------------------------------------------------


def run_apart(task: Task, bundle: Bundle) -> str | Returned:
    """A trial on a worker: in place where the experiment's folder is visible, else in a folder of the worker's own."""
    module, _, name = bundle.trial.partition(":")
    trial: Callable[[Task], str] = getattr(importlib.import_module(module), name)
    if bundle.token is not None and _reads(Path(bundle.token[0])) == bundle.token[1]:
        return trial(task)
    root = Path(os.environ.get(ROOT) or Path(tempfile.gettempdir()) / f"phiforge-worker-{os.getuid()}").absolute() / bundle.name
    unpack_once(bundle, root / "given")
    folder = Path(tempfile.mkdtemp(prefix=f"{task.arm}-{task.seed}-", dir=root))
    places = {word: str(root / "given" / name) for word, name in bundle.places.items()}
    moved = replace(task, recipe=_moved(task.recipe, places), folder=str(folder / "run"))
    error: BaseException | None = None
    try:
        trial(moved)
    except (Exception, KeyboardInterrupt) as raised:
        error = raised if isinstance(raised, PhiforgeError) else PhiforgeError(f"{type(raised).__name__}: {raised}")
    try:
        (folder / "run").mkdir(exist_ok=True)
        return Returned(content=pack({"": folder / "run"}), error=error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reads(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def unpack_once(bundle: Bundle, folder: Path) -> None:
    """The bundle's content in `folder`; several workers of a machine share it."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.parent.stat().st_uid != os.getuid():
        raise PreflightError(f"{folder.parent}: belongs to someone else", fix=f"set {ROOT} to a folder of your own on the workers")
    while not folder.is_dir():
        try:
            with Lock(folder.parent), atomic.atomic_dir(folder) as temporary:
                unpack(bundle.content, temporary)
        except FolderInUse:
            time.sleep(0.1)


def _moved(value: Any, places: Mapping[str, str]) -> Any:
    """Plain data with every word that names a carried path renamed."""
    if isinstance(value, str):
        return places.get(value, value)
    if isinstance(value, Mapping):
        return {key: _moved(inner, places) for key, inner in value.items()}
    return [_moved(inner, places) for inner in value] if isinstance(value, list | tuple) else value


# -- packing ------------------------------------------------------------------------------------------------------------


def pack(places: Mapping[str, Path]) -> bytes:
    """A tar of files and folders, each under its name (`""`: a folder's content itself). Links are left out. Raises PreflightError."""
    stream = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sorted(places.items()):
            for file in _files(path):
                total += file.stat().st_size
                if total > _MOST:
                    fix = "put the experiment on a file system that the workers share"
                    raise PreflightError(f"{path}: more than {_MOST / 1e9:.0f} GB to send", fix=fix)
                inside = file.relative_to(path).as_posix() if path.is_dir() else ""
                info = tarfile.TarInfo("/".join(part for part in (name, inside) if part))
                info.size = file.stat().st_size
                with file.open("rb") as content:
                    tar.addfile(info, content)
    return stream.getvalue()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file() and not path.is_symlink():
        yield path
    elif path.is_dir():
        for item in sorted(path.iterdir()):
            if item.name not in _LEFT and not item.is_symlink():
                yield from _files(item)


def unpack(content: bytes, folder: Path) -> None:
    """Write a tar's files below `folder`. Raises DataError for a name that leads out of it, and for anything that is no plain file."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            total = 0
            for member in tar:
                place = PurePosixPath(member.name)
                total += member.size
                if not member.isreg() or place.is_absolute() or ".." in place.parts or not place.parts or "\\" in member.name:
                    raise DataError(f"what came from a worker holds {member.name[:80]!r}, which is no file inside its folder")
                if total > _MOST:
                    raise DataError(f"what came from a worker is more than {_MOST / 1e9:.0f} GB")
                target = folder.joinpath(*place.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with target.open("xb") as written:
                    shutil.copyfileobj(source, written)
    except (tarfile.TarError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"what came from a worker can't be unpacked: {error}") from None
