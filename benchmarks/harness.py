"""The one way this project measures: A and B interleaved in one process, an A/A control beside them, the ratio recorded.

Machines are noisy, so an absolute second says little. `paired` runs the peer (a) and ours (b) in turn, takes the ratio within each pair,
and reports the median with its spread; ours is also run twice in every pair, and the ratio of those two (the A/A control) must stay within
5 %, or the figure is not to be trusted. Check that a and b give the same output *before* timing them. Example:

    from harness import paired, record
    result = paired("sampling 0.82M", lambda: peer.generate(...), lambda: engine.generate(...))
    record("sampling", [result], config={"batch": 32})
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
AA_LIMIT = 0.05
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "tiktoken", "numpy", "safetensors", "gguf", "xllamacpp")


def _seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def paired(
    name: str,
    a: Callable[[], Any],
    b: Callable[[], Any],
    *,
    pairs: int = 8,
    clock: Callable[[], float] = time.process_time,
    warm_up: int = 1,
    work: float | None = None,
    unit: str = "",
) -> dict[str, Any]:
    """How many times less time b takes than a: the median over interleaved pairs of seconds(a) / seconds(b).

    Each pair runs b, a, b (the two b's swap places from pair to pair; their ratio is the A/A control, b's time is their mean). The default
    clock is CPU seconds of the process, all threads; pass `time.perf_counter` for wall time. `warm_up` runs of each come first, uncounted.
    `work` (say, tokens made by one call) adds a and b in `unit` per second, for orientation only.

    Returns name, ratio, ratio_min, ratio_max, ratio_quartiles, a_seconds and b_seconds (medians), pairs, aa (median), aa_ok.
    Each call should take at least a few tenths of a second; the cyclic garbage collector is off while a call is timed.
    """
    if pairs < 1:
        raise ValueError(f"pairs={pairs}: at least 1 is needed, 8 for a figure that is recorded")
    for _ in range(warm_up):
        a()
        b()
    ratios: list[float] = []
    controls: list[float] = []
    all_a: list[float] = []
    all_b: list[float] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for pair in range(pairs):
            first = _seconds(b, clock)
            peer = _seconds(a, clock)
            last = _seconds(b, clock)
            left, right = (first, last) if pair % 2 == 0 else (last, first)
            ours = (left + right) / 2
            ratios.append(peer / ours)
            controls.append(left / right)
            all_a.append(peer)
            all_b.append(ours)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    aa = statistics.median(controls)
    quartiles = statistics.quantiles(ratios, n=4) if pairs > 1 else [ratios[0]] * 3
    result: dict[str, Any] = {
        "name": name,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "a_seconds": statistics.median(all_a),
        "b_seconds": statistics.median(all_b),
        "pairs": pairs,
        "clock": getattr(clock, "__name__", str(clock)),
        "aa": aa,
        "aa_ok": abs(aa - 1) <= AA_LIMIT,
    }
    if work is not None:
        result |= {"unit": f"{unit}/s", "a_rate": work / result["a_seconds"], "b_rate": work / result["b_seconds"]}
    return result


def line(result: Mapping[str, Any]) -> str:
    """One result in one line, for the terminal."""
    rates = f"; {result['a_rate']:,.0f} -> {result['b_rate']:,.0f} {result['unit']}" if "a_rate" in result else ""
    verdict = "" if result["aa_ok"] else "  (A/A control out of bounds: measure again)"
    return (
        f"{result['name']}: {result['ratio']:.2f}x [{result['ratio_min']:.2f}, {result['ratio_max']:.2f}]"
        f" over {result['pairs']} pairs, A/A {result['aa']:.3f}{rates}{verdict}"
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures were taken on: processor, cores, system, interpreter, threads, package versions, commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def record(
    claim: str, results: Sequence[Mapping[str, Any]], *, config: Mapping[str, Any] | None = None, folder: Path | str = RESULTS
) -> Path:
    """Write results/<claim>-<date>.json (machine, versions, commit, config, every result) and return its path.

    A second record of one claim on one day replaces the first. One whose A/A control failed is written so (`aa_ok: false`), not dropped.
    """
    now = datetime.datetime.now(datetime.UTC)
    path = Path(folder) / f"{claim}-{now:%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "claim": claim,
        "recorded": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "config": dict(config or {}),
        "results": [dict(result) for result in results],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
