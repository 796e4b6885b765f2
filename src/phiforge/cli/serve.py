"""`phiforge serve`: llama.cpp's OpenAI-style server with its web page, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from phiforge.core import console
from phiforge.core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Annotated[Path, typer.Argument(metavar="RUN|FILE.gguf", help="An export run, or a GGUF file.")],
    host: Annotated[str, typer.Option(help="Address to listen on; this machine only unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 = any free one.")] = 8080,
    context_length: Annotated[int, typer.Option(help="Longest conversation in tokens; 0 = the model's own.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all when not given.", show_default=False)] = None,
) -> None:
    """Serve a model: a web page to talk to it, and an OpenAI-style API. Ctrl-C stops it."""
    path = find_gguf(model)
    from phiforge.export.server import LlamaCpp, serve_forever

    server = LlamaCpp(path, host=host, port=port, context_length=context_length, threads=threads)
    console.headline(f"{path.name} is served at {server.base_url}")
    console.say(
        f"web page:  {server.base_url}/\nAPI:       {server.base_url}/v1   (OpenAI's; any key)\nCtrl-C stops it (process {os.getpid()})"
    )
    if host not in LOOPBACK:
        console.warn(f"listening on {host}: everyone who can reach this machine can use the model")
    serve_forever(server)


def find_gguf(target: Path) -> Path:
    """The GGUF file of a run or the file itself. Raises ConfigError with the way to make one."""
    from phiforge.core.runs import Run

    if target.is_file():
        return target
    found = sorted(target.glob("model-*.gguf")) if target.is_dir() else []
    if not found:
        inside = Run.inside(target, with_model=True)
        if inside and not Run.can_be("model", target):
            raise ConfigError(f"{target}: is no run itself", fix=f"it holds {', '.join(inside)}")
        what = "has no GGUF file" if Run.can_be("model", target) else "is no run and no GGUF file" if target.exists() else "does not exist"
        raise ConfigError(
            f"{target}: {what}",
            fix=f"phiforge export gguf {target}" if Run.can_be("model", target) else "`phiforge runs list` shows the runs there are",
        )
    return found[0]
