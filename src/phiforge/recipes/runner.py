"""The one runner behind every stage verb and every recipe.

It decides whether a stage must run at all, takes the folder's lock, keeps run.json true whatever happens
(finished, failed, interrupted, killed), and draws the report at the end.
"""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import subprocess
import sys
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from phiforge.core import atomic, console, hardware
from phiforge.core.config import Config, build, identity, to_data
from phiforge.core.errors import ConfigError, DataError, Interrupted, PhiforgeError, RunError
from phiforge.core.lock import Lock
from phiforge.core.runs import METRICS, Manifest, Run, RunWriter, launch_token, new_manifest, own_files, rank
from phiforge.core.stages import Stage
from phiforge.recipes.recipe import Recipe, stands_for
from phiforge.report.run import render_run

_VERSIONED = (
    "phiforge",
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "tiktoken",
    "rustbpe",
    "safetensors",
    "gguf",
    "xllamacpp",
    "numpy",
)
_ROOM_TO_START = 50_000_000  # bytes of disk without which nothing is begun; stages that need more ask for more


def run_recipe(recipe: Recipe, out: Path, *, resume: bool = False, main_in_place: bool = False, draw: bool = True) -> dict[str, Run]:
    """Run every step that isn't done yet; each gets the folder `out/<step>`.

    `main_in_place`: the last step's folder is `out` itself, and the steps before it lie inside (how a stage verb runs).
    `draw`: whether each run gets its report.html; the many runs of a comparison share one report.
    Configs, input files and runs given as parents are checked for all steps before the first one starts.
    Raises what the first failing stage raises.
    """
    configs = check_recipe(recipe)
    given = _given_runs(recipe)
    hardware.preflight_disk(out, _ROOM_TO_START)
    if main_in_place and rank() == 0:  # the others of a launch may come when the first one has begun
        _refuse_foreign(out)
    with _lock(out):
        return _run_steps(recipe, configs, given, out, resume=resume, main_in_place=main_in_place, draw=draw)


def _lock(out: Path) -> AbstractContextManager[object]:
    """The folder for this process alone, or with the others of its launch."""
    if rank() != 0:
        return nullcontext()
    with atomic.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return Lock(out)


def _run_steps(
    recipe: Recipe, configs: dict[str, Config], given: dict[str, Run], out: Path, *, resume: bool, main_in_place: bool, draw: bool
) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for number, step in enumerate(recipe.steps, 1):
        last = number == len(recipe.steps)
        folder = out if last and main_in_place else out / step.name
        parents = {role: runs[name] if name in runs else given[name] for role, name in step.parents.items()}
        if len(recipe.steps) > 1 and rank() == 0:
            console.announce(f"[{number}/{len(recipe.steps)}] {step.name}: {recipe.stage_of(step).about}")
        runs[step.name] = run_stage(
            recipe.stage_of(step), configs[step.name], parents, folder, resume=resume, locked=folder == out, draw=draw
        )
    return runs


def check_recipe(recipe: Recipe) -> dict[str, Config]:
    """The config of every step. Raises ConfigError, or DataError for input that isn't there, whichever step it is in."""
    configs: dict[str, Config] = {}
    for step in recipe.steps:
        stage = recipe.stage_of(step)
        configs[step.name] = build(stage.config, step.config, where=f"step {step.name}")
        stage.check(configs[step.name], frozenset(step.parents))
    for step in recipe.steps:
        recipe.stage_of(step).inputs(configs[step.name])
    return configs


def _given_runs(recipe: Recipe) -> dict[str, Run]:
    """The finished runs that the recipe names as parents. Raises ConfigError for one that can't be what it is given as."""
    steps = {step.name for step in recipe.steps}
    given: dict[str, Run] = {}
    for step in recipe.steps:
        for role, name in step.parents.items():
            if name not in steps:
                given[name] = _finished(Path(name), role)
    return given


def _finished(path: Path, role: str) -> Run:
    if not Run.is_run(path) and Run.can_be(role, path):
        return Run.borrow(path)
    try:
        run = Run.open(path)
    except RunError as error:
        raise ConfigError(f"{role}={error.what}", fix=error.fix) from None
    if run.status != "complete":
        raise ConfigError(f"{role}={path}: is {run.status}, and only a complete run can be the {role}", fix="finish it first")
    if not stands_for(role, run.manifest.stage):
        raise ConfigError(f"{role}={path}: is a {run.manifest.stage} run, which can't be the {role}", fix=f"`phiforge runs show {path}`")
    return run


def run_stage(
    stage: Stage,
    config: Config,
    parents: dict[str, Run],
    out: Path,
    *,
    resume: bool = False,
    locked: bool = False,
    draw: bool = True,
) -> Run:
    """Run one stage into `out`, or return the finished run that is there when nothing it depends on has changed.

    `locked`: the caller holds the folder already. `draw`: whether report.html is rendered.
    """
    inputs = {str(path): _sha256_input(path) for path in stage.inputs(config)}
    if _is_done(out, stage, config, parents, inputs):
        if rank() == 0:
            console.say(f"{out}: already done with the same config and input; nothing to do")
        return Run.open(out)
    if rank() != 0:
        return _follow(stage, config, parents, out, inputs, draw=draw)
    _refuse_foreign(out)
    with nullcontext() if locked else _lock(out):
        run = _open_writer(stage, config, parents, out, inputs, resume=resume)
        run.begin()
        return _execute(stage, config, parents, run, draw=draw)


def _execute(stage: Stage, config: Config, parents: dict[str, Run], run: RunWriter, *, draw: bool) -> Run:
    try:
        metrics = stage.load()(config, parents, run)
    except (KeyboardInterrupt, Interrupted):
        stopped = run.end("interrupted", error="stopped by the user")
        if run.leader and draw:
            draw_report(stopped.path)
        raise Interrupted(f"{run.path}: what was done is saved", fix="the same command with --resume goes on from there") from None
    except PhiforgeError as error:
        run.end("failed", error=str(error))
        raise
    except BaseException as error:
        run.note(traceback.format_exc().replace("\n", " | "))
        run.end("failed", error=f"{type(error).__name__}: {error}")
        raise
    finished = run.end("complete", metrics=metrics)
    if run.leader and draw:
        draw_report(finished.path)
    return finished


def draw_report(path: Path) -> None:
    """Render report.html. A picture that can't be drawn must not cost a run, so a fault here is told, not raised."""
    try:
        render_run(path)
    except Exception as error:
        console.warn(f"{path}/report.html could not be drawn ({type(error).__name__}: {error}); the run itself is saved")


def _open_writer(stage: Stage, config: Config, parents: dict[str, Run], out: Path, inputs: dict[str, str], *, resume: bool) -> RunWriter:
    """A writer for `out`: going on from an unfinished attempt, or fresh."""
    manifest = new_manifest(stage.name, config, command=sys.argv[1:])
    resuming = False
    if Run.is_run(out):
        old = Run.open(out)
        _refuse_other(old, stage, config, parents)
        has_checkpoints = any((out / "checkpoints").glob("checkpoint-*"))
        if old.status != "complete" and has_checkpoints and not resume:
            raise ConfigError(
                f"{out}: holds an unfinished run ({old.status})", fix="add --resume to go on with it, or choose another --out"
            )
        if old.status != "complete" and resume:
            manifest, resuming = _continued(old.manifest, manifest), has_checkpoints
        if not resuming:
            _sweep(out)
    manifest.parents = {role: parent.as_parent() for role, parent in parents.items()}
    manifest.inputs = inputs
    manifest.hardware = hardware.describe()
    manifest.versions = dict(_versions())
    manifest.git_commit = _git_commit()
    return RunWriter(out, manifest, config, resuming=resuming)


def _continued(old: Manifest, new: Manifest) -> Manifest:
    """The manifest of a resumed run: its identity and decisions stay, the rest is of now."""
    kept = old.model_copy(update={"status": "running", "ended": None, "error": None, "launch": new.launch, "command": new.command})
    return kept


def _sweep(out: Path) -> None:
    """Clear what an attempt that can't be gone on with left behind. Runs inside the folder stay."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for name in [*own_files(out), Path(METRICS)]:
        (out / name).unlink(missing_ok=True)


def _refuse_foreign(out: Path) -> None:
    """A folder with files of someone else's is not ours to write in."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file, and a run needs a folder", fix="choose another --out")
    if not out.is_dir() or Run.is_run(out):
        return
    strangers = [item.name for item in sorted(out.iterdir()) if not item.name.startswith(".") and not (item.is_dir() and Run.is_run(item))]
    if strangers:
        raise ConfigError(f"{out}: holds files that are no run ({strangers[0]}, ...)", fix="choose an empty folder with --out")


def _refuse_other(old: Run, stage: Stage, config: Config, parents: dict[str, Run]) -> None:
    """A run folder keeps the run it has: another config belongs in another folder."""
    if old.manifest.stage != stage.name:
        raise ConfigError(f"{old.path}: holds a {old.manifest.stage} run, not a {stage.name} run", fix="choose another --out")
    if old.status == "failed" and not any((old.path / "checkpoints").glob("checkpoint-*")):
        return  # nothing in it is worth keeping: a mistake put right may use the folder
    if old.manifest.config_hash != identity(config):
        changed = [key for key, value in to_data(config).items() if old.config.get(key) != value]
        raise ConfigError(
            f"{old.path}: holds a run with another config (it differs in {', '.join(changed) or 'older keys'})",
            fix=f"choose another --out, or `phiforge runs rm {old.path}`",
        )
    if old.status == "complete":
        return  # its input or a parent changed: it is made again
    moved = [role for role, parent in old.manifest.parents.items() if role in parents and parents[role].fingerprint != parent.fingerprint]
    if moved:
        raise ConfigError(f"{old.path}: its {moved[0]} has changed since it began", fix=f"`phiforge runs rm {old.path}`, then start again")


def _is_done(out: Path, stage: Stage, config: Config, parents: dict[str, Run], inputs: dict[str, str]) -> bool:
    if not Run.is_run(out):
        return False
    run = Run.open(out)
    old = run.manifest
    return (
        old.status == "complete"
        and old.stage == stage.name
        and old.config_hash == identity(config)
        and old.inputs == inputs
        and {role: parent.fingerprint for role, parent in old.parents.items()} == {role: run.fingerprint for role, run in parents.items()}
        and all((out / name).is_file() and (out / name).stat().st_size == made.bytes for name, made in old.artefacts.items())
    )


def _follow(stage: Stage, config: Config, parents: dict[str, Run], out: Path, inputs: dict[str, str], *, draw: bool) -> Run:
    """What the other processes of a launch do: train along, or wait while the first one works alone."""
    while not stage.distributed and not _is_done(out, stage, config, parents, inputs):
        if Run.is_run(out) and Run.open(out).manifest.status == "failed" and Run.open(out).manifest.launch == launch_token():
            raise RunError(f"{out}: the first process failed here")
        time.sleep(0.2)
    if not stage.distributed:
        return Run.open(out)
    while not (Run.is_run(out) and Run.open(out).manifest.status == "running" and Run.open(out).manifest.launch == launch_token()):
        time.sleep(0.1)
    manifest = Run.open(out).manifest
    resuming = any((out / "checkpoints").glob("checkpoint-*"))
    return _execute(stage, config, parents, RunWriter(out, manifest, config, resuming=resuming, leader=False), draw=draw)


def _sha256_input(path: Path) -> str:
    try:
        return atomic.sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", fix="give a file that can be read") from None


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache  # what was loaded does not change while it runs, whatever becomes of the files
def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with a `+` when it has changes; None outside one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        dirty = subprocess.run(["git", "-C", str(here), "diff", "--quiet", "HEAD"], capture_output=True, timeout=5, check=False)
        return commit.stdout.strip() + ("+" if dirty.returncode else "")
    except (OSError, subprocess.SubprocessError):
        return None
