"""Sets of the Hugging Face hub, streamed through `datasets`: a file of the set is a unit of work.

`hub:OWNER/NAME[:CONFIG][@SPLIT]`, or the path of a folder laid out as the hub does in place of OWNER/NAME.
No program of a set is ever run: only data files are read. HF_TOKEN is read by the library, and never shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from phiforge.core.config import nearest
from phiforge.core.errors import DataError
from phiforge.data.document import Document
from phiforge.data.folders import extension
from phiforge.data.formats.compressed import Damaged
from phiforge.data.formats.optional import need
from phiforge.data.formats.records import BadRecord, no_column, text_column, value_of
from phiforge.data.retry import TRIES, explained, patiently, pause, transient
from phiforge.data.unit import Intake, Unit

PREFIX = "hub:"
_NAME = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?::(?P<config>[^@\s]+))?(?:@(?P<split>[\w.-]+))?")
_LOCAL = re.compile(r"(?P<id>.+?)(?::(?P<config>[^@:/]+))?(?:@(?P<split>[\w.-]+))?")
_ROWS = 32  # read at once from a parquet file: a book may be a megabyte
_MODULES = {  # by extension, as datasets itself takes one format for a whole set
    **{".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".txt": "text", ".text": "text", ".md": "text"},
    **{".jsonl": "json", ".ndjson": "json", ".json": "json"},
}
_SCALARS = ("sep", "delimiter", "field", "encoding", "header", "quoting")  # what a README may set for its files


@dataclass(frozen=True)
class HubSet:
    """A set of the hub: id or local folder, config and split where given."""

    id: str
    config: str | None = None
    split: str | None = None

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine."""
        return not _NAME.fullmatch(self.id) or Path(self.id).is_dir()

    @property
    def name(self) -> str:
        """As a person would write it."""
        return f"{PREFIX}{self.id}{f':{self.config}' if self.config else ''}{f'@{self.split}' if self.split else ''}"


def parse(source: str) -> HubSet:
    """What `hub:...` names. Raises DataError."""
    rest = source.removeprefix(PREFIX)
    if os.path.isdir(rest):  # noqa: PTH112 - Path's raises on what is too long for a name
        return HubSet(rest)
    found = _NAME.fullmatch(rest)
    if found is None and rest.startswith(("/", ".", "~")):
        found = _LOCAL.fullmatch(rest)
        if found and not Path(found["id"]).expanduser().is_dir():
            raise DataError(f"{source}: no such folder", fix="check the path")
    if found is None:
        raise DataError(f"{source}: not a set of the hub", fix="hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME:CONFIG@SPLIT")
    return HubSet(str(Path(found["id"]).expanduser()) if found["id"].startswith("~") else found["id"], found["config"], found["split"])


def library() -> Any:
    """The `datasets` library, silent."""
    datasets = need("datasets", "reading from the hub")
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # we say what is wrong, once
    need("huggingface_hub", "reading from the hub").utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    return datasets


def units(wanted: HubSet, source: str, *, max_documents: int | None, max_bytes: int | None) -> list[Unit]:
    """A unit for each data file of the set's split, by name. Raises DataError."""
    try:
        revision, sizes = (None, {}) if wanted.local else _listed(wanted)
        load = library().load_dataset_builder
        builder = patiently(lambda: load(wanted.id, name=wanted.config, revision=revision), wanted.name)
    except DataError:
        raise
    except Exception as error:
        raise _no_such_config(wanted, error) or explained(error, wanted.name) from None
    files = builder.config.data_files or {}
    split = _split(wanted, [str(name) for name in files])
    named = HubSet(wanted.id, wanted.config, split)
    made = []
    for path in sorted(files[split]):
        below = _below(path, wanted)
        unit = Unit(
            source=source,
            key=f"{named.name}/{below}",
            kind="hub",
            path=path,
            label=f"{named.name}/{below}" if not wanted.local else f"{Path(wanted.id).resolve().name}/{below}",
            size=sizes.get(below) or (Path(path).stat().st_size if wanted.local else 0),
            group=source,
            max_documents=max_documents,
            max_bytes=max_bytes,
            options=_settings(path, builder),
        )
        made.append(unit)
    return made


def _settings(path: str, builder: Any) -> tuple[tuple[str, str], ...]:
    """Which reader of `datasets` a file needs, and what the set's README says about its form."""
    own = type(builder).__module__.split(".")[-1]
    module = _MODULES.get(extension(PurePosixPath(path)), own)
    set_up = [(name, value) for name in _SCALARS if isinstance(value := getattr(builder.config, name, None), str)] if module == own else []
    if module == "csv" and extension(PurePosixPath(path)) == ".tsv":
        set_up = [("sep", "\t")]
    return (("module", module), *set_up)


def _listed(wanted: HubSet) -> tuple[str, dict[str, int]]:
    """The set's present revision, so that a resumed run reads the same files, and their sizes."""
    hub = need("huggingface_hub", "reading from the hub")
    about = patiently(lambda: hub.HfApi().dataset_info(wanted.id, files_metadata=True, timeout=30), wanted.name, at_once=True)
    return str(about.sha), {file.rfilename: file.size or 0 for file in about.siblings or []}


def _below(path: str, wanted: HubSet) -> str:
    """A file's path within the set."""
    if wanted.local:
        return Path(path).relative_to(Path(wanted.id).resolve()).as_posix() if Path(path).is_absolute() else path
    return path.partition("@")[2].partition("/")[2] or path


def _split(wanted: HubSet, names: list[str]) -> str:
    """The split that is asked for, else train, else the only one."""
    if wanted.split:
        if wanted.split in names:
            return wanted.split
        raise DataError(f"{wanted.name}: no split {wanted.split!r}", fix=f"it has {', '.join(names[:30])}")
    if "train" in names or len(names) == 1:
        return "train" if "train" in names else names[0]
    if not names:
        raise DataError(
            f"{wanted.name}: no data files that phiforge can read", fix="look at its page; text comes as parquet, .jsonl, .csv, .txt"
        )
    raise DataError(f"{wanted.name}: which split?", fix=f"{wanted.name}@SPLIT, one of {', '.join(names[:30])}")


def _no_such_config(wanted: HubSet, error: Exception) -> DataError | None:
    """An unknown or missing config, in our words; None: something else."""
    found = re.search(r"(?:Available|available configs)[^\[]*\[([^\]]*)", str(error))
    if found is None:
        return None
    names = re.findall(r"'([^']+)'", found[1])
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    if wanted.config:
        return DataError(f"{wanted.name}: no config {wanted.config!r} ({nearest(wanted.config, names)})", fix=f"it has {listed}")
    return DataError(f"{wanted.name}: which config?", fix=f"{wanted.name}:CONFIG, one of {listed}")


def read_hub(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of one file of a set, one a row. Raises DataError: the hub can't be reached any more; Damaged: a broken file."""
    for number, (names, value) in enumerate(_rows(unit, intake)):
        source = f"{unit.label}:{number}"
        try:
            found = value_of(value, names, source, intake)
        except BadRecord as bad:
            bad.tell(unit, intake, f", row {number:,}", source)
            continue
        if found is not None:
            yield found


def _rows(unit: Unit, intake: Intake) -> Iterator[tuple[list[str], Any]]:
    """(columns, the text's cell) of each row; after a broken connection it goes on at the row it had reached."""
    done = tried = 0
    while True:
        try:
            for number, row in enumerate(_open(unit, intake)):
                if number >= done:
                    done, tried = number + 1, 0
                    yield row
            return
        except (DataError, BadRecord):
            raise
        except Exception as error:
            if not transient(error):
                raise _broken(unit, error, done) from None
            if tried == TRIES - 1:
                raise explained(error, unit.label) from None
            pause(error, tried, unit.label)
            tried += 1


def _open(unit: Unit, intake: Intake) -> Iterator[tuple[list[str], Any]]:
    datasets = library()
    module, settings = unit.option("module") or "", {name: value for name, value in unit.options if name in _SCALARS}
    if module == "text":
        settings["sample_by"] = "document"
    rows = datasets.load_dataset(module, data_files={"train": [unit.path]}, split="train", streaming=True, **settings)
    names = list(rows.features or next(iter(rows.take(1)), {}))
    column = text_column(names, intake)
    if column is None:
        if not names:
            return
        bad = no_column(names, intake)
        raise DataError(f"{unit.label}: {bad.what}", fix=bad.fix)
    if module == "parquet":  # only the text's column travels
        rows = datasets.load_dataset(
            module, data_files={"train": [unit.path]}, split="train", streaming=True, columns=[column], batch_size=_ROWS
        )
    else:
        rows = rows.select_columns([column])
    for row in rows:
        yield names, row[column]


def _broken(unit: Unit, error: Exception, done: int) -> DataError:
    """What can't be mended by waiting: a file that is no sound data file, or one that may not be read."""
    if type(error).__module__.split(".")[0] == "pyarrow" or isinstance(error, ValueError | EOFError | UnicodeError):
        what = f"{unit.label}: not a sound {unit.option('module')} file after row {done:,} ({' '.join(str(error).split())[:120]})"
        return Damaged(what, reason=f"corrupt {unit.option('module')} file", fix="fetch it again")
    return explained(error, unit.label)
