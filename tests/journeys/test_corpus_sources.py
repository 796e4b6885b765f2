"""Corpora as a person asks for them: switches, sets of the hub, what can't be reached, and a download that is gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phiforge.core.errors import ConfigError
from phiforge.data.catalogue import spelled_out
from tests.unit.data.loopback_hub import serving
from tests.unit.data.test_hub import build


def phiforge(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "phiforge.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **environment},
    )


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--gutenberg --language en --max-files 5", "--language en --max-files 5 source=[gutenberg]"),
        ("--all", "source=[gutenberg, wikipedia]"),
        ("--gutenberg --all seed=1", "seed=1 source=[gutenberg, wikipedia]"),
        ("--pile", "source=[pile/pg19, pile/wikipedia, pile/arxiv, pile/stackexchange]"),
        ("hub:a/b@train pg19", "source=[hub:a/b@train, pg19]"),
        ("my-texts seed=1", "my-texts seed=1"),
    ],
)
def test_the_training_plans_switches(words: str, wanted: str) -> None:
    assert " ".join(spelled_out(words.split()) or []) == wanted


@pytest.mark.parametrize("words", ["--all source=x", "--pg19 --source x", "--stats"])
def test_switches_that_contradict(words: str) -> None:
    with pytest.raises(ConfigError):
        spelled_out(words.split())


def test_a_set_of_the_hub_becomes_a_corpus_and_a_folder_of_it_the_same(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = build(tmp_path / "set")
    own = {"HF_HOME": str(tmp_path / "home")}
    with serving(root, busy={"^/api": 1}, cut={"train-00001": 1}) as served:
        own["HF_ENDPOINT"] = served.address
        streamed = phiforge("data", "prepare", "hub:me/books", "--out", tmp_path / "a", **own)
        assert streamed.returncode == 0, streamed.stderr
        fetched = phiforge("data", "fetch", "hub:me/books", "--out", tmp_path / "copy", "--json", **own)
        assert fetched.returncode == 0, fetched.stderr
        again = phiforge("data", "fetch", "hub:me/books", "--out", tmp_path / "copy", **own)
    assert json.loads(fetched.stdout)["files"] == 2 and "licence: cc0-1.0" in fetched.stderr and again.returncode == 0
    assert served.asked.count("GET /datasets/me/books/resolve/main/data/train-00000-of-00002.parquet") == 0
    copied = phiforge("data", "prepare", tmp_path / "copy", "--out", tmp_path / "b")
    assert copied.returncode == 0, copied.stderr
    reports = [json.loads((tmp_path / name / "data.json").read_text()) for name in "ab"]
    assert reports[0]["documents"] == reports[1]["documents"] == 80 and reports[0]["sha256"] == reports[1]["sha256"]


def test_without_a_connection_it_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with serving(tmp_path) as served:
        pass
    said = phiforge("data", "prepare", "--gutenberg", "--max-files", "3", "--out", tmp_path / "a", HF_ENDPOINT=served.address)
    assert said.returncode == 2 and said.stderr.count("\n") == 1
    assert "could not be reached" in said.stderr and "source=FOLDER" in said.stderr
    wrong = phiforge("data", "fetch", "gutenburg", "--out", tmp_path / "b")
    assert wrong.returncode == 2 and "one of gutenberg, wikipedia" in wrong.stderr
