"""Weights & Biases' files, without its library: offline run folders (`offline-run-*`), and the CSV that a chart exports.

A run's `run-ID.wandb` is a log of protobuf records in LevelDB's log format (github.com/google/leveldb, doc/log_format.md) behind a header
of 7 bytes. A dozen fields of it are all that a comparison needs, so they are read from the wire format (protobuf.dev/programming-guides/
encoding): newer versions of the library no longer offer a reader. wandb-summary.json is not enough: it may hold the best value instead of
the last (`define_metric(summary="min")`), and an offline run has none before it is synced.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from phiforge.core.errors import DataError
from phiforge.lab.reading import Reading, split_name

_BLOCK, _HEADER = 32_768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_MAGIC = b":W&B"
_LARGEST = 2_000_000_000
# Numbers of the fields in wandb_internal.proto.
_HISTORY, _CONFIG, _RUN, _EXIT = 2, 5, 17, 18
_RUN_CONFIG, _RUN_NAME = 4, 8
_AXES = ("step", "_step", "global_step", "epoch", "relative time (process)", "relative time (wall)", "wall time")
_CHART = re.compile(r"^(?P<run>.+) - (?P<metric>[^-].*?)(?P<bound>__MIN|__MAX)?$")


def is_offline_run(path: Path) -> bool:
    """Whether `path` is a folder that wandb wrote for a run."""
    return path.is_dir() and re.fullmatch(r"(offline-)?run-\d{8}_\d{6}-\w+", path.name) is not None


def read_offline_run(path: Path) -> Reading:
    """The history, seed and end of a W&B run folder. Raises DataError."""
    file = next(iter(sorted(path.glob("run-*.wandb"))), None)
    if file is None:
        return _of_summary(path)
    lines: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    name, exit_code = path.name, None
    for record in records(file):
        for number, value in fields(record):
            if not isinstance(value, bytes):
                continue
            if number == _HISTORY:
                lines.append(_items(value, 1))
            elif number == _CONFIG:
                config |= _items(value, 1)
            elif number == _EXIT:
                exit_code = dict(fields(value)).get(1, 0)
            elif number == _RUN:
                run = dict(fields(value))
                settings, shown = run.get(_RUN_CONFIG), run.get(_RUN_NAME)
                config |= _items(settings, 1) if isinstance(settings, bytes) else {}
                name = shown.decode("utf-8", "replace") if isinstance(shown, bytes) else name
    reading = Reading(path=path, kind="wandb", name=name, lines=lines, named_seed=split_name(name)[1])
    seed = config.get("seed")
    reading.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else reading.named_seed
    if exit_code is None:
        reading.status, reading.error, reading.cut_at = "interrupted", "stopped before its end", reading.last_step()
    elif exit_code:
        reading.status, reading.error = "failed", f"exit code {exit_code!r}"
    return reading


def _of_summary(path: Path) -> Reading:
    file = path / "files" / "wandb-summary.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise DataError(f"{path}: neither run-*.wandb nor a summary in it", fix="give the whole offline-run folder")
    reading = Reading(path=path, kind="wandb", name=path.name, lines=[], final=data, seed=_config_seed(path / "files" / "config.yaml"))
    reading.notes.append(
        "its history is gone and the summary counts, which holds the best value where define_metric(summary=...) asked for it"
    )
    return reading


def _items(message: bytes, number: int) -> dict[str, Any]:
    """Items of a history or config record: {key: value}, values from their JSON."""
    found: dict[str, Any] = {}
    for field, raw in fields(message):
        if field != number or not isinstance(raw, bytes):
            continue
        parts = list(fields(raw))
        key = next((value for n, value in parts if n == 1), None)
        nested = [value for n, value in parts if n == 2 and isinstance(value, bytes)]
        text = next((value for n, value in parts if n == 16), None)
        if isinstance(text, bytes) and (isinstance(key, bytes) or nested):
            name = (
                key.decode("utf-8", "replace") if isinstance(key, bytes) else ".".join(part.decode("utf-8", "replace") for part in nested)
            )
            try:
                found[name] = _number_or_word(json.loads(text))
            except (ValueError, RecursionError):
                continue
    return found


def _number_or_word(value: Any) -> Any:
    """W&B writes numbers that JSON hasn't as words."""
    return float(value.lower().replace("infinity", "inf")) if value in ("NaN", "Infinity", "-Infinity") else value


def records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file; what a killed process left torn at its end is left out. Raises DataError where it is none."""
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes is too large", fix="the limit is 2 GB")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    if data[:4] != _MAGIC:
        raise DataError(f"{file}: not a W&B log (it begins with {data[:4]!r})")
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        room = _BLOCK - place % _BLOCK
        if room < _HEADER:  # too little for a header: the rest of the block is padding
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += _HEADER
        if kind == 0 and length == 0:  # a block that was allocated and never written
            place += _BLOCK - place % _BLOCK
            continue
        if place + length > len(data) or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        piece = data[place : place + length]
        place += length
        parts = piece if kind in (_FULL, _FIRST) else parts + piece
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protobuf message; values are integers or raw bytes. Stops where it is no message."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, place = _varint(message, place)
        elif wire == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, place = message[place : place + size], place + size
        else:
            return
        if place > len(message):
            return
        yield number, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    return value, len(message) + 1


def chart_columns(header: list[str]) -> dict[str, tuple[str, str]] | None:
    """column -> (run, metric) of a CSV from a W&B chart: `RUN - METRIC`, with __MIN and __MAX beside each; None for others."""
    found = {column: match for column in header if (match := _CHART.match(column))}
    axes = [column for column in header if column not in found]
    if not found or not all(column == "" or column.lower() in _AXES for column in axes):
        return None
    return {column: (match["run"], match["metric"]) for column, match in found.items() if not match["bound"]}


def _config_seed(config: Path) -> int | None:
    """The seed of a W&B config.yaml ({seed: {value: 3}}); None where it has none."""
    try:
        data = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    entry = data.get("seed") if isinstance(data, dict) else None
    seed = entry.get("value") if isinstance(entry, dict) else entry
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None
