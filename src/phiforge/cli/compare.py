"""`phiforge compare`: arms x seeds -> verdict; or runs that exist already, also of other trainers."""

from __future__ import annotations

import importlib
import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from phiforge.cli.stages import Json, Out, Resume, next_commands, only_one, split_words
from phiforge.core import console
from phiforge.core.errors import ConfigError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[EXPERIMENT|FILE.csv|RUN... --against RUN...] [KEY=VALUE]...",
        help="An experiment (a shipped name or FILE.yaml), a CSV file with columns arm,seed,METRIC..., or runs; then settings.",
    ),
]
Metric = Annotated[str | None, typer.Option("--metric", help="The one metric that decides.", show_default=False)]
UntilClear = Annotated[bool, typer.Option("--until-clear", help="Add seeds until a sequential test decides.")]
Plan = Annotated[bool, typer.Option("--plan", "--dry-run", help="Show what would run, and leave.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at the same time on this machine.")]
Cluster = Annotated[str | None, typer.Option("--cluster", help="Ray: local:N or a cluster's address.", show_default=False)]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="With --cluster: GPUs for each run (a fraction will do).")]
Retry = Annotated[bool, typer.Option("--retry", help="Run failed trials again.")]


def compare(
    words: Words = None,
    metric: Metric = None,
    until_clear: UntilClear = False,
    plan: Plan = False,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    gpus: Gpus = 0.0,
    retry: Retry = False,
    out: Out = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Compare ways to train over paired seeds, and say which one helped: better, worse, no detectable difference, too few seeds to say.

    Example: phiforge compare experiment.yaml seeds=10. Interrupted, the same command goes on. Without a word: list the experiments.
    """
    from phiforge.lab.experiment import is_experiment

    here, against = _against(list(words or []))
    plain, keys = split_words(here)
    if not plain and not against:
        _list(keys, json)
    elif against or not is_experiment(plain[0]):
        asked = {"--plan": plan, "--jobs": jobs > 1, "--cluster": cluster is not None, "--gpus": gpus > 0, "--retry": retry}
        _not_run([option for option, given in asked.items() if given])
        _existing(plain, against, {**keys, **({"metric": metric} if metric else {})}, until_clear=until_clear, out=out, json=json)
    else:
        keys |= {"metric": metric} if metric else {}
        keys |= {"until_clear": True} if until_clear else {}
        _experiment(str(only_one(plain, "the experiment")), keys, plan=plan, how=(jobs, cluster, gpus, retry), out=out, json=json)


def _against(words: list[str]) -> tuple[list[str], list[str]]:
    """The words, and those behind `--against` up to the next option or setting."""
    if "--against" not in words:
        return words, []
    place = words.index("--against")
    rest = words[place + 1 :]
    end = next((i for i, word in enumerate(rest) if word.startswith("--") or ("=" in word and not Path(word).exists())), len(rest))
    if not end:
        raise ConfigError("--against needs the runs of the baseline", fix="phiforge compare RUN... --against RUN...")
    return words[:place] + rest[end:], rest[:end]


def _not_run(options: list[str]) -> None:
    """Refuse options of running where nothing runs."""
    if options:
        raise ConfigError(
            f"{', '.join(options)}: runs that exist are read, not run", fix=f"leave {'it' if len(options) == 1 else 'them'} out"
        )


_RESULTS = (".csv", ".tsv", ".json", ".jsonl", ".wandb")
_OF_EXISTING = ("metric", "alpha", "by", "best", "lower_is_better", "name")


def _existing(runs: list[str], against: list[str], keys: Mapping[str, Any], *, until_clear: bool, out: Path | None, json: bool) -> None:
    """Runs and tables that exist already."""
    import sys

    from phiforge.core.config import nearest
    from phiforge.lab.experiment import experiment_names
    from phiforge.lab.sources import compare_existing

    for word in (*runs, *against):
        if not Path(word).exists() and (word in runs or "/" in word or not runs[0].lower().endswith((".csv", ".tsv"))):
            if word.lower().endswith(_RESULTS):
                raise ConfigError(f"{word}: does not exist", fix="a table of results has columns arm,seed,METRIC...")
            known = [*experiment_names()]
            raise ConfigError(
                f"{word}: is no experiment, run or file; {nearest(word, known)}", fix="`phiforge runs list` shows the runs there are"
            )
    for key in keys:
        if key not in _OF_EXISTING:
            raise ConfigError(f"unknown key {key!r}; {nearest(key, _OF_EXISTING)}", fix="runs that exist can't be given other settings")
    command = ["phiforge", *sys.argv[1:]]
    _show(compare_existing(runs, against, until_clear=until_clear, out=out, command=command, **keys), out, json)


def _list(keys: Mapping[str, Any], as_json: bool) -> None:
    from phiforge.lab.experiment import experiment_names, load_experiment

    if keys:
        raise ConfigError("no experiment is named", fix="phiforge compare EXPERIMENT key=value; `phiforge compare` alone lists them")
    listed = {name: load_experiment(name).description for name in experiment_names()}
    if as_json:
        typer.echo(json_module.dumps(listed, ensure_ascii=False))
    elif listed:
        console.table("experiments", ["name", "what it asks"], list(listed.items()), result=True)
    else:
        console.say("phiforge compare FILE.yaml; docs/cli.md shows what an experiment is")


def _experiment(
    name: str, keys: Mapping[str, Any], *, plan: bool, how: tuple[int, str | None, float, bool], out: Path | None, json: bool
) -> None:
    import sys

    from phiforge.lab import compare as lab
    from phiforge.lab.arms import resolve
    from phiforge.lab.controls import add_controls
    from phiforge.lab.experiment import load_experiment
    from phiforge.lab.settle import foreseen, read_settled

    if name.endswith((".yaml", ".yml")) and not Path(name).exists():
        raise ConfigError(f"{name}: does not exist", fix="`phiforge compare` lists the experiments that ship")
    experiment = load_experiment(name, keys)
    short = name if not name.endswith((".yaml", ".yml")) else Path(name).stem
    folder = out or Path("runs") / short.replace("/", "-")
    if plan:
        design = add_controls(resolve(experiment))
        shown = lab.preview(design, read_settled(folder) or foreseen(design, folder), how[0])
        if json:
            typer.echo(json_module.dumps(shown, ensure_ascii=False))
        return
    jobs, cluster, gpus, retry = how
    ways = lab.How(jobs=jobs, cluster=cluster, gpus=gpus, retry=retry, command=["phiforge", *sys.argv[1:]])
    _show(lab.compare(experiment, folder, name=short, how=ways), folder, json)


def _show(verdict: Mapping[str, Any], folder: Path | None, as_json: bool) -> None:
    """The verdict table first, a sentence for each arm, then where the rest is."""
    report = _draw(folder) if folder is not None and (folder / "verdict.json").is_file() else None
    if as_json:
        typer.echo(json_module.dumps(verdict, ensure_ascii=False))
        return
    for role, title in (("arm", _title(verdict)), ("control", "controls")):
        rows = [_row(row) for row in verdict["comparisons"] if row["role"] == role]
        if rows:
            columns = ["arm", "verdict", "pairs", "mean difference", "95 % interval", "p (Holm)", "could find", "seeds needed"]
            console.table(title, columns if role == "arm" else ["arm against", *columns[1:]], rows, result=True)
    typer.echo("")
    for row in verdict["comparisons"]:
        if row["role"] == "arm":
            typer.echo(row.get("sentence") or f"{row['arm']}: {row['verdict']}")
    for warning in verdict["warnings"]:
        console.warn(warning)
    for failure in verdict["failures"]:
        console.warn(f"{failure['arm']}, seed {failure['seed']} failed: {failure['error']}")
    if report:
        console.say(f"\nReport: {report}", whole=True)
    if folder is not None:
        paths = [trial["path"] for arm in verdict["arms"] for trial in arm["trials"] if trial["status"] == "complete" and trial["path"]]
        best = next((path for path in paths if (folder / path / "run.json").is_file()), None)  # another trainer's run can't be shown
        next_commands(f"phiforge report {folder}", *([f"phiforge runs show {folder / best}"] if best else []))


def _title(verdict: Mapping[str, Any]) -> str:
    """What was compared; runs that exist have a name that says against what already."""
    against = f"against {verdict['baseline']}"
    name = verdict["name"] if verdict["name"].endswith(against) else f"{verdict['name']}: {against}"
    return f"{name}, by {verdict['metric']['name']}"


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    low, high = row["interval"] or (None, None)
    arm = row["arm"] if row["role"] == "arm" else f"{row['arm']} against {row['against']}"
    return (
        arm,
        row["verdict"],
        row["n"],
        "" if row["mean"] is None else f"{row['mean']:+.4g}",
        "" if low is None else f"{low:+.4g} to {high:+.4g}",
        f"{row['p_holm']:.3g}",
        "" if row["minimum_detectable"] is None else f"{row['minimum_detectable']:.3g}",
        "" if row["seeds_needed"] is None else row["seeds_needed"],
    )


def _draw(folder: Path) -> Path | None:
    """Draw the report. A picture that can't be drawn must not cost the comparison, so a fault here is told, not raised."""
    try:
        render = importlib.import_module("phiforge.report.compare").render_comparison
        return Path(render(folder))
    except Exception as error:
        console.warn(f"{folder}/report.html could not be drawn ({type(error).__name__}: {error}); verdict.json is there")
        return None
