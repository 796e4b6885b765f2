"""Stage "data prepare": texts in, a training and a validation set out, with a report of everything that was left out.

documents/train.jsonl.zst, documents/validation.jsonl.zst    one {"id", "text", "source"} a line
documents/dropped.jsonl.zst                                  with a "reason" (save_dropped=true)
packed/train/, packed/validation/                            the same as tokens (with a tokenizer)
data.json                                                    the report

Workers make parts (data.parts) of pieces of the input; what they left is all that a killed run needs to go on. Then the indexes of
the parts, without any text, say what is too much, a duplicate, held out; and the parts are put together.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiforge.core.atomic import atomic_dir, write_json, writing
from phiforge.core.console import warn
from phiforge.core.errors import DataError, Interrupted, PreflightError
from phiforge.core.hardware import preflight_disk
from phiforge.data import decide, pipeline
from phiforge.data.assemble import Side, join_documents, join_tokens
from phiforge.data.config import PYTHON, DataPrepareConfig
from phiforge.data.cutting import plan_cuts
from phiforge.data.decide import Decided
from phiforge.data.document import DocumentFile
from phiforge.data.pack import cached, pack, save_packed, split_key, write_packed
from phiforge.data.packed import Packed
from phiforge.data.parts import SIDES, Part, token_type
from phiforge.data.routes import Split
from phiforge.data.second import MARK, Cut, Piece, SecondTask, needs_second, pieces
from phiforge.data.sources import nothing_read
from phiforge.data.summary import summary, survey
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.work import tokenizer_of

if TYPE_CHECKING:
    from phiforge.core.runs import Run, RunWriter

_WORTH_KEEPING = 64_000_000  # bytes of text: fewer are read again sooner than a person has typed --resume
_WORTH_PROCESSES = 8_000_000  # bytes, packed, from which a second pass is worth starting processes for
Say = Callable[[str], None]


def read_split(run_dir: Path, split: Split) -> DocumentFile:
    """The documents of one side of a data run: iterate as often as you like, one document in memory at a time."""
    path = Path(run_dir) / "documents" / f"{split}.jsonl.zst"
    if not path.is_file():
        raise DataError(f"{run_dir}: no {split} documents in it", fix="give a run made by `phiforge data prepare`")
    return DocumentFile(path)


def packed_split(run_dir: Path, side: Split, tokenizer: Tokenizer, cache_dir: Path | None = None) -> Packed:
    """One side of a data run as tokens: what lies in the run where it was made with this tokenizer, else packed now, into the cache.

    The cache's key is the sha256 that the run recorded, so no text is read to find what is there. Raises DataError, PreflightError.
    """
    documents = read_split(run_dir, side)
    try:
        report = json.loads((Path(run_dir) / "data.json").read_text(encoding="utf-8"))["split"][side]
        key, size = split_key(report["sha256"], tokenizer), int(report["bytes"])
    except (OSError, ValueError, KeyError, TypeError):  # not a run of ours: its text is its name
        return pack(documents, tokenizer, cache_dir)
    ready = Path(run_dir) / "packed" / side
    if ready.is_dir():
        try:
            found = Packed.open(ready)
            if found.key == key:
                return found
        except DataError as error:
            warn(f"{error.what}; the text is packed again")
    return cached(key, cache_dir, 4 * size, lambda folder: write_packed(folder, documents, tokenizer))


def run(config: DataPrepareConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """The stage. Metrics: documents, bytes, characters (and tokens) of both sides."""
    if config.source == [PYTHON]:
        run.log("reading what comes with Python, as no text is given (data=PATH takes yours)")
    if PYTHON in config.source and Path(PYTHON).exists():
        warn("source=python is the default corpus; for the file or folder of that name write ./python")
    tokenizer = tokenizer_folder(parents["tokenizer"]) if "tokenizer" in parents else None
    work = pipeline.plan_work(config)
    with _parts_folder(run.path, len(work.groups) > 1) as folder:
        report = _prepare(config, work, folder, run.path, tokenizer, run.log)
    write_json(run.path / "data.json", report)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    for line in summary(report):
        run.log(line)
    names = ("documents", "bytes", "characters", *(("tokens",) if tokenizer else ()))
    return {f"{side}_{name}": report["split"][side][name] for side in SIDES for name in names}


def tokenizer_folder(parent: Run) -> Path:
    """Where a tokenizer lies: in a tokenizer run, or the folder itself."""
    inside = parent.path / "tokenizer"
    return inside if inside.is_dir() else parent.path


@contextmanager
def _parts_folder(run_dir: Path, durable: bool) -> Iterator[Path]:
    """Where parts lie. Durable: as a checkpoint of the run, which stays when something goes wrong and enough is done to be worth it."""
    folder = run_dir / "checkpoints" / "checkpoint-parts" if durable else run_dir / ".partial-parts"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for half_made in (*folder.glob(".*"), *folder.glob(f"*{MARK}.*")):
        half_made.unlink()
    try:
        yield folder
    except (KeyboardInterrupt, Interrupted, PreflightError):
        raise
    except BaseException:
        if durable and _text_in(folder) < _WORTH_KEEPING:
            shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        raise
    finally:
        if not durable:
            shutil.rmtree(folder, ignore_errors=True)


def _text_in(folder: Path) -> int:
    found = [Part.find(folder, path.stem) for path in folder.glob("*.json")]
    return sum(unit["bytes"] for part in found if part for unit in part.facts["units"])


def _prepare(config: DataPrepareConfig, work: pipeline.Work, folder: Path, out: Path, tokenizer: Path | None, say: Say) -> dict[str, Any]:
    """Everything but the report's file. Raises DataError, PreflightError."""
    preflight_disk(out, work.size * (2 if tokenizer is None else 4))  # parts and result, each about half of plain text
    jobs = pipeline.jobs_of(config, len(work.groups), work.size)
    parts = pipeline.make_parts(work, config, folder, tokenizer, jobs, say)
    decided = _decide(config, work, parts, folder)
    found = survey(config, decided)
    _enough(config, found["bytes"])
    cuts, how = _sides(config, decided, say)
    every = _second_pass(config, decided, cuts, tokenizer, folder, jobs, say)
    sides = _join(config, decided, every, out, tokenizer)
    digest = hashlib.sha256((sides["train"]["sha256"] + sides["validation"]["sha256"]).encode()).hexdigest()
    asked = {"asked_fraction": config.validation_fraction, "seed": config.seed}
    report = {"version": 2, "sha256": digest, **found, "split": {**how, **asked, **_shares(sides)}}
    if tokenizer is not None:
        report["tokenizer"] = tokenizer_of(str(tokenizer)).fingerprint
    return report


def _decide(config: DataPrepareConfig, work: pipeline.Work, parts: list[Part], folder: Path) -> Decided:
    decided = decide.admit(parts)
    met = work.intake
    met.merge(decided.intake)
    decided.intake = met
    for source in config.source:
        if not decided.read[source]:
            raise nothing_read(source, met)
    if config.deduplicate:
        decide.drop_duplicates(decided)
    if config.near_duplicates:
        decide.drop_near_duplicates(decided, config.near_duplicate_threshold, folder)
    return decided


def _enough(config: DataPrepareConfig, size: int) -> None:
    if size < config.min_bytes:
        raise DataError(
            f"{', '.join(config.source)}: too little text: {size:,} bytes, {config.min_bytes:,} are needed",
            fix="add text (100 kB is a start, 1 MB and more is better)",
        )


def _sides(config: DataPrepareConfig, decided: Decided, say: Say) -> tuple[list[Cut] | None, dict[str, Any]]:
    """How documents go to the two sides: how each part's are cut (None: whole), and what the report says about it."""
    if config.split == "document" and decide.hold_out_documents(decided, config):
        return None, {"method": "document", "why": "whole documents are held out"}
    return plan_cuts(config, decided, say)


def _second_pass(
    config: DataPrepareConfig, decided: Decided, cuts: list[Cut] | None, tokenizer: Path | None, folder: Path, jobs: int, say: Say
) -> list[dict[str, Piece]]:
    """What each part gives to each side, after its second pass where it needs one."""
    tasks: list[SecondTask] = []
    anew: list[bool] = []
    for number, (part, state) in enumerate(zip(decided.parts, decided.state, strict=True)):
        anew.append(cuts is not None or needs_second(part, state))
        if anew[-1]:
            cut = cuts[number] if cuts is not None else None
            place = (str(folder), part.key, state.tobytes(), config.model_dump_json())
            tasks.append(SecondTask(*place, str(tokenizer) if tokenizer else None, cut))
    size = sum(int(part.facts["files"][f".{name}.zst"]) for part in decided.parts for name in SIDES)
    pipeline.again(tasks, min(jobs, max(1, len(tasks))) if size > _WORTH_PROCESSES else 1, say)
    return [
        pieces(part, state, second=second, cut=cuts is not None, tokens=tokenizer is not None)
        for part, state, second in zip(decided.parts, decided.state, anew, strict=True)
    ]


def _join(
    config: DataPrepareConfig, decided: Decided, every: list[dict[str, Piece]], out: Path, tokenizer: Path | None
) -> dict[str, dict[str, Any]]:
    """Write the result; what the report says of both sides."""
    sides = {name: Side() for name in SIDES}
    for name, piece in itertools.chain.from_iterable(found.items() for found in every):
        sides[name].add(piece)
    if not sides["train"].documents or not sides["validation"].documents:
        raise DataError("one side of the split came out empty", fix="add text, or choose another validation_fraction")
    given = [path for found in every for piece in found.values() for path in (piece.documents, piece.tokens) if path]
    preflight_disk(out, sum(path.stat().st_size for path in given))
    with atomic_dir(out / "documents") as folder:
        for name in SIDES:
            join_documents(folder / f"{name}.jsonl.zst", (found[name].documents for found in every))
        if config.save_dropped:
            join_documents(folder / "dropped.jsonl.zst", (_dropped_of(part) for part in decided.parts))
    known = tokenizer_of(str(tokenizer)) if tokenizer else None
    reports: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        first = itertools.islice(DocumentFile(out / "documents" / f"{name}.jsonl.zst"), 20)
        reports[name] = side.report([document.source for document in first])
        if known is not None:
            dtype, mine = token_type(known.vocab_size), [found[name] for found in every]
            key = split_key(reports[name]["sha256"], known)
            save_packed(out / "packed" / name, key, functools.partial(join_tokens, pieces=mine, dtype=dtype))
            reports[name]["tokens"] = side.tokens
    return reports


def _dropped_of(part: Part) -> Path:
    second = part.path(f"{MARK}.dropped.zst")
    return second if second.is_file() else part.path(".dropped.zst")


def _shares(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    whole = sum(side["characters"] for side in sides.values())
    return {"got_fraction": round(sides["validation"]["characters"] / whole, 6), **sides}
