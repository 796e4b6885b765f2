"""`phiforge VERB ...`: the table of verbs, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import Any

import typer

from phiforge.cli import chat, compare, data, doctor, export, plan, quickstart, report, run, runs, schema, serve, stages
from phiforge.core import console, hardware
from phiforge.core.errors import Interrupted, PhiforgeError

app = typer.Typer(
    name="phiforge",
    help="Text in, your own small language model out. Start with [bold]phiforge quickstart[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer carries its own copy of click, or uses the installed one, by version; its public BadParameter leads to the common class.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

START, TRAIN, SHARE, LOOK = "Start here", "One stage at a time", "Use the model", "Look around"
app.command("quickstart", rich_help_panel=START, context_settings=stages.OPEN)(quickstart.quickstart)
app.command("plan", rich_help_panel=START, context_settings=stages.OPEN)(plan.plan)
app.command("run", rich_help_panel=START, context_settings=stages.OPEN)(run.run)
app.command("compare", rich_help_panel=START, context_settings=stages.OPEN)(compare.compare)
app.add_typer(data.data, name="data", rich_help_panel=TRAIN)
app.add_typer(data.tokenizer, name="tokenizer", rich_help_panel=TRAIN)
app.command("pretrain", rich_help_panel=TRAIN, context_settings=stages.OPEN)(stages.pretrain)
app.command("finetune", rich_help_panel=TRAIN, context_settings=stages.OPEN)(stages.finetune)
app.command("evaluate", rich_help_panel=TRAIN, context_settings=stages.OPEN)(stages.evaluate)
app.add_typer(export.export, name="export", rich_help_panel=SHARE)
app.command("chat", rich_help_panel=SHARE)(chat.chat)
app.command("serve", rich_help_panel=SHARE)(serve.serve)
app.add_typer(runs.runs, name="runs", rich_help_panel=LOOK)
app.command("report", rich_help_panel=LOOK)(report.report)
app.command("doctor", rich_help_panel=LOOK)(doctor.doctor)
app.command("schema", rich_help_panel=LOOK)(schema.schema)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True)) -> None:
    if version:
        import importlib.metadata

        typer.echo(importlib.metadata.version("phiforge"))
        raise typer.Exit


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """The console entry: runs a verb and leaves with its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours say what a person needs
    hardware.configure_allocator()
    signal.signal(signal.SIGTERM, _on_terminate)
    sys.exit(_guarded(arguments))


def _wrong_words(error: Any) -> int:
    """A verb or option that doesn't exist, or a word that is missing: one line. A group without a verb: its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        if text := error.format_message():  # empty where typer has drawn the help already
            typer.echo(text)
    else:
        command = error.ctx.command_path if error.ctx else "phiforge"
        console.fail(f"{' '.join(error.format_message().split())} -> `{command} --help` shows what it takes")
    return 2


def _guarded(arguments: list[str] | None) -> int:
    """Run the verb; 0 done, 1 failed, 2 bad arguments, 3 refused beforehand, 4 a gate failed, 130 interrupted."""
    for word in sys.argv[1:] if arguments is None else arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # how Python holds bytes that are not UTF-8; JSON can't
            console.fail(f"{word.encode('utf-8', 'replace').decode()}: its name is not UTF-8 -> rename it")
            return 2
    try:
        code = app(args=arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except USAGE_ERROR as error:
        return _wrong_words(error)
    except Interrupted as error:
        console.stopped(str(error).removeprefix("stopped "))
        return error.exit_code
    except PhiforgeError as error:
        console.fail(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.stopped()
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nobody is left to tell
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            console.fail(f"{str(error.filename)[:60]}...: too long for a path")
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        console.fail(f"{error.filename or 'a file'}: {error.strerror} -> free some space, or choose another folder with --out")
        return 3


if __name__ == "__main__":
    main()
