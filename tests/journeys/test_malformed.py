"""Malformed configs, command lines, data sets and run folders: each is one line, exit code 2, and nothing on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol, get_args

import pytest

from phiforge.cli import main
from phiforge.core.errors import RunError
from phiforge.core.runs import Run
from phiforge.core.stages import Body, Stage
from phiforge.optim.build import ALIASES, OPTIMIZERS
from phiforge.train.config import Optimizer
from tests.journeys import malformed_cases as cases
from tests.unit.train.chat_parts import ours, save_model


class Refused(Protocol):
    """Runs a verb that must refuse; gives its one line."""

    def __call__(self, words: list[str], code: int = 2) -> str: ...


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a verb in an empty folder and returns its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(words: list[str], code: int = 2) -> str:
        got = main._guarded(words)
        said = capsys.readouterr()
        assert got == code, f"exit code {got}: {said.err}"
        assert said.out == ""
        lines = said.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), said.err
        return lines[0]

    return run


def _no_body(stage: Stage) -> Body:
    raise AssertionError(f"{stage.name} began before everything was checked")


@pytest.fixture
def unbegun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong must be found before any stage begins."""
    monkeypatch.setattr(Stage, "load", _no_body)


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in Hugging Face's layout."""
    return save_model(tmp_path_factory.mktemp("pico") / "model", ours()).path


@pytest.fixture(scope="module")
def data_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished data run."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "words.txt").write_text(cases.LONG)
    assert main._guarded(["data", "prepare", f"source={folder / 'words.txt'}", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.usefixtures("unbegun")
@pytest.mark.parametrize("case", cases.RECIPES)
def test_recipe_files(case: str, refused: Refused, tmp_path: Path) -> None:
    written, expected = cases.RECIPES[case]
    (tmp_path / "bad.yaml").write_bytes(written.encode() if isinstance(written, str) else written)
    assert expected in refused(["run", "bad.yaml"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "bad.yaml"]


@pytest.mark.usefixtures("unbegun")
@pytest.mark.parametrize("case", cases.CONFIGS)
def test_config_files(case: str, refused: Refused, tmp_path: Path) -> None:
    written, expected = cases.CONFIGS[case]
    (tmp_path / "bad.yaml").write_bytes(written.encode() if isinstance(written, str) else written)
    assert expected in refused(["pretrain", "bad.yaml"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "bad.yaml"]


@pytest.mark.usefixtures("unbegun")
@pytest.mark.parametrize("case", cases.WORDS)
def test_command_lines(case: str, refused: Refused, tmp_path: Path, pico: Path) -> None:
    line, expected = cases.WORDS[case]
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "words.txt").write_text("no model")
    assert expected in refused([str(pico) if word == "PICO" else word.replace("PICO", str(pico)) for word in line.split(" ")])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "folder.yaml", tmp_path / "words.txt"]


@pytest.mark.parametrize("case", cases.TEXTS)
def test_texts(case: str, refused: Refused, tmp_path: Path) -> None:
    make, expected = cases.TEXTS[case]
    line = refused(["data", "prepare", f"source={make(tmp_path)}", "--out", "made"])
    assert expected in line
    assert not (tmp_path / "made" / "documents").exists() and not (tmp_path / "made" / "data.json").exists()


@pytest.mark.parametrize("case", cases.CHATS)
def test_conversations(case: str, refused: Refused, tmp_path: Path, pico: Path) -> None:
    make, expected = cases.CHATS[case]
    assert expected in refused(["finetune", f"model={pico}", f"data={make(tmp_path)}", "--out", "made"])
    assert not (tmp_path / "made" / "model").exists()


@pytest.mark.usefixtures("unbegun")
@pytest.mark.parametrize("case", [*cases.RUNS, *cases.UNFIT])
def test_runs_given_as_parents(case: str, refused: Refused, tmp_path: Path, data_run: Path) -> None:
    make, expected = {**cases.RUNS, **cases.UNFIT}[case]
    given = make(data_run, tmp_path)
    before = sorted(tmp_path.iterdir())
    assert expected in refused(["tokenizer", "train", f"data={given}"])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("unbegun")
@pytest.mark.parametrize(
    "words", ["evaluate model=RUN data=RUN", "pretrain tokenizer=RUN", "finetune model=RUN data=chats.jsonl", "export gguf RUN"]
)
def test_a_data_run_is_no_model_and_no_tokenizer(words: str, refused: Refused, tmp_path: Path, data_run: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}")
    assert "is a data prepare run, which can't be the" in refused(words.replace("RUN", str(data_run)).split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", cases.RUNS)
def test_runs_to_look_at(case: str, refused: Refused, tmp_path: Path, data_run: Path) -> None:
    make, expected = cases.RUNS[case]
    given = str(make(data_run, tmp_path))
    for words in (["show", given], ["diff", given, str(data_run)]):
        assert expected in refused(["runs", *words], RunError.exit_code)


@pytest.mark.parametrize("case", [case for case in cases.RUNS if case not in ("missing", "an empty folder")])
def test_a_damaged_run_at_the_place_of_the_new_one(case: str, refused: Refused, tmp_path: Path, data_run: Path) -> None:
    make, expected = cases.RUNS[case]
    (tmp_path / "words.txt").write_text(cases.LONG)
    given = make(data_run, tmp_path)
    assert expected in refused(["data", "prepare", "source=words.txt", "--out", str(given)], RunError.exit_code)


@pytest.mark.usefixtures("unbegun")
def test_a_mistake_in_the_last_step_is_found_before_the_first(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(cases.LONG)
    assert "did you mean 'outtype'?" in refused(["quickstart", "words.txt", "export.outtyp=f16"])
    assert "outtype" in refused(["quickstart", "words.txt", "export.outtype=f17"])
    assert "chats.jsonl: no such file or folder" in refused(["run", _teaching_recipe(tmp_path)])
    assert not (tmp_path / "runs").exists()


def _teaching_recipe(folder: Path) -> str:
    """A recipe whose last step reads a file that isn't there."""
    steps = [
        {"name": "data", "stage": "data prepare", "config": {"source": "words.txt"}},
        {"name": "tokenizer", "stage": "tokenizer train", "parents": {"data": "data"}},
        {"name": "pretrain", "stage": "pretrain", "parents": {"data": "data", "tokenizer": "tokenizer"}, "config": {"max_steps": 1}},
        {"name": "chat", "stage": "finetune", "parents": {"model": "pretrain"}, "config": {"data": "chats.jsonl"}},
    ]
    (folder / "teach.yaml").write_text(json.dumps({"steps": steps}))  # JSON is YAML
    return "teach.yaml"


def test_a_second_try_with_the_mistake_put_right(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(cases.LONG.encode() + b"\xff")
    (tmp_path / "right.txt").write_text(cases.LONG)
    refused(["data", "prepare", "source=words.txt", "--out", "made"])
    assert main._guarded(["data", "prepare", "source=right.txt", "--out", "made"]) == 0
    assert Run.open(tmp_path / "made").status == "complete"


@pytest.mark.parametrize(
    "words", [["run", "bad.yaml"], ["pretrain", "size=banana"], ["data", "prepare", "source=nowhere"], ["runs", "rm", "nowhere"]]
)
def test_as_a_person_runs_it(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("steps: [")
    said = subprocess.run([sys.executable, "-m", "phiforge.cli.main", *words], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.returncode == 2 and said.stdout == "", said.stderr
    assert said.stderr.startswith("error: ") and said.stderr.count("\n") == 1


def test_there_are_enough_of_them() -> None:
    tables: tuple[dict[str, Any], ...] = (cases.RECIPES, cases.CONFIGS, cases.WORDS, cases.TEXTS, cases.CHATS, cases.RUNS)
    assert sum(len(table) for table in tables) >= 60


def test_the_optimizers_that_a_config_takes_are_those_there_are() -> None:
    assert set(get_args(Optimizer)) == {*OPTIMIZERS, *ALIASES}
