"""How the Hugging Face hub lays out a folder: a README with `configs`, or files named train-00000-of-00002.parquet.

Only what the two conventions need is read, so that a downloaded set gives the same documents with and without `datasets`.
Source: https://huggingface.co/docs/hub/datasets-manual-configuration and .../datasets-file-names-and-splits
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_SHARD = re.compile(r"(?:^|/)(?P<split>[A-Za-z0-9_.]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.(?:parquet|jsonl?|csv|tsv|txt|arrow)(?:\.\w+)?$")
_HELD_OUT = ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
_OWN_FILES = ("README.md", "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_README_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """What of a folder is the training split. `patterns` None: not laid out as the hub does."""

    patterns: tuple[str, ...] | None = None
    held_out: bool = False  # leave out files that are named as another split's shards
    on_disk: bool = False  # written by datasets' save_to_disk

    def left_out(self, below: str) -> str | None:
        """Why the file at this path below the folder is not read, or None."""
        if self.patterns is None and not self.held_out and not self.on_disk:
            return None
        name = below.rpartition("/")[2]
        if name in _OWN_FILES:
            return "the hub's own file"
        if self.patterns is not None:
            return None if any(_matches(below, pattern) for pattern in self.patterns) else "another split or config of the set"
        if self.on_disk:
            if name.startswith(("cache-", "indices-")):
                return "a cache of datasets"
            return "another split or config of the set" if self.held_out and below.split("/")[0] in _HELD_OUT else None
        found = _SHARD.search(below)
        return "another split or config of the set" if found and found["split"].split(".")[-1] in _HELD_OUT else None


def layout_of(folder: Path) -> Layout:
    """What the README's front matter or the names of files say."""
    configs = front_matter(folder / "README.md").get("configs")
    if isinstance(configs, list):
        patterns = _training_patterns(configs, folder)
        if patterns:
            return Layout(tuple(patterns))
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return Layout(on_disk=True, held_out=(folder / "train").is_dir())
    shards = [path.name for below in (folder, folder / "data") if below.is_dir() for path in _listed(below)]
    splits = {found["split"] for name in shards if (found := _SHARD.search(name))}
    if "train" in splits or (folder / "dataset_infos.json").is_file():
        return Layout(held_out=True)
    return Layout()


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between two lines of --- at the top of a README; {} where there is none that can be read."""
    try:
        with readme.open("rb") as stream:
            text = stream.read(_README_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return {}
    found = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", text, re.S)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _training_patterns(configs: list[Any], folder: Path) -> list[str]:
    """The files of one config's train split, of all its splits where none is called train.

    The default config, else the first; of a set of which only a part was fetched, the first that has files here.
    """
    known = [config for config in configs if isinstance(config, dict) and config.get("data_files")]
    known.sort(key=lambda config: (config.get("default") is not True, config.get("config_name") != "default"))
    every = [_patterns(config) for config in known]
    return next((patterns for patterns in every if _present(folder, patterns)), every[0] if every else [])


def _patterns(config: dict[str, Any]) -> list[str]:
    files = config["data_files"]
    groups = files if isinstance(files, list) and all(isinstance(group, dict) for group in files) else [{"split": "train", "path": files}]
    training = [group for group in groups if group.get("split") == "train"] or groups
    base = str(config.get("data_dir") or "").strip("/")
    paths = [path for group in training for path in _as_list(group.get("path"))]
    return [f"{base}/{path}" if base else path for path in paths if isinstance(path, str)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _present(folder: Path, patterns: list[str]) -> bool:
    """Whether any file of the folder answers to one of the patterns."""
    for pattern in patterns:
        try:
            if next(folder.glob(pattern.removeprefix("./")), None) is not None:
                return True
        except (OSError, ValueError, NotImplementedError):
            continue
    return False


def _matches(below: str, pattern: str) -> bool:
    """Glob as the hub means it: ** for any folders, * within a name."""
    parts = re.split(r"(\*\*/?|\*|\?|\[[^\]]*\])", pattern.removeprefix("./"))
    regex = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part)
        or (part.replace("[!", "[^", 1) if part.startswith("[") else re.escape(part))
        for part in parts
    )
    return re.fullmatch(regex, below) is not None
