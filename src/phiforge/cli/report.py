"""`phiforge report`: draws the page of a run or of a comparison anew, from its folder."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from phiforge.cli.stages import Json
from phiforge.core import console
from phiforge.core.errors import ConfigError, RunError

Folder = Annotated[
    list[Path], typer.Argument(metavar="RUN|EXPERIMENT", help="A run folder, or the folder of a comparison; several with --scaling.")
]
Scaling = Annotated[bool, typer.Option("--scaling", help="Set all runs in these folders against the law of bits per byte by text read.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print it as Markdown on stdout instead of writing the page.")]
File = Annotated[Path | None, typer.Option("--out", help="File to write to (default: report.html in the folder).", show_default=False)]


def report(folders: Folder, markdown: Markdown = False, scaling: Scaling = False, out: File = None, json: Json = False) -> None:
    """Draw the report of a run or of a comparison: one HTML file that loads nothing, or Markdown.

    Example: phiforge report runs/phi-tiny --markdown > README.md; of many runs: phiforge report runs --scaling
    """
    if markdown and json:
        raise ConfigError("--markdown and --json both ask for stdout", fix="give one of them")
    if scaling:
        _scaling(folders, markdown, out, json)
    elif len(folders) > 1:
        raise ConfigError(f"{folders[1]}: is one folder too many", fix="several runs together: phiforge report RUN... --scaling")
    else:
        _one(folders[0], markdown, out, json)


def _scaling(folders: list[Path], markdown: bool, out: Path | None, json: bool) -> None:
    """Many runs beside the law of their kind."""
    from phiforge.core import atomic
    from phiforge.report import scaling_page
    from phiforge.report.scaling import laws_of, points_in

    points, skipped = points_in(folders)
    for line in skipped:
        console.warn(f"left out: {line}")
    if not points:
        raise RunError("none of these runs can be set against a law", fix="finished `pretrain` runs beside the data and tokenizer they had")
    laws = laws_of(points)
    if markdown:
        text = scaling_page.markdown(laws, skipped)
        if out is None:
            typer.echo(text, nl=False)
        else:
            atomic.write_text(_file(out), text)
        return
    if json:
        typer.echo(json_module.dumps(scaling_page.as_data(laws, skipped), ensure_ascii=False, indent=1))
        return
    console.table("bits per byte by text read", scaling_page.HEAD, scaling_page.point_rows(laws), result=True)
    for law in laws:
        typer.echo(law.sentence())
    target = _file(out or (folders[0] if folders[0].is_dir() else Path()) / "scaling.html")
    atomic.write_text(target, scaling_page.scaling_page(laws, skipped))
    console.say(f"wrote {target}", whole=True)


def _one(folder: Path, markdown: bool, out: Path | None, json: bool) -> None:
    from phiforge.core import atomic
    from phiforge.core.runs import Run
    from phiforge.report.compare import comparison_markdown, comparison_page, render_comparison
    from phiforge.report.experiment import is_experiment, read_experiment
    from phiforge.report.markdown import run_markdown
    from phiforge.report.run import render_run, run_page
    from phiforge.report.verdicts import headline

    if folder.is_file():
        beside = Run.is_run(folder.parent) or is_experiment(folder.parent)
        fix = f"phiforge report {folder.parent}" if beside else "`phiforge runs list` shows the runs there are"
        raise RunError(f"{folder}: is a file, not the folder of a run or of a comparison", fix=fix)
    compared = is_experiment(folder) or (not Run.is_run(folder) and (folder / "experiment.yaml").is_file())
    if not compared and not Run.is_run(folder) and (inside := Run.inside(folder, with_model=False)):
        raise RunError(f"{folder}: is neither a run nor a comparison", fix=f"it holds {', '.join(inside[:6])}")
    if markdown:
        text = comparison_markdown(folder) if compared else run_markdown(folder)
        if out is None:
            typer.echo(text, nl=False)
            return
        atomic.write_text(_file(out), text)
        target = out
    elif out is not None:
        atomic.write_text(_file(out), comparison_page(folder) if compared else run_page(folder))
        target = out
    else:
        target = render_comparison(folder) if compared else render_run(folder)
    if json:
        found = {"kind": "comparison" if compared else "run", "path": str(target)}
        if compared:
            found["headline"] = headline(read_experiment(folder))
        typer.echo(json_module.dumps(found, ensure_ascii=False))
    else:
        console.say(f"wrote {target}", whole=True)


def _file(out: Path) -> Path:
    """`out`, where it can be a file. Raises ConfigError."""
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder", fix=f"--out {out / 'report.html'}")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: does not exist", fix="make that folder first")
    return out
