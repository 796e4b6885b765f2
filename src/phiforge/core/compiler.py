"""Compile one C file for this very processor, once, and load it. No compiler, no problem: the caller hears why and does without.

The library is kept in the user's cache folder under a name that hashes the source, the compiler, its flags and the processor, so that a
home folder shared by unlike machines, or an upgraded compiler, gets its own. `PHIFORGE_NATIVE=0` turns it off, `CC` names the compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from phiforge.core.hardware import cpu_flags, cpu_name

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_SECONDS = 120


class Unavailable(Exception):
    """Why compiled code can't be had here, in one line."""


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "phiforge" / "native"


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise Unavailable("no C compiler (cc, gcc, clang) on this machine")


def _flags() -> tuple[str, ...]:
    # Apple's clang for arm64 spells -march=native differently
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    return tuple(native if flag == "-march=native" else flag for flag in FLAGS)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} did not run: {error}") from None
    if done.returncode != 0:
        first = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise Unavailable(f"{command[0]} failed: {first}")
    return done.stdout


def load(source: Path) -> ctypes.CDLL:
    """The shared library of a C file; compiled on first use (about a second). Raises Unavailable."""
    if os.environ.get("PHIFORGE_NATIVE", "1") == "0":
        raise Unavailable("PHIFORGE_NATIVE=0")
    compiler = _compiler()
    try:
        text = source.read_bytes()
        flags = _flags()
        key = "\0".join([_run([compiler, "--version"]), *flags, cpu_name(), *sorted(cpu_flags())])
        folder = _cache_folder()
        library = folder / f"{source.stem}-{hashlib.sha256(text + key.encode()).hexdigest()[:24]}.so"
        if not library.is_file():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / library.name
                _run([compiler, *flags, "-o", str(made), str(source), "-lm"])
                made.replace(library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise Unavailable(f"the compiled library can't be kept or loaded: {error}") from None
