"""`phiforge chat`: talk to a model in the terminal, or pipe a prompt through it."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phiforge.cli.stages import Json
from phiforge.core import console
from phiforge.core.errors import ConfigError, DataError, PhiforgeError

if TYPE_CHECKING:
    from phiforge.backends.base import Backend
    from phiforge.generate.config import SamplingConfig

_HELP = "/help  this list    /reset  forget the conversation    /quit  leave (so does Ctrl-D)"
_MEMORY_HELP = "/read FILE  read a text once and answer from it    /save FILE, /load FILE  keep what was read, and go on from it"


def chat(
    model: Annotated[
        str, typer.Argument(metavar="RUN|FILE.gguf|URL", help="A run, a GGUF file, a model folder, or the URL of an OpenAI-style server.")
    ],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Answer this and leave ('-' reads standard input).")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token; higher is more varied.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest tokens; 0 = all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the likeliest tokens up to this probability.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same words.")] = None,
    system: Annotated[str | None, typer.Option(help="A first instruction to a chat model.")] = None,
    json: Json = False,
) -> None:
    """Talk to a model. A base model continues what you type; a fine-tuned one answers.

    Text on standard input is one prompt, however many lines it has; its answer goes to stdout.
    Example: phiforge chat runs/quickstart/export --prompt "def main("
    """
    from phiforge.backends.open import open_backend
    from phiforge.core.config import build
    from phiforge.generate.config import SamplingConfig

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
    sampling = build(SamplingConfig, {key: value for key, value in given.items() if value is not None}, where="the command line")
    with open_backend(model) as backend:
        if prompt is not None or not sys.stdin.isatty():
            text = sys.stdin.read().removesuffix("\n") if prompt in (None, "-") else prompt or ""
            _once(backend, text, system, sampling, json)
        elif json:
            raise ConfigError("--json needs a prompt", fix="--prompt TEXT")
        else:
            _talk(backend, system, sampling)


def _opening(backend: Backend, system: str | None) -> list[dict[str, str]]:
    if system and not backend.chats:
        raise ConfigError(
            "--system: a base model takes no instructions, it continues text", fix="`phiforge finetune` makes it a chat model"
        )
    return [{"role": "system", "content": system}] if system else []


def _once(backend: Backend, text: str, system: str | None, sampling: SamplingConfig, as_json: bool) -> None:
    """One answer on stdout. For a base model the prompt itself is what is continued."""
    opening = _opening(backend, system)
    request: Any = [*opening, {"role": "user", "content": text}] if backend.chats else text
    if as_json:
        typer.echo(json_module.dumps({"prompt": text, "text": backend.complete(request, sampling)}, ensure_ascii=False))
        return
    for piece in backend.stream(request, sampling):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _talk(backend: Backend, system: str | None, sampling: SamplingConfig) -> None:
    """The conversation loop. Ctrl-C stops an answer, Ctrl-D or /quit leaves."""
    messages = _opening(backend, system)
    console.headline(f"{backend.name}")
    console.say("It answers what you type." if backend.chats else "A base model: it continues what you type.")
    _help(backend)
    while True:
        try:
            line = input("\n> ")
        except (EOFError, KeyboardInterrupt):
            console.say("")
            return
        if line.strip() in ("/quit", "/exit"):
            return
        if line.strip() == "/help":
            _help(backend)
        elif line.strip() == "/reset":
            messages = _opening(backend, system)
            if hasattr(backend, "memory"):
                backend.memory = None
            console.say("forgotten")
        elif line.split(maxsplit=1)[:1] in (["/read"], ["/save"], ["/load"]):
            _memory(backend, line)
        elif line.strip():
            messages.append({"role": "user", "content": line})
            answer = _say(backend, messages if backend.chats else line, sampling)
            messages.append({"role": "assistant", "content": answer})


def _help(backend: Backend) -> None:
    console.say(_HELP)
    if _has_memory(backend):
        console.say(_MEMORY_HELP)


def _has_memory(backend: Any) -> bool:
    """Whether what it reads can be kept: constant-state models in our own engine."""
    return hasattr(backend, "memory") and hasattr(backend.engine.decoder, "begin")


def _memory(backend: Any, line: str) -> None:
    """/read, /save and /load; what goes wrong is one line, and the conversation goes on."""
    command, _, name = line.strip().partition(" ")
    try:
        if not _has_memory(backend):
            raise ConfigError(f"{command}: {backend.name} keeps no memory of its own", fix="models of family thyme do")
        if not name.strip():
            raise ConfigError(f"{command} needs a file", fix=f"{command} FILE")
        path = Path(name.strip()).expanduser()
        if command == "/read":
            console.say(f"read {backend.remember(_text_of(path)):,} tokens; /save FILE keeps them in {backend.memory.nbytes:,} bytes")
        elif command == "/save":
            console.say(f"{path}: what {backend.save_memory(path).seen:,} tokens left behind")
        else:
            console.say(f"{path}: {backend.load_memory(path).seen:,} tokens remembered")
    except PhiforgeError as error:
        console.warn(str(error))
    except OSError as error:
        console.warn(f"{error.filename or name}: {error.strerror or error}")


def _text_of(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text (byte {error.start:,})", fix="convert it to UTF-8") from None
    if not text:
        raise DataError(f"{path}: is empty", fix="give a text")
    return text


def _say(backend: Backend, request: Any, sampling: SamplingConfig) -> str:
    pieces: list[str] = []
    try:
        for piece in backend.stream(request, sampling):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    sys.stdout.write("\n")
    return "".join(pieces)
