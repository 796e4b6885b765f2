"""What this machine is and what fits on it. Detection is cheap; torch is asked only where it must be."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from phiforge.core.errors import PreflightError

GIB = 1024**3


def cpu_count() -> int:
    """Cores this process may use (affinity and cgroup quota respected), at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _cgroup_cores() or allowed))


def _cgroup_cores() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def _cgroup_memory() -> int | None:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return None if limit == "max" else int(limit)
    except (OSError, ValueError):
        return None


def total_memory() -> int:
    """Bytes of memory this process may use."""
    import psutil

    total = psutil.virtual_memory().total
    return min(total, _cgroup_memory() or total)


def free_memory() -> int:
    """Bytes that can be had now without swapping."""
    import psutil

    return min(psutil.virtual_memory().available, total_memory())


def free_disk(path: Path) -> int:
    """Free bytes on the file system that holds `path` (or its nearest existing parent)."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags as Linux names them; empty elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def cpu_name() -> str:
    """The processor as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def has_bf16(device: str = "cpu") -> bool:
    """Whether bf16 matrix products are native, not emulated. GTX 16xx and older cards say no and stay in fp32."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "mps":
        return False
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def has_compiler() -> bool:
    """Whether torch.compile can build CPU code here: a C++ compiler and Python's headers."""
    import sysconfig

    compiler = next((c for c in (os.environ.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None)
    return compiler is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


@functools.cache
def device() -> str:
    """`cuda`, `mps` or `cpu`: where tensors should live. `PHIFORGE_DEVICE` overrides."""
    forced = os.environ.get("PHIFORGE_DEVICE")
    if forced:
        return forced
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def configure_allocator() -> bool:
    """Keep glibc from giving big temporaries back to the system after every step; True where it took.

    Without it, each step maps and unmaps its logits anew. Measured (docs/methods.md): training a 6M model gains
    5 % at a 4k vocabulary and 24 to 42 % at 32k. glibc only; elsewhere nothing is done.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(mmap_threshold, 2**30) and libc.mallopt(trim_threshold, 2**31 - 1))


def advise_huge_pages(address: int, size: int) -> None:
    """Ask Linux to back fresh memory with 2 MB pages: fewer faults at the first write, fewer look-ups at each read. A wish only."""
    if sys.platform == "linux" and size >= 2**21:
        first, last = -(-address // 4096) * 4096, (address + size) // 4096 * 4096
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), 14)  # MADV_HUGEPAGE


def preflight_disk(path: Path, need: int) -> None:
    """Raise PreflightError when `need` bytes (with a tenth to spare) don't fit where `path` is, or it can't be written."""
    free = free_disk(path)
    if need * 1.1 > free:
        raise PreflightError(
            f"{path}: needs {size(need)} of disk and {size(free)} is free", fix="free some space or choose another folder with --out"
        )
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise PreflightError(f"{folder}: is a file, and a folder is needed there", fix="choose another folder with --out")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PreflightError(f"{folder}: no permission to write there", fix="choose another folder with --out")


def preflight_memory(need: int, what: str) -> None:
    """Raise PreflightError when `need` bytes of memory can't be had."""
    free = free_memory()
    if need > free:
        raise PreflightError(f"{what} needs {size(need)} of memory and {size(free)} is free", fix="a smaller size, batch or context fits")


def size(n: float) -> str:
    """Bytes as a person reads them: 1.5 GB (powers of 1000, as disks and downloads are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def describe() -> dict[str, Any]:
    """The machine as a run records it."""
    return {
        "platform": platform.platform(),
        "processor": cpu_name(),
        "cores": cpu_count(),
        "memory_bytes": total_memory(),
        "bf16": has_bf16(),
        "python": platform.python_version(),
    }
