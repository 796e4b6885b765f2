"""Which kind of training lies at a path, and its reader: our run folders, transformers' trainer_state.json, lines of JSON, W&B's files.

Nothing here unpickles anything (transformers' training_args.bin is not read).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phiforge.core.errors import DataError, RunError
from phiforge.core.runs import METRICS, Run
from phiforge.lab.reading import Reading, finite, numeric, run_name, split_name
from phiforge.lab.wandb_files import is_offline_run, read_offline_run

STATE = "trainer_state.json"
_LARGEST = 500_000_000  # bytes of a file of another trainer

# -- the kinds ----------------------------------------------------------------------------------------------------------


def read_run(path: Path) -> Reading:
    """A run folder of ours. Its value is the final metric of run.json where it has one (measured once, on the weights that were kept)."""
    run = Run.open(path)
    made, status = run.manifest, run.status
    reading = Reading(
        path=path, kind="phiforge", name=run_name(path), lines=_dicts(run.metrics()), final=dict(made.metrics), run=run,
        seed=made.seed, named_seed=split_name(run_name(path))[1], status=status, error=made.error, seconds=made.seconds,
    )  # fmt: skip
    if status != "complete":
        reading.status = "failed" if status == "failed" else "interrupted"
        reading.error = made.error or ("still running" if status == "running" else "stopped before its end")
        reading.cut_at = reading.last_step() if status != "failed" else None
    kept, steps = made.metrics.get("model_step"), made.metrics.get("steps")
    if numeric(kept) and numeric(steps) and kept != steps:
        reading.notes.append(f"the weights kept are those of step {kept} of {steps}, chosen on validation text")
    return reading


def read_lines(path: Path) -> Reading:
    """A file of JSON lines, one object for each time something was logged: our metrics.jsonl, or W&B's history."""
    name = run_name(path.parent) if path.name == METRICS else path.stem
    seed = split_name(name)[1]
    return Reading(path=path, kind="lines", name=name, lines=_logged(_strict_lines(path)), seed=seed, named_seed=seed)


def _logged(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tables written as lines have every key in each, null where nothing was logged: those are taken out.

    A null stays, and so means no number, where a metric is missing at the end for longer than it ever was before.
    """
    if len(lines) < 2 or any(set(line) != set(lines[0]) for line in lines):
        return lines
    kept = [{key: value for key, value in line.items() if value is not None} for line in lines]
    for key in lines[0]:
        places = [place for place, line in enumerate(kept) if key in line]
        gaps = [after - before for before, after in itertools.pairwise([-1, *places])]
        if places and len(lines) - 1 - places[-1] >= max(gaps):
            kept[-1][key] = None
    return kept


def read_state(path: Path) -> Reading:
    """transformers' trainer_state.json: the file, a checkpoint, or an output folder (its own, or that of its last checkpoint)."""
    file = path if path.is_file() else _last_state(path)
    state = _object(file)
    history, done, planned = state.get("log_history"), state.get("global_step"), state.get("max_steps")
    if not isinstance(history, list):
        raise DataError(f"{file}: no log_history in it", fix="give the trainer_state.json that transformers' Trainer writes")
    folder = file.parent.parent if file.parent.name.startswith("checkpoint-") else file.parent
    seed, noted = _state_seed(file.parent, folder)
    named = split_name(run_name(folder))[1]
    reading = Reading(path=path, kind="transformers", name=run_name(folder), lines=_dicts(history), named_seed=named)
    reading.seed = seed if noted else named
    if isinstance(done, int) and isinstance(planned, int) and 0 < done < planned and not _was_told_to_stop(state):
        reading.status, reading.cut_at = "interrupted", float(done)
        reading.error = f"stopped at step {done} of {planned}"
    reading.seconds = next((line["train_runtime"] for line in reversed(reading.lines) if finite(line.get("train_runtime"))), None)
    return reading


def _last_state(folder: Path) -> Path:
    candidates = [file for file in (folder / STATE, *folder.glob(f"checkpoint-*/{STATE}")) if file.is_file()]
    if not candidates:
        raise DataError(f"{folder}: no {STATE} in it or in a checkpoint", fix="give the output folder of transformers' Trainer")

    def done(file: Path) -> int:
        step = _object(file).get("global_step")
        return step if isinstance(step, int) else -1

    return max(candidates, key=done)


def _state_seed(*folders: Path) -> tuple[int | None, bool]:
    """The seed from the arguments, where someone saved them as JSON; (seed, whether it was found)."""
    for folder in folders:
        for name in ("training_args.json", "args.json"):
            if (folder / name).is_file():
                seed = _object(folder / name).get("seed")
                if isinstance(seed, int) and not isinstance(seed, bool):
                    return seed, True
    return None, False


def _was_told_to_stop(state: dict[str, Any]) -> bool:
    """Early stopping ends a run before max_steps on purpose; the saved TrainerControl tells."""
    control: Any = state.get("stateful_callbacks")
    for key in ("TrainerControl", "args", "should_training_stop"):
        control = control.get(key) if isinstance(control, dict) else None
    return control is True


# -- which of them a path is --------------------------------------------------------------------------------------------

Reader = Callable[[Path], Reading]


def reader_of(path: Path) -> Reader | None:
    """The reader for what `path` is; None where it is none of the known kinds."""
    if path.is_dir():
        if Run.is_run(path):
            return read_run
        if is_offline_run(path):
            return read_offline_run
        if (path / STATE).is_file() or any(path.glob(f"checkpoint-*/{STATE}")):
            return read_state
        return (lambda folder: read_lines(folder / METRICS)) if (path / METRICS).is_file() else None
    if path.suffix == ".json":
        return read_state
    if path.suffix == ".wandb":
        return lambda file: read_offline_run(file.parent)
    return read_lines if path.suffix in (".jsonl", ".ndjson") else None


def read_all(path: Path) -> list[Reading]:
    """The training at `path`, or those in the folders inside it (four levels). Raises DataError where there is none, or one is damaged."""
    if not path.exists():
        raise RunError(f"{path}: does not exist", fix="`phiforge runs list` shows the runs there are")
    reader = reader_of(path)
    if reader is not None:
        return [reader(path)]
    found = _inside(path, 4) if path.is_dir() else []
    if not found:
        raise DataError(
            f"{path}: no training that can be read",
            fix=f"a run folder, {STATE}, metrics.jsonl, a W&B offline run, or a CSV with columns arm,seed,METRIC",
        )
    return found


def _inside(folder: Path, depth: int) -> list[Reading]:
    found: list[Reading] = []
    for child in sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")):
        reader = reader_of(child)
        if reader is not None:
            reading = reader(child)
            trained = reading.lines or reading.run is None or "tokens" in reading.final or reading.status != "complete"
            found += [reading] if trained else []  # a recipe's data and tokenizer runs lie beside the training
        elif depth > 1:
            found += _inside(child, depth - 1)
    return found


# -- small reading ------------------------------------------------------------------------------------------------------


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _object(file: Path) -> dict[str, Any]:
    """A JSON object. NaN and Infinity, which transformers writes, are read as such."""
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes is too large", fix="the limit is 500 MB")
        data = json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file}: not JSON: {str(error).splitlines()[0]}", fix="the file may have been cut off while it was written"
        ) from None
    if not isinstance(data, dict):
        raise DataError(f"{file}: a JSON {type(data).__name__}, and an object is needed")
    return data


def _strict_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines. A torn last line is left out, as a killed trainer leaves one; a bad one before it is an error."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes is too large", fix="the limit is 500 MB")
        text = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    lines = []
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(text):
                break
            raise DataError(f"{path}, line {number}: not JSON", fix="one JSON object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(value).__name__}", fix="one JSON object a line")
        lines.append(value)
    if not lines:
        raise DataError(f"{path}: no line of JSON in it", fix="one JSON object for each time something was logged")
    return lines
