"""Results of other tools as a CSV file: a row for each arm and seed, or for each step of each; or what a W&B chart or run table exports.

arm,seed,eval_loss
standard,1,2.31
golden,1,2.28

Separators , ; tab and | are found by themselves; a BOM, UTF-16 and decimal commas (where the separator isn't one) are read. What is
missing (empty, NA, nan, inf, a state other than finished) is a failed trial that keeps its name; what is malformed is an error with
its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from phiforge.core.config import nearest
from phiforge.core.errors import ConfigError, DataError
from phiforge.lab.reading import split_name
from phiforge.lab.wandb_files import chart_columns

_ARM = ("arm", "group", "variant", "condition", "treatment", "method")
_SEED = ("seed", "random_seed", "run_seed")
_STEP = ("step", "_step", "global_step", "steps", "epoch")
_STATE = ("status", "state")
_NAME = ("name", "run", "run_name")
_FINISHED = ("", "complete", "completed", "finished", "done", "ok", "success")
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "inf", "-inf", "+inf", "infinity", "-infinity")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LONGEST_CELL = 131_072  # characters
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
_LARGEST = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial of the table. `value` is None where it is missing; `why` says what stood there."""

    arm: str
    seed: int | str | None
    value: float | None
    why: str | None
    line: int
    step: float | None = None
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """The trials of a file, one for each arm and seed, and the points on the way where it has steps: (arm, seed) -> [(step, value)]."""

    metric: str
    rows: list[Row]
    points: dict[tuple[str, int | str | None], list[tuple[float, float]]]
    history: bool  # whether a value is the last of several


def read_table(path: Path, metric: str | None, *, by_order: bool = False) -> Table:
    """The trials of a CSV file. Raises DataError for a malformed line, ConfigError where columns or the metric don't fit.

    `by_order`: a seed column isn't needed; rows of an arm are numbered as they come.
    """
    header, records = _records(path)
    chart = chart_columns(header)
    if chart is not None:
        return _chart(path, header, records, chart, metric)
    columns = _columns(path, header, by_order)
    numbers = [name for name in header if name and name not in columns.values() and any(_parses(r[name]) for _, r in records)]
    metric = _choose(path, metric, numbers, header)
    rows = []
    for line, record in records:
        arm, seed = _who(path, line, record, columns)
        value, why = _cell(path, line, metric, record[metric])
        state = record[columns["state"]].strip() if "state" in columns else ""
        if state.lower() not in _FINISHED:
            value, why = None, f"{columns['state']} is {state}"
        step = _cell(path, line, columns["step"], record[columns["step"]])[0] if "step" in columns else None
        others = {name: number for name in numbers if name != metric and (number := _parse(record[name])) is not None}
        rows.append(Row(arm=arm, seed=seed, value=value, why=why, line=line, step=step, others=others))
    return _last(path, metric, rows, by_order and "seed" not in columns)


# -- columns ------------------------------------------------------------------------------------------------------------


def _columns(path: Path, header: list[str], by_order: bool) -> dict[str, str]:
    """Which column is what: arm (or name), seed, step, state."""
    lower = {name.lower(): name for name in header}

    def find(names: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    found = {"arm": find(_ARM), "seed": find(_SEED), "step": find(_STEP), "state": find(_STATE), "name": find(_NAME)}
    if found["arm"]:
        found["name"] = None  # then it is only a word
    missing = [what for what in ("arm", "seed") if not found[what] and not found["name"]]
    if by_order:
        missing = [what for what in missing if what != "seed"]
    if missing:
        raise ConfigError(
            f"{path}: no column {' and '.join(missing)} (there are {', '.join(name for name in header if name)})",
            fix="the columns are arm,seed,METRIC...",
        )
    return {what: name for what, name in found.items() if name}


def _choose(path: Path, metric: str | None, numbers: list[str], header: list[str]) -> str:
    """The column that decides. Raises ConfigError where that isn't clear."""
    if metric is not None:
        if metric not in header:
            raise ConfigError(f"{path}: no column {metric!r}; {nearest(metric, numbers)}")
        return metric
    if not numbers:
        raise ConfigError(f"{path}: no column holds numbers", fix="the columns are arm,seed,METRIC...")
    if len(numbers) > 1:
        fix = f"--metric {numbers[0]} says which one decides"
        raise ConfigError(f"{path}: {len(numbers)} columns hold numbers: {', '.join(numbers)}", fix=fix)
    return numbers[0]


def _who(path: Path, line: int, record: dict[str, str], columns: dict[str, str]) -> tuple[str, int | str | None]:
    """The arm and the seed of a row; a run's name holds both where the table has no column for them."""
    word = record[columns["arm" if "arm" in columns else "name"]].strip()
    named: int | None = None
    if "arm" not in columns:
        word, named = split_name(word)
    if not word:
        raise DataError(f"{path}, line {line}: no arm", fix="every row names its arm")
    if "seed" not in columns:
        return word, named
    seed = record[columns["seed"]].strip()
    if not seed:
        raise DataError(f"{path}, line {line}: no seed", fix="every row names its seed, a failed trial's too")
    whole = re.fullmatch(r"(\d+)(\.0+)?", seed)  # tables with gaps write whole numbers as 1.0
    return word, int(whole.group(1)) if whole else seed


# -- rows ---------------------------------------------------------------------------------------------------------------


def _last(path: Path, metric: str, rows: list[Row], number: bool) -> Table:
    """One row for each arm and seed: the last step where there are steps, else a second one is an error."""
    if number and not any(row.step is not None for row in rows):
        count: dict[str, int] = {}
        for place, row in enumerate(rows):
            count[row.arm] = count.get(row.arm, 0) + 1
            rows[place] = Row(**{**row.__dict__, "seed": row.seed if row.seed is not None else count[row.arm]})
    groups: dict[tuple[str, int | str | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.seed), []).append(row)
    kept, points = [], {}
    for (arm, seed), group in groups.items():
        by_step: dict[float | None, Row] = {}
        for row in group:
            if row.step in by_step:
                at = f" at step {row.step:g}" if row.step is not None else ""
                lines = f"line {by_step[row.step].line} and on line {row.line}"
                raise DataError(f"{path}: arm {arm}, seed {seed}{at} is on {lines}", fix="keep one")
            by_step[row.step] = row
        if len(group) > 1 and None in by_step:
            raise DataError(f"{path}, line {by_step[None].line}: no step, and arm {arm}, seed {seed} has several rows", fix="give its step")
        kept.append(max(group, key=lambda row: row.step if row.step is not None else 0.0))
        points[arm, seed] = sorted((row.step, row.value) for row in group if row.step is not None and row.value is not None)
    return Table(metric=metric, rows=kept, points=points, history=any(len(group) > 1 for group in groups.values()))


def _chart(
    path: Path, header: list[str], records: list[tuple[int, dict[str, str]]], chart: dict[str, tuple[str, str]], metric: str | None
) -> Table:
    """A W&B chart: a column for each run, a row for each step. A run's value is the last one in its column."""
    metrics = sorted({found for _, found in chart.values()})
    if metric is None and len(metrics) > 1:
        raise ConfigError(f"{path}: {len(metrics)} metrics: {', '.join(metrics)}", fix=f"--metric {metrics[0]} says which one decides")
    metric = metric or metrics[0]
    if metric not in metrics:
        raise ConfigError(f"{path}: no metric {metric!r}; {nearest(metric, metrics)}")
    axis = next((name for name in header if name and name.lower() in _STEP), None)
    rows: list[Row] = []
    points: dict[tuple[str, int | str | None], list[tuple[float, float]]] = {}
    for column, (run, name) in chart.items():
        if name != metric:
            continue
        arm, seed = split_name(run)
        logged = []
        for line, record in records:
            if not record[column].strip():
                continue  # other runs logged here
            value, why = _cell(path, line, column, record[column])
            step = _cell(path, line, axis, record[axis])[0] if axis else float(line)
            logged.append(Row(arm=arm or run, seed=seed, value=value, why=why, line=line, step=step))
        if any(row.arm == (arm or run) and row.seed == seed and seed is not None for row in rows):
            raise DataError(f"{path}: two columns are {metric} of arm {arm}, seed {seed}", fix="keep one")
        last = max(logged, key=lambda row: row.step or 0.0) if logged else None
        rows.append(last or Row(arm=arm or run, seed=seed, value=None, why=f"its column has no {metric}", line=1))
        points[arm or run, seed] = [(row.step, row.value) for row in logged if row.step is not None and row.value is not None]
    return Table(metric=metric, rows=rows, points=points, history=True)


# -- cells --------------------------------------------------------------------------------------------------------------


def _parse(text: str) -> float | None:
    text = text.strip()
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return float(text.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(text) else None


def _parses(text: str) -> bool:
    return _parse(text) is not None


def _cell(path: Path, line: int, column: str, text: str) -> tuple[float | None, str | None]:
    """(number, None), or (None, what stood there) for a missing one. Raises DataError for anything else."""
    number = _parse(text)
    if number is not None:
        return number, None
    if text.strip().lower() in _MISSING:
        return None, f"{column} is {text.strip() or 'empty'}"
    raise DataError(f"{path}, line {line}: {column} is {text.strip()[:40]!r}, which is no number", fix="write it as 1.5, or leave it empty")


def _records(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """(header, [(line, {column: cell})]); blank lines are passed over. Raises DataError with the line."""
    text = _text(path)
    delimiter = _delimiter(text)
    csv.field_size_limit(_LONGEST_CELL)  # one limit for the whole process, which readers of corpora raise
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    header: list[str] = []
    found: list[tuple[int, dict[str, str]]] = []
    line = 1
    try:
        for row in reader:
            at, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                twice = next((name for name in header if name and header.count(name) > 1), None)
                if twice:
                    raise DataError(f"{path}, line {at}: the column {twice!r} is there twice")
                continue
            if len(row) != len(header):
                fields = f"{len(row)} field{'s' if len(row) != 1 else ''}"
                raise DataError(
                    f"{path}, line {at}: {fields}, and the header has {len(header)}", fix="quote a cell that holds the separator"
                )
            if delimiter == "," and (cell := next((c for c in row if _DECIMAL_COMMA.fullmatch(c.strip())), None)):
                raise DataError(f"{path}, line {at}: {cell.strip()!r} is unclear where commas separate cells", fix="write it with a point")
            found.append((at, dict(zip(header, row, strict=True))))
    except csv.Error as error:
        if "field limit" in str(error):
            what = f"a cell is longer than {_LONGEST_CELL:,} characters, the longest allowed"
            raise DataError(f"{path}, line {line}: {what}", fix="shorten it, or close the quote that it begins with") from None
        raise DataError(f"{path}, line {line}: {error}", fix="a quoted cell may not be closed") from None
    if not header or not found:
        raise DataError(f"{path}: {'only a header' if header else 'empty'}", fix="the columns are arm,seed,METRIC...")
    return header, found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes is too large for a table of results", fix="the limit is 200 MB")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    encoding = "utf-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})", fix="save it as UTF-8") from None


def _delimiter(text: str) -> str:
    """The separator under which the first line has columns that we know, else the most columns."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def known(delimiter: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            return (0, 0)
        return sum(cell.strip().lower() in (*_ARM, *_SEED, *_NAME, *_STEP) for cell in cells), len(cells)

    return max(",;\t|", key=known)
