"""The most memory that was in use while something ran."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import resource
import sys
from pathlib import Path

import torch

from phiforge.core import hardware


def give_back() -> None:
    """Return freed heap to the system, which glibc does not do by itself (core.hardware.configure_allocator): after a probe."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Counts from when it is made. On a GPU: bytes of tensors there; else: resident bytes of this process.

    Linux lets a process set its own mark back; where that is refused, the mark is the process's highest since it began.
    """

    def __init__(self) -> None:
        self.cuda = hardware.device() == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes at the highest since then."""
        if self.cuda:
            return int(torch.cuda.max_memory_allocated())
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
