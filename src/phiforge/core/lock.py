"""One process in a run folder at a time, and a way to tell a live run from one that died.

The kernel's file lock decides: it vanishes with its process, however that ends. The file's text (process id, boot id)
is for people and for file systems without locks.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

from phiforge.core.errors import FolderInUse


def boot_id() -> str:
    """A name for this boot of this machine; empty where the system doesn't tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Lock:
    """Exclusive hold on a folder through `folder/.lock`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        """Take the lock; FolderInUse names the process that has it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(self.path)
            os.close(descriptor)
            who = f"process {holder}" if holder else "another process"
            raise FolderInUse(f"{self.path.parent}: {who} is working in this folder", fix="wait for it, or choose another --out") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"process": os.getpid(), "boot": boot_id()}).encode())
        self._descriptor = descriptor
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let go. The file stays: removing it would race with the next one who takes it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _holder(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text())["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_live(folder: Path) -> bool:
    """Whether a process holds the folder right now."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
