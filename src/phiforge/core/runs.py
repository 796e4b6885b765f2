"""The run folder: what a stage writes, and the only thing that stages share.

`Run` reads one, `RunWriter` writes one. Layout (docs/tour.md): run.json, config.yaml, metrics.jsonl, log.txt,
checkpoints/, model/, report.html. Everything is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phiforge.core import atomic, console
from phiforge.core.config import Config, digest, identity, to_data, to_yaml
from phiforge.core.errors import RunError
from phiforge.core.gates import GateReport
from phiforge.core.lock import is_live

SCHEMA_VERSION = 1
MANIFEST, CONFIG, METRICS, LOG = "run.json", "config.yaml", "metrics.jsonl", "log.txt"
# Of a run's own files these are not artefacts: they describe the run, or change after it.
_NOT_ARTEFACTS = {MANIFEST, CONFIG, METRICS, LOG, ".lock", "report.html"}
Status = Literal["running", "complete", "failed", "interrupted"]
T = TypeVar("T")


class Artefact(BaseModel):
    """A file that the run made."""

    sha256: str
    bytes: int


class Parent(BaseModel):
    """A run that this one was made from."""

    id: str
    path: str
    stage: str
    fingerprint: str = Field(description="digest of the parent's artefacts: equal content, equal fingerprint")


class Manifest(BaseModel):
    """run.json."""

    model_config = ConfigDict(extra="allow")  # a newer phiforge may have written more; what we know must still fit

    schema_version: int = SCHEMA_VERSION
    id: str
    stage: str
    status: Status
    config_hash: str
    seed: int | None = None
    command: list[str] = []
    parents: dict[str, Parent] = {}
    inputs: dict[str, str] = {}
    started: str
    ended: str | None = None
    seconds: float | None = None
    hardware: dict[str, Any] = {}
    versions: dict[str, str] = {}
    git_commit: str | None = None
    decisions: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    gates: list[GateReport] = []
    metrics: dict[str, Any] = {}
    artefacts: dict[str, Artefact] = {}
    error: str | None = None
    launch: str | None = None


class Run:
    """A run folder, for reading."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Read `path`/run.json. Raises RunError when it is missing, damaged or of a newer schema."""
        path = Path(path)
        try:
            data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            version = data.get("schema_version", 0) if isinstance(data, dict) else 0
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise RunError(
                    f"{path}: written by a newer phiforge (run schema {version}, this one reads {SCHEMA_VERSION})", fix="upgrade phiforge"
                )
            return cls(path, Manifest.model_validate(data))
        except FileNotFoundError:
            what = "is not a run folder (no run.json)" if path.exists() else "does not exist"
            raise RunError(f"{path}: {what}", fix="`phiforge runs list` shows the runs there are") from None
        except NotADirectoryError:
            what = "is a file, not the folder of a run" if path.is_file() else "does not exist"
            raise RunError(f"{path}: {what}", fix="`phiforge runs list` shows the runs there are") from None
        except (ValueError, ValidationError, RecursionError) as error:
            raise RunError(f"{path}/{MANIFEST}: damaged: {str(error).splitlines()[0]}", fix="`phiforge runs rm` removes the run") from None

    @staticmethod
    def is_run(path: Path | str) -> bool:
        """Whether `path` holds a run.json."""
        return os.path.isfile(Path(path) / MANIFEST)  # noqa: PTH113 - Path's raises on what is too long for a name

    @classmethod
    def borrow(cls, folder: Path | str) -> Run:
        """A model folder in Hugging Face's layout (config.json beside safetensors) as a complete run, so that stages can take it."""
        folder = Path(folder)
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
        manifest = Manifest(id=f"borrowed-{folder.name}", stage="borrowed", status="complete", config_hash="", started="")
        manifest.artefacts = {file.name: Artefact(sha256=atomic.sha256_file(file), bytes=file.stat().st_size) for file in files}
        return cls(folder, manifest)

    @staticmethod
    def is_model_folder(path: Path | str) -> bool:
        """Whether `path` is a model in Hugging Face's layout."""
        config = Path(path) / "config.json"
        return os.path.isfile(config) and any(Path(path).glob("*.safetensors"))  # noqa: PTH113 - as above

    @staticmethod
    def is_tokenizer_folder(path: Path | str) -> bool:
        """Whether `path` holds a tokenizer in Hugging Face's layout."""
        return os.path.isfile(Path(path) / "tokenizer.json")  # noqa: PTH113 - as above

    @classmethod
    def can_be(cls, role: str, path: Path | str) -> bool:
        """Whether `path` can stand for a parent: a run, or for a `model` a model folder, for a `tokenizer` a tokenizer's folder too."""
        folders = {"model": cls.is_model_folder, "tokenizer": cls.is_tokenizer_folder}
        return cls.is_run(path) or (role in folders and folders[role](path))

    @classmethod
    def inside(cls, folder: Path | str, *, with_model: bool) -> list[str]:
        """The runs one level down, where a person named the folder that holds them; `with_model`: those that trained or exported one."""
        if not os.path.isdir(folder):  # noqa: PTH112 - Path's raises on what is too long for a name
            return []
        found = [item for item in sorted(Path(folder).iterdir()) if cls.is_run(item)]
        kept = [item for item in found if not with_model or (item / "model").is_dir() or any(item.glob("*.gguf"))]
        return [str(item) for item in kept]

    @property
    def id(self) -> str:
        """The run's own name, unlike any other."""
        return self.manifest.id

    @property
    def status(self) -> str:
        """As run.json says, but `interrupted` where it says `running` and no process holds the folder."""
        if self.manifest.status == "running" and not is_live(self.path):
            return "interrupted"
        return self.manifest.status

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config as plain data; empty for a borrowed model."""
        if self.manifest.stage == "borrowed":
            return {}
        data = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}

    @property
    def model_dir(self) -> Path:
        """Where the model lies."""
        if self.manifest.stage == "borrowed":
            return self.path
        return self.path / "model"

    @property
    def fingerprint(self) -> str:
        """Digest of stage and artefacts: the same content made twice has the same fingerprint."""
        content = {name: artefact.sha256 for name, artefact in self.manifest.artefacts.items()}
        return digest({"stage": self.manifest.stage, "config": self.manifest.config_hash, "artefacts": content})

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in order; a torn last line is left out."""
        return list(read_jsonl(self.path / METRICS))

    def as_parent(self) -> Parent:
        """This run as another one's manifest names it."""
        return Parent(id=self.id, path=str(self.path.absolute()), stage=self.manifest.stage, fingerprint=self.fingerprint)


def read_jsonl(path: Path) -> Iterable[dict[str, Any]]:
    """Objects of a .jsonl file of ours; stops at a line that a killed process left torn."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                return


def find_runs(root: Path) -> list[Run]:
    """Every readable run at or below `root` (five levels), in order of path. Damaged ones are named and left out."""
    found = []
    pattern = [MANIFEST, *("/".join(["*"] * depth + [MANIFEST]) for depth in range(1, 6))]
    for folder in sorted(path.parent for piece in pattern for path in root.glob(piece)):
        try:
            found.append(Run.open(folder))
        except RunError as error:
            console.warn(str(error))
    return found


class RunWriter:
    """A run folder, for the stage that writes it. Made by the runner, which holds the lock and the status."""

    def __init__(self, path: Path, manifest: Manifest, config: Config, *, resuming: bool = False, leader: bool = True) -> None:
        self.path, self.manifest, self.config = path, manifest, config
        self.resuming, self.leader = resuming, leader
        self._began = time.monotonic()
        self._listed: list[str] = []

    # -- what a stage calls ---------------------------------------------------------------------------------

    def log(self, message: str) -> None:
        """A line for log.txt (with the time) and for the terminal."""
        if not self.leader:
            return
        console.say(message)
        self.note(message)

    def note(self, message: str) -> None:
        """A line for log.txt alone."""
        if self.leader:
            stamp = datetime.now(UTC).isoformat(timespec="seconds")
            self._append(LOG, f"{stamp} {' '.join(message.splitlines())}\n")

    def metric(self, values: dict[str, Any]) -> None:
        """Append one object to metrics.jsonl. NaN and infinity become null: they are not JSON."""
        if self.leader:
            clean = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in values.items()}
            self._append(METRICS, json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Drop what was logged after `step`, so that a resumed run writes it once."""
        self.truncate(METRICS, step)

    def truncate(self, name: str, step: int) -> None:
        """Drop the objects of a .jsonl file of this run whose `step` is later than `step`."""
        if self.leader and (self.path / name).is_file():
            kept = [line for line in read_jsonl(self.path / name) if line.get("step", 0) <= step]
            atomic.write_text(self.path / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def decide(self, name: str, compute: Callable[[], T], why: str = "") -> T:
        """A decision that depends on the machine: computed once, recorded before it is used, replayed on resume."""
        if name in self.manifest.decisions:
            return self.manifest.decisions[name]
        if not self.leader:
            return self._await_decision(name)
        value = compute()
        self.manifest.decisions[name] = json.loads(json.dumps(value))
        if why:
            self.manifest.reasons[name] = why
        self.save()
        self.note(f"decided {name} = {value}" + (f" ({why})" if why else ""))
        return self.manifest.decisions[name]

    def gate(self, report: GateReport) -> None:
        """Record what a gate found (an earlier report of the same gate is replaced)."""
        self.manifest.gates = [kept for kept in self.manifest.gates if kept.gate != report.gate] + [report]
        self.save()

    def artefact(self, relative: str | Path, *, sha256: str | None = None) -> None:
        """Name a file of this run as one of its results. A known `sha256` saves reading it again."""
        file = self.path / relative
        self.manifest.artefacts[str(relative)] = Artefact(sha256=sha256 or atomic.sha256_file(file), bytes=file.stat().st_size)

    # -- what the runner calls ------------------------------------------------------------------------------

    def save(self) -> None:
        """Write run.json."""
        if self.leader:
            atomic.write_json(self.path / MANIFEST, self.manifest.model_dump(mode="json"))

    def begin(self) -> None:
        """Write run.json and config.yaml; sweep what a killed process left half-written."""
        if self.leader:
            self.path.mkdir(parents=True, exist_ok=True)
            atomic.clear_partials(self.path)
            atomic.write_text(self.path / CONFIG, to_yaml(self.config))
            self.save()

    def end(self, status: Status, *, metrics: dict[str, Any] | None = None, error: str | None = None) -> Run:
        """Close the run: hash its files when complete, set the status last."""
        if self.leader:
            if status == "complete":
                for file in own_files(self.path):
                    if str(file) not in self.manifest.artefacts:
                        self.artefact(file)
            self.manifest.metrics = metrics or self.manifest.metrics
            self.manifest.error = error
            self.manifest.ended = datetime.now(UTC).isoformat(timespec="seconds")
            self.manifest.seconds = round((self.manifest.seconds or 0) + time.monotonic() - self._began, 3)
            self.manifest.status = status
            self.save()
        return Run(self.path, self.manifest)

    def _append(self, name: str, line: str) -> None:
        with atomic.writing(self.path / name), (self.path / name).open("a", encoding="utf-8") as stream:
            stream.write(line)

    def _await_decision(self, name: str) -> Any:
        """Another process of the same launch decides; wait until run.json says."""
        while True:
            self.manifest = Run.open(self.path).manifest
            if name in self.manifest.decisions:
                return self.manifest.decisions[name]
            time.sleep(0.05)


def own_files(folder: Path) -> list[Path]:
    """Files of a run, relative to it: not its checkpoints, not the runs that lie inside it, not what describes it."""
    files: list[Path] = []
    for item in sorted(folder.iterdir()):
        relative = item.relative_to(folder)
        if item.is_dir() and not item.is_symlink():
            if item.name != "checkpoints" and not Run.is_run(item):
                files += [relative / inner for inner in own_files(item)]
        elif item.is_file() and item.name not in _NOT_ARTEFACTS and not item.name.startswith("."):
            files.append(relative)
    return files


def new_manifest(stage: str, config: Config, *, command: list[str] | None = None) -> Manifest:
    """A manifest for a run that starts now."""
    data = to_data(config)
    seed = data.get("seed")
    return Manifest(
        id=f"{stage.replace(' ', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        stage=stage,
        status="running",
        config_hash=identity(config),
        seed=seed if isinstance(seed, int) else None,
        command=command or [],
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        launch=launch_token(),
    )


def rank() -> int:
    """This process's place in a `torchrun` or `accelerate launch`; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def launch_token() -> str | None:
    """A name that all processes of one launch share; None when there is one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}:{os.getppid()}"
