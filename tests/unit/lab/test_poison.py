"""Comparisons that would say something that isn't so: each is found, and what becomes of it is what docs/compare.md says."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from phiforge.core.errors import ConfigError
from phiforge.lab.sources import compare_existing
from tests.unit.lab.existing import make_data, make_run, make_sides

METRIC = "eval_loss"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files: nobody will pull the plug."""
    monkeypatch.setattr("phiforge.core.atomic._fsync", lambda path: None)


def compare(arm: list[Path], base: list[Path], **how: Any) -> dict[str, Any]:
    return compare_existing(arm, base, **{"metric": METRIC, **how})


def trial(verdict: dict[str, Any], seed: int, arm: str = "golden") -> dict[str, Any]:
    (found,) = [t for a in verdict["arms"] if a["name"] == arm for t in a["trials"] if t["seed"] == seed]
    return found


def row(verdict: dict[str, Any]) -> dict[str, Any]:
    return verdict["comparisons"][0]


def said(verdict: dict[str, Any], *words: str) -> str:
    """The one warning that holds all of these words."""
    found = [line for line in verdict["warnings"] if all(word in line for word in words)]
    assert len(found) == 1, verdict["warnings"]
    return found[0]


def again(root: Path, seed: int, arm: str = "golden", loss: float = 1.95, **how: Any) -> Path:
    """Make a run of an arm anew, otherwise."""
    shutil.rmtree(root / arm / f"seed-{seed}")
    return make_run(root / arm / f"seed-{seed}", seed, loss, **how)


def test_fair_runs_say_what_they_say_and_nothing_else(tmp_path: Path) -> None:
    verdict = compare(*make_sides(tmp_path, 6))
    assert verdict["warnings"] == [] and verdict["failures"] == []
    assert row(verdict)["verdict"] == "better" and row(verdict)["n"] == 6 and row(verdict)["p"] == 2 / 64
    assert verdict["baseline"] == "standard" and len(verdict["shared"]) == 6 and verdict["not_shared"] == []


def test_an_arm_trained_on_the_validation_text_itself(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    for seed in range(1, 7):
        again(tmp_path, seed, streams={"train_text": "v"}, loss=0.5 + seed / 100)
    verdict = compare(arm, base)
    assert all(trial(verdict, seed)["status"] == "invalid" and trial(verdict, seed)["value"] is None for seed in range(1, 7))
    assert "trained on the validation text" in trial(verdict, 1)["error"]
    assert row(verdict)["verdict"] == "too few seeds to say" and row(verdict)["n"] == 0
    said(verdict, "golden, seeds 1, 2, 3, 4, 5, 6", "not counted")
    assert len(verdict["failures"]) == 6


def texts(count: int, first: int) -> list[str]:
    words = [f"w{i}" for i in range(400)]
    return [" ".join(random.Random(first + n).choices(words, k=120)) for n in range(count)]


@pytest.mark.parametrize("how", ["whole", "blanks", "part"])
def test_an_arm_whose_training_documents_hold_validation_documents(tmp_path: Path, how: str) -> None:
    held = texts(6, 1000)
    clean = make_data(tmp_path / "clean", texts(20, 0), held)
    stolen = {"whole": held[:1], "blanks": ["\n".join(held[0].split())], "part": [" ".join(text.split()[20:90]) for text in held]}[how]
    dirty = make_data(tmp_path / "dirty", [*texts(20, 0), *stolen], held)
    arm, base = make_sides(tmp_path, 6, data=clean)
    for seed in (2, 3):
        again(tmp_path, seed, data=dirty)
    verdict = compare(arm, base)
    assert [trial(verdict, seed)["status"] for seed in (1, 2, 3, 4)] == ["complete", "invalid", "invalid", "complete"]
    assert "holds validation text" in trial(verdict, 2)["error"]
    assert ("1 of 6 held-out documents whole" in trial(verdict, 2)["error"]) == (how != "part")


def test_a_corpus_that_repeats_itself_is_told_and_no_arm_is_blamed(tmp_path: Path) -> None:
    held = texts(6, 1000)
    arm, base = make_sides(tmp_path, 6, data=make_data(tmp_path / "loop", [*texts(20, 0), *(text[10:] for text in held)], held))
    verdict = compare(arm, base)
    assert row(verdict)["n"] == 6
    said(verdict, "the training text repeats the validation text", "in every arm")


def test_other_training_text_that_holds_nothing_of_the_validation_text_is_fine(tmp_path: Path) -> None:
    held = texts(6, 1000)
    arm, base = make_sides(tmp_path, 6, data=make_data(tmp_path / "clean", texts(20, 0), held))
    other = make_data(tmp_path / "other", texts(20, 500), held)
    for seed in range(1, 7):
        again(tmp_path, seed, data=other, streams={"train_text": "other"}, loss=1.9 + seed / 1000)
    verdict = compare(arm, base)
    assert row(verdict)["n"] == 6 and verdict["warnings"] == []
    assert any("training text" in line for line in verdict["not_shared"])


def test_other_validation_text(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    again(tmp_path, 4, streams={"validation_text": "easier"})
    verdict = compare(arm, base)
    assert trial(verdict, 4)["status"] == "invalid" and "other validation text than standard" in trial(verdict, 4)["error"]
    assert row(verdict)["n"] == 5


def test_less_of_the_validation_text(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    again(tmp_path, 4, metrics={"eval_text_tokens": 400})
    assert trial(compare(arm, base), 4)["status"] == "invalid"


def test_another_tokenizer_makes_losses_incomparable_and_bits_per_byte_not(tmp_path: Path) -> None:
    held = texts(4, 1000)
    data = make_data(tmp_path / "clean", texts(9, 0), held)
    arm, base = make_sides(tmp_path, 6, data=data)
    for seed in range(1, 7):
        streams = {"tokenizer": "other", "validation_text": "other held tokens", "train_text": "other tokens"}
        again(tmp_path, seed, data=data, streams=streams, metrics={"eval_text_tokens": 300}, loss=1.9 + seed / 1000)
    verdict = compare(arm, base)
    assert row(verdict)["n"] == 0 and "eval_bits_per_byte compares" in trial(verdict, 1)["error"]
    verdict = compare(arm, base, metric="eval_bits_per_byte")
    assert row(verdict)["n"] == 6 and row(verdict)["verdict"] == "better"
    said(verdict, "another tokenizer", "still compares")


def test_another_order_of_data_with_nothing_in_the_settings_to_say_why(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6, config=None)
    again(tmp_path, 1, streams={"data_order": "shuffled"}, config={"learning_rate": 2e-3})
    again(tmp_path, 2, streams={"data_order": "shuffled"}, config={"per_device_train_batch_size": 16})
    verdict = compare(arm, base)
    assert said(verdict, "another order").startswith("golden, seed 1: ")
    assert row(verdict)["n"] == 6 and any("order of the training rows" in line for line in verdict["not_shared"])


def test_a_missing_seed_is_named(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 7)
    verdict = compare(arm[:5] + arm[6:], base)
    assert trial(verdict, 6)["status"] == "missing" and row(verdict)["n"] == 6
    said(verdict, "golden, seed 6", "missing")
    verdict = compare(arm, base[1:])
    assert trial(verdict, 1, "standard")["status"] == "missing" and row(verdict)["n"] == 6


def test_nan_at_the_end_is_a_failed_run(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 7)
    lines = [{"step": 10, "loss": 2.0, "eval_loss": 1.2}, {"step": 20, "loss": float("nan"), "eval_loss": float("nan")}]
    again(tmp_path, 3, lines=lines, metrics={"eval_loss": None})
    verdict = compare(arm, base)
    assert trial(verdict, 3)["status"] == "failed" and "no finite number at step 20" in trial(verdict, 3)["error"]
    assert row(verdict)["n"] == 6
    assert row(verdict)["verdict"] == "no detectable difference"  # one that lost a run is not called better by those that are left
    said(verdict, "1 of 7 trials failed")


def test_nan_on_the_way_is_told(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    lines = [{"step": 10, "loss": 2.1}, {"step": 20, "loss": float("inf")}, {"step": 30, "loss": 2.0, "eval_loss": 1.95}]
    again(tmp_path, 3, lines=lines)
    verdict = compare(arm, base)
    assert row(verdict)["n"] == 6
    said(verdict, "golden, seed 3", "no number at step 20")


def test_ties_count_and_speak_for_no_side(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 8)
    for seed in (1, 2, 3):
        again(tmp_path, seed, "standard", loss=2.0)
        again(tmp_path, seed, loss=2.0, config={"learning_rate": 2e-3}, lines=[{"step": 30, "loss": 2.1 + seed / 100}])
    verdict = compare(arm, base)
    assert row(verdict)["n"] == 8 and row(verdict)["p"] == 2 / 2**5
    said(verdict, "3 of 8 pairs tie")


def test_a_metric_that_sees_no_difference(tmp_path: Path) -> None:
    root = tmp_path
    base = [make_run(root / "standard" / f"seed-{s}", s, 2.0, lines=[{"step": 1, "loss": 2 + s / 10}]) for s in range(1, 9)]
    arm = [make_run(root / "golden" / f"seed-{s}", s, 2.0, lines=[{"step": 1, "loss": 3 + s / 10}]) for s in range(1, 9)]
    verdict = compare(arm, base)
    assert row(verdict)["verdict"] == "no detectable difference" and row(verdict)["p"] == 1
    said(verdict, "every value equals that of standard")
    assert sum("one value, 2" in line for line in verdict["warnings"]) == 2


def test_more_training_is_told(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    for seed in range(1, 7):
        again(tmp_path, seed, metrics={"tokens": 6000, "steps": 60}, loss=1.9 + seed / 1000)
    assert said(compare(arm, base), "2.00 times the tokens").startswith("golden, seeds 1, 2, 3, 4, 5, 6")


def test_a_log_that_goes_back_and_a_rollback_are_told(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    steps = [{"step": s, "loss": 3.0 - s / 100} for s in (10, 20, 30, 20, 30)]
    again(tmp_path, 1, lines=steps)
    again(tmp_path, 2, lines=[*steps[:3], {"step": 31, "rollback": True}, {"step": 40, "loss": 2.0}])
    verdict = compare(arm, base)
    said(verdict, "golden, seed 1", "goes back from step 30 to 20")
    said(verdict, "golden, seed 2", "put back 1 time (at step 31)")
    assert row(verdict)["n"] == 6


def test_the_same_run_on_both_sides(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    verdict = compare([*arm, base[5]], base)
    assert trial(verdict, 6, "standard (compared)")["status"] == "invalid"
    assert "the same folder as standard, seed 6" in trial(verdict, 6, "standard (compared)")["error"]
    shutil.copytree(base[5], tmp_path / "copied" / "golden" / "seed-6")
    verdict = compare([*arm[:5], tmp_path / "copied" / "golden" / "seed-6"], base)
    assert "the same run id as standard, seed 6" in trial(verdict, 6)["error"] and row(verdict)["n"] == 5


def test_an_arm_whose_settings_changed_nothing_is_told(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": 3.0 - s / 100} for s in (10, 20, 30)]
    sides = [
        [make_run(tmp_path / arm / f"seed-{s}", s, 2.0, lines=[*lines, {"step": 31, "loss": 2 + s / 9}]) for s in range(1, 7)]
        for arm in "ab"
    ]
    verdict = compare(*sides)
    said(verdict, "the same log to the last digit as b with that seed: its settings changed nothing")
    assert row(verdict)["n"] == 6 and row(verdict)["verdict"] == "no detectable difference"


@pytest.mark.parametrize("how", ["copy", "weights", "log"])
def test_one_run_under_two_seeds(tmp_path: Path, how: str) -> None:
    arm, base = make_sides(tmp_path, 6)
    shutil.rmtree(arm[5])
    if how == "copy":  # the folder copied and its seed rewritten
        shutil.copytree(arm[4], arm[5])
        manifest = json.loads((arm[5] / "run.json").read_text())
        (arm[5] / "run.json").write_text(json.dumps({**manifest, "seed": 6}))
    elif how == "weights":
        again(tmp_path, 5, weights=b"the same")
        make_run(arm[5], 6, 1.96, weights=b"the same")
    else:
        lines = [{"step": s, "seconds": float(s), "loss": 3.0 - s / 100} for s in (10, 20, 30)]
        again(tmp_path, 5, lines=lines)
        make_run(arm[5], 6, 1.95, lines=[{**line, "seconds": 7.5} for line in lines])
    verdict = compare(arm, base)
    assert trial(verdict, 6)["status"] == "invalid" and "one run is no second one" in trial(verdict, 6)["error"]
    assert row(verdict)["n"] == 5


def test_a_folder_given_twice_counts_once_and_two_runs_of_a_seed_are_refused(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    verdict = compare([*arm, arm[0]], base)
    assert row(verdict)["n"] == 6
    said(verdict, "given twice")
    make_run(tmp_path / "golden-again" / "golden" / "seed-1", 1, 1.7)
    with pytest.raises(ConfigError, match="seed 1 is there twice"):
        compare([*arm, tmp_path / "golden-again" / "golden" / "seed-1"], base)


def test_a_recorded_seed_that_is_not_the_folder_s(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    shutil.rmtree(arm[2])
    make_run(arm[2], 9, 1.9)
    verdict = compare(arm, base)
    said(verdict, "its name says seed 3, and it recorded seed 9")
    assert trial(verdict, 3)["status"] == "missing" and trial(verdict, 9)["status"] == "complete" and row(verdict)["n"] == 5


def test_runs_that_did_not_end(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 8)
    again(tmp_path, 2, status="interrupted", error="stopped by the user")
    again(tmp_path, 3, status="failed", error="out of memory")
    verdict = compare(arm, base)
    assert [trial(verdict, seed)["status"] for seed in (2, 3)] == ["interrupted", "failed"]
    assert row(verdict)["n"] == 6 and row(verdict)["verdict"] == "no detectable difference"
    said(verdict, "golden, seed 2", "stopped by the user")


def test_a_metric_that_one_run_has_not(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 7)
    again(tmp_path, 5, metrics={"eval_loss": None}, lines=[{"step": 1, "eval_losss": 2.0}])
    verdict = compare(arm, base)
    assert trial(verdict, 5)["status"] == "invalid" and "has no eval_loss" in trial(verdict, 5)["error"]
    assert row(verdict)["n"] == 6


def test_a_metric_of_the_clock_is_told(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    for number, folder in enumerate((*arm, *base)):
        data = json.loads((folder / "run.json").read_text())
        data["metrics"]["cpu_seconds"] = 10.0 + number / 7
        (folder / "run.json").write_text(json.dumps(data))
    said(compare(arm, base, metric="cpu_seconds"), "measured with a clock")


def test_weights_chosen_by_validation_on_one_side_alone(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    for seed in range(1, 7):
        again(tmp_path, seed, "standard", loss=2.0 + seed / 1000, config={"load_best_model_at_end": False})
    verdict = compare(arm, base)
    assert row(verdict)["n"] == 0 and "chosen by validation loss" in trial(verdict, 1)["error"]


def test_the_best_on_the_way_counts_only_when_asked_and_is_told(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 6)
    for seed in range(1, 7):
        lines = [{"step": 10, "eval_loss": 1.5 + seed / 100}, {"step": 20, "loss": 2.2}, {"step": 30, "eval_loss": 2.5 + seed / 100}]
        again(tmp_path, seed, lines=lines, metrics={"eval_loss": None})
    verdict = compare(arm, base)
    assert trial(verdict, 1)["value"] == 2.51 and row(verdict)["verdict"] == "worse"
    verdict = compare(arm, base, best=True)
    assert trial(verdict, 1)["value"] == 1.51 and row(verdict)["verdict"] == "better"
    said(verdict, "the best of many looks")


def test_values_that_all_differ_by_one_number(tmp_path: Path) -> None:
    file = tmp_path / "made-up.csv"
    rows = "".join(f"standard,{s},{2 + s / 8}\ngolden,{s},{1.75 + s / 8}\n" for s in range(1, 8))
    file.write_text("arm,seed,loss\n" + rows)
    verdict = compare_existing([file])
    said(verdict, "differs by the same number")
