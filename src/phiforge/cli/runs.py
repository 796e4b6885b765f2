"""`phiforge runs ...`: list, show, compare configs of, and remove run folders."""

from __future__ import annotations

import json as json_module
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phiforge.cli.stages import Json
from phiforge.core import console
from phiforge.core.errors import ConfigError, FolderInUse, RunError
from phiforge.core.hardware import size

if TYPE_CHECKING:
    from phiforge.core.runs import Run

runs = typer.Typer(help="The runs that were made: list, show, diff, remove.", no_args_is_help=True)
Root = Annotated[Path, typer.Argument(help="Where to look.")]
One = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@runs.command("list")
def list_runs(root: Root = Path("runs"), json: Json = False) -> None:
    """Every run at or below a folder."""
    from phiforge.core.runs import find_runs

    if not root.is_dir():
        raise RunError(f"{root}: does not exist", fix="`phiforge quickstart` makes a first run")
    found = find_runs(root)
    if json:
        typer.echo(json_module.dumps([_summary(run) for run in found], ensure_ascii=False))
        return
    rows = [
        (run.manifest.stage, run.status, run.manifest.started[:16].replace("T", " "), round(run.manifest.seconds or 0), str(run.path))
        for run in found
    ]
    console.table("", ["stage", "status", "started (UTC)", "seconds", "run"], rows, result=True, whole=True)


def _summary(run: Run) -> dict[str, Any]:
    kept = {"id", "stage", "seed", "started", "ended", "seconds", "metrics"}
    return {"path": str(run.path), "status": run.status, **run.manifest.model_dump(mode="json", include=kept)}


@runs.command("show")
def show(path: One, json: Json = False) -> None:
    """One run: what it is, from what it was made, what came out."""
    from phiforge.core.runs import Run

    run = Run.open(path)
    if json:
        typer.echo(json_module.dumps({"path": str(path), **run.manifest.model_dump(mode="json"), "status": run.status}, ensure_ascii=False))
        return
    made = run.manifest
    rows: list[tuple[str, Any]] = [("stage", made.stage), ("status", run.status), ("id", made.id), ("started", made.started)]
    rows += [("seconds", made.seconds or 0), ("seed", "none" if made.seed is None else made.seed)]
    rows += [("error", made.error)] if made.error else []
    rows += [(f"made from ({role})", f"{parent.path} [{parent.id}]") for role, parent in made.parents.items()]
    rows += [(f"decided {name}", str(value)) for name, value in made.decisions.items()]
    rows += [(f"gate {gate.gate}", "passed" if gate.passed else "FAILED") for gate in made.gates]
    rows += [(name, value if isinstance(value, int | float) else str(value)) for name, value in made.metrics.items()]
    rows += [(name, f"{size(file.bytes)}  sha256 {file.sha256[:12]}") for name, file in made.artefacts.items()]
    console.table(
        str(path), ["what", "value"], [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in rows], result=True
    )


@runs.command("diff")
def diff(one: One, other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another run folder.")], json: Json = False) -> None:
    """What two runs have different: config, machine decisions, versions, results."""
    from phiforge.core.runs import Run

    left, right = Run.open(one), Run.open(other)
    parts = {
        "config": (_flat(left.config), _flat(right.config)),
        "decision": (_flat(left.manifest.decisions), _flat(right.manifest.decisions)),
        "version": (left.manifest.versions, right.manifest.versions),
        "metric": (_flat(left.manifest.metrics), _flat(right.manifest.metrics)),
    }
    rows = [
        (part, key, a.get(key), b.get(key)) for part, (a, b) in parts.items() for key in {**a, **b} if a.get(key) != b.get(key)
    ]  # dict union keeps the order of declaration
    if json:
        typer.echo(json_module.dumps([{"part": part, "key": key, "left": a, "right": b} for part, key, a, b in rows], ensure_ascii=False))
    elif rows:
        console.table("", ["part", "key", str(one), str(other)], [(part, key, _said(a), _said(b)) for part, key, a, b in rows], result=True)
    else:
        console.say("no difference in config, decisions, versions or results")


def _said(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


@runs.command("rm")
def remove(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove run folders. Asks first, and says what was made from them; refuses what is no run and what is running."""
    from phiforge.core.runs import Run

    for path in paths:
        if path.is_symlink() or not Run.is_run(path):
            raise ConfigError(f"{path}: is not a run folder (no run.json), so it is not removed")
        if _live(path):
            raise FolderInUse(f"{path}: is running", fix="stop it first")
    doomed = {path.resolve() for path in paths}
    for path in paths:
        for child in _children(path):
            if not any(child.path.resolve().is_relative_to(folder) for folder in doomed):
                console.warn(f"{child.path} was made from {path}")
        total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if yes or typer.confirm(f"Remove {path} ({size(total)})?"):
            shutil.rmtree(path)
            console.say(f"removed {path}")


def _live(path: Path) -> bool:
    from phiforge.core.lock import is_live

    return is_live(path)


def _children(path: Path) -> list[Run]:
    """Runs beside `path` that name it as a parent."""
    from phiforge.core.runs import Run, find_runs

    try:
        own = Run.open(path).id
    except RunError:
        return []
    return [run for run in find_runs(path.resolve().parent) if any(parent.id == own for parent in run.manifest.parents.values())]
