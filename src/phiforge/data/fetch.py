"""`phiforge data fetch`: the files of a set of the hub in a local folder, so that it can be read on a machine without a connection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phiforge.core import console
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.hardware import preflight_disk
from phiforge.data import catalogue, hub
from phiforge.data.formats.optional import need
from phiforge.data.retry import explained, patiently
from phiforge.data.unit import Unit

_READMES = ("README.md", "dataset_infos.json")


def fetch(name: str, out: Path, *, language: Sequence[str] | None = None, max_files: int | None = None) -> dict[str, Any]:
    """Download the data files of a known corpus or of `hub:...` to `out`; what is there already is not fetched again.

    Says size and licence first. Returns {"files", "bytes", "licence", "path"}. Raises ConfigError, DataError, PreflightError (no room).
    """
    sets, licence = _sets(name, language)
    wanted = [(one, unit) for one in sets for unit in hub.units(one, name, max_documents=None, max_bytes=None)][:max_files]
    size = sum(unit.size for _, unit in wanted)
    licence = licence or _licence(sets[0])
    console.say(f"{name}: {len(wanted):,} files, {size / 1e9:,.2f} GB, licence: {licence}")
    missing = [(one, unit) for one, unit in wanted if not _whole(out / _below(unit), unit.size)]
    preflight_disk(_existing(out), sum(unit.size for _, unit in missing) + 100_000_000)
    with console.progress("fetching", size or None) as bar:
        bar.advance(size - sum(unit.size for _, unit in missing))
        for one, unit in missing:
            _get(one, unit, _below(unit), out)
            bar.advance(unit.size)
    for one in sets:
        _readmes(one, wanted[0][1], out)
    return {"path": str(out), "files": len(wanted), "bytes": size, "licence": licence}


def _sets(name: str, language: Sequence[str] | None) -> tuple[list[hub.HubSet], str]:
    corpus = catalogue.known(name)
    if corpus is None and not name.startswith(hub.PREFIX):
        known = ", ".join(key for key in catalogue.CORPORA if "/" not in key)
        raise ConfigError(f"{name}: no known corpus", fix=f"one of {known}, or hub:OWNER/NAME")
    sets = [hub.parse(source) for source in (corpus.sources(language) if corpus else [name])]
    if any(one.local for one in sets):
        raise ConfigError(f"{name}: is a folder of this machine already", fix=f"phiforge data prepare {name}")
    return sets, corpus.licence if corpus else ""


def _licence(one: hub.HubSet) -> str:
    """As the set's page tags it."""
    library = need("huggingface_hub", "fetching from the hub")
    try:
        tags = patiently(lambda: library.HfApi().dataset_info(one.id).tags, one.name) or []
    except Exception as error:
        raise explained(error, one.name) from None
    return ", ".join(tag.removeprefix("license:") for tag in tags if tag.startswith("license:")) or "not said on its page"


def _below(unit: Unit) -> str:
    """The file's path in the set: hf://datasets/OWNER/NAME@REVISION/PATH."""
    return unit.path.partition("@")[2].partition("/")[2]


def _revision(unit: Unit) -> str:
    return unit.path.partition("@")[2].partition("/")[0]


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and size > 0 and path.stat().st_size == size


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _get(one: hub.HubSet, unit: Unit, below: str, out: Path) -> None:
    """One file; the library goes on with a part of it that is there. Its bytes are checked against the size that the hub tells."""
    library = need("huggingface_hub", "fetching from the hub")

    def call() -> Any:
        return library.hf_hub_download(one.id, below, repo_type="dataset", revision=_revision(unit), local_dir=str(out))

    try:
        patiently(call, f"{one.name}/{below}")
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # the disk's
        raise explained(error, f"{one.name}/{below}") from None
    if unit.size and not _whole(out / below, unit.size):
        raise DataError(f"{out / below}: not the {unit.size:,} bytes that the hub promises", fix="fetch it again")


def _readmes(one: hub.HubSet, unit: Unit, out: Path) -> None:
    """The set's own description, which says how its files belong together."""
    library = need("huggingface_hub", "fetching from the hub")
    for below in _READMES:
        try:
            library.hf_hub_download(one.id, below, repo_type="dataset", revision=_revision(unit), local_dir=str(out))
        except library.errors.EntryNotFoundError:
            continue
        except Exception as error:
            raise explained(error, f"{one.name}/{below}") from None
