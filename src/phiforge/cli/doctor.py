"""`phiforge doctor`: what this machine is, what it can do, and what is missing."""

from __future__ import annotations

import importlib.metadata
import json as json_module
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

from phiforge.cli.stages import Json
from phiforge.core import console, hardware

_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "tiktoken", "rustbpe", "safetensors", "gguf", "xllamacpp")
_EXTRAS = ("wandb", "trackio", "tensorboard")


def doctor(json: Json = False) -> None:
    """Check this machine: processor, memory, disk, libraries. Exit code 1 when something needed is missing."""
    checks = list(_machine()) + [_library(name, needed=True) for name in _LIBRARIES] + [_library(name, needed=False) for name in _EXTRAS]
    good = all(check["ok"] for check in checks if check["needed"])
    if json:
        typer.echo(json_module.dumps({"ok": good, "checks": checks}, ensure_ascii=False))
    else:
        rows = [("ok" if check["ok"] else "MISSING" if check["needed"] else "-", check["what"], check["found"]) for check in checks]
        console.table("this machine", ["", "what", "found"], rows, result=True)
        console.say("everything needed is here" if good else "something needed is missing: see above")
    if not good:
        raise typer.Exit(1)


def _machine() -> list[dict[str, Any]]:
    import torch

    free = hardware.free_disk(Path.cwd())
    kind = hardware.device()
    graphics = torch.cuda.get_device_name() if kind == "cuda" else "none" if kind == "cpu" else kind
    return [
        _check("python", sys.version.split()[0], sys.version_info >= (3, 11)),
        _check("processor", f"{hardware.cpu_name()}, {hardware.cpu_count()} cores", True),
        _check(
            "bf16 in hardware", "yes" if hardware.has_bf16(kind) else "no: training stays in fp32", hardware.has_bf16(kind), needed=False
        ),
        _check("graphics card", graphics, kind != "cpu", needed=False),
        _check(
            "memory",
            f"{hardware.size(hardware.free_memory())} free of {hardware.size(hardware.total_memory())}",
            hardware.free_memory() > 1.5e9,
        ),
        _check("disk here", f"{hardware.size(free)} free", free > 2e9),
        _check(
            "C++ compiler (torch.compile)", "yes" if hardware.has_compiler() else "no: not needed", hardware.has_compiler(), needed=False
        ),
        _native(),
        _check("ollama", shutil.which("ollama") or "no: needed only to run models there", bool(shutil.which("ollama")), needed=False),
    ]


def _native() -> dict[str, Any]:
    """Whether the kernels that are compiled for this processor are in use; torch does the same work without them."""
    from phiforge.generate.native import library

    made = library()
    return _check("compiled kernels", made if isinstance(made, str) else "in use", not isinstance(made, str), needed=False)


def _library(name: str, *, needed: bool) -> dict[str, Any]:
    try:
        return _check(name, importlib.metadata.version(name), True, needed=needed)
    except importlib.metadata.PackageNotFoundError:
        return _check(name, "not installed" if needed else "not installed (optional)", False, needed=needed)


def _check(what: str, found: str, ok: bool, *, needed: bool = True) -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok, "needed": needed}
