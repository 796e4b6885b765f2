"""What a plain word on the command line stands for, and where a verb's result goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from phiforge.cli import main as main_module
from phiforge.cli import stages
from phiforge.cli.export import default_folder
from phiforge.cli.main import main
from phiforge.core.config import Config
from phiforge.core.errors import ConfigError, Interrupted
from phiforge.core.runs import Run, RunWriter, new_manifest

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a finished run of a stage in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)

    def made(name: str, stage: str, **parents: Run) -> Run:
        writer = RunWriter(Path(name), new_manifest(stage, Config()), Config())
        writer.manifest.parents = {role: run.as_parent() for role, run in parents.items()}
        writer.begin()
        return writer.end("complete")

    return made


def leave(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_text_and_runs_and_recipes_are_told_apart(make: Make) -> None:
    make("d", "data prepare")
    make("m", "pretrain")
    Path("text.txt").write_text("once")
    assert stages.named_by("text.txt", "pretrain") == {"data": "text.txt"}
    assert stages.named_by("d", "pretrain") == stages.named_by("d", "tokenizer train") == {"data": "d"}
    assert stages.named_by("m", "evaluate") == stages.named_by("m", "pretrain") == {"model": "m"}
    assert stages.named_by("codette/quickstart", "pretrain") == stages.named_by("mine.yaml", "pretrain") == {}
    assert stages.named_by(None, "pretrain") == stages.named_by("nowhere", "pretrain") == {}


@pytest.mark.parametrize("verb", [["evaluate"], ["export", "gguf"], ["finetune"], ["chat"], ["serve"]])
def test_the_folder_around_runs_names_those_that_are_meant(verb: list[str], make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("lab/data", "data prepare")
    (make("lab/pretrain", "pretrain").path / "model").mkdir()
    assert leave([*verb, "lab"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("it holds lab/pretrain")


@pytest.mark.parametrize("verb", ["evaluate", "finetune"])
def test_a_run_that_is_not_there_is_no_recipe(verb: str, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave([verb, "runs/nope"]) == 2
    assert capsys.readouterr().err.startswith("error: runs/nope: does not exist")


def test_an_evaluation_reads_what_was_held_out_from_the_model(make: Make) -> None:
    data = make("d", "data prepare")
    tuned = make("tuned", "finetune", model=make("m", "pretrain", data=data))
    assert Path(stages._data_of("m")).resolve() == Path(stages._data_of(str(tuned.path))).resolve() == data.path.resolve()
    make("orphan", "pretrain")
    with pytest.raises(ConfigError, match="isn't known"):
        stages._data_of("orphan")  # and never the default corpus in its place


def test_what_was_asked_for_is_on_stdout_and_unfolded(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a-name-that-is-longer-than-a-terminal-is-wide/" * 3 + "run"
    make(name, "data prepare")
    assert leave(["runs", "list", "."]) == 0
    said = capsys.readouterr()
    assert said.err == "" and len(said.out.splitlines()) == 2 and said.out.splitlines()[1].endswith(name)


def test_a_group_without_a_verb_shows_its_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(["export"]) == 2
    assert capsys.readouterr().out.count("Usage:") == 1


def test_an_export_lies_beside_its_model_and_is_named_as_the_model_was(make: Make) -> None:
    make("runs/m", "pretrain")
    assert default_folder(Path("runs/m"), "gguf", "f16") == Path("runs/m-gguf")
    assert default_folder(Path("runs/m").resolve(), "gguf", "q8_0") == Path("runs/m-gguf-q8_0").resolve()


@pytest.mark.parametrize("verb", [["report"], ["runs", "show"]])
def test_a_file_is_no_folder_of_a_run(verb: list[str], make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    Path("idea.yaml").write_text("arms: {}")
    assert leave([*verb, "idea.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: idea.yaml: is a file, not the folder of a run") and "rm" not in said and said.count("\n") == 1


def test_an_experiment_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(["schema", "experiment"]) == 0
    assert {"arms", "seeds", "baseline"} <= json.loads(capsys.readouterr().out)["properties"].keys()


@pytest.mark.parametrize(
    ("stop", "line"),
    [
        (Interrupted("runs/a: 3 of 6 runs done", fix="again"), "stopped: runs/a: 3 of 6 runs done -> again\n"),
        (KeyboardInterrupt(), "stopped\n"),
    ],
)
def test_being_stopped_is_no_error(
    stop: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(**_: object) -> None:
        raise stop

    monkeypatch.setattr(main_module, "app", verb)
    assert leave([]) == 130
    assert capsys.readouterr().err == line
