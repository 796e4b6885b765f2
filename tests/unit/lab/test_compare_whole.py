"""A comparison from the first run to the verdict: resumed, stopped, killed, with runs that fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phiforge.core.errors import ConfigError, Interrupted
from phiforge.core.runs import Run
from phiforge.lab.bench import How, tuning_seeds
from phiforge.lab.compare import compare
from phiforge.lab.experiment import Experiment
from tests.unit.lab import fake_training

Make = Callable[..., Experiment]


def row(verdict: dict[str, Any], arm: str) -> dict[str, Any]:
    return next(row for row in verdict["comparisons"] if row["arm"] == arm and row["role"] == "arm")


def plain(verdict: dict[str, Any]) -> dict[str, Any]:
    """Without clocks."""
    text = json.dumps({key: value for key, value in verdict.items() if key not in ("made", "command")})
    data = json.loads(text)
    for arm in data["arms"]:
        for trial in arm["trials"]:
            trial["seconds"] = None
    return data


def test_a_planted_difference_is_found_and_everything_is_in_the_verdict(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(arms={"standard": {}, "good": {"effect": -0.3}, "same": {"dropout_seed": 7}}, seeds=8)
    verdict = compare(experiment, tmp_path / "out", name="planted")
    assert verdict == json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert row(verdict, "good")["verdict"] == "better" and row(verdict, "good")["n"] == 8
    assert row(verdict, "same")["verdict"] == "no detectable difference"
    assert verdict["family_size"] == 2 and verdict["decided_by"] == "exact sign-flip test, Holm over 2 arms"
    assert verdict["finished"] and verdict["seeds"] == list(range(1, 9)) and verdict["failures"] == []
    assert [arm["role"] for arm in verdict["arms"]] == ["baseline", "arm", "arm"]
    trial = verdict["arms"][1]["trials"][0]
    assert trial["status"] == "complete" and Run.is_run(tmp_path / "out" / trial["path"])
    assert trial["metrics"]["spikes"] == 0 and trial["metrics"]["grad_norm"] == 1.0 and trial["metrics"]["tokens"] == 1000
    assert row(verdict, "good")["pairs"][0]["difference"] == pytest.approx(trial["value"] - verdict["arms"][0]["trials"][0]["value"])
    assert "the first weights" in verdict["shared"] and "the order of the training rows" in verdict["shared"]
    assert any(line.startswith("the seed of dropout: same has its own (it differs in dropout_seed)") for line in verdict["not_shared"])


def test_the_words_are_gathered_once_and_weights_are_not_kept(make_experiment: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(make_experiment(seeds=2), out, name="x")
    assert Run.open(out / "shared" / "words").status == "complete"
    first, second = (Run.open(out / "trials" / "good" / f"seed-{seed}") for seed in (1, 2))
    assert first.manifest.parents["model"].fingerprint == Run.open(out / "shared" / "words").fingerprint
    assert (first.path / "model").is_dir() and not (second.path / "model").exists()
    assert not (first.path / "checkpoints").exists() and not (second.path / "checkpoints").exists()
    assert list(second.manifest.artefacts) == [] and list(first.manifest.artefacts) == ["model/model.safetensors"]
    assert not (out / "probe").exists() and not (first.path / "report.html").exists()


def test_runs_of_a_pair_have_the_seed_and_are_settled_alike(make_experiment: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(make_experiment(seeds=[3, 11]), out, name="x")
    for seed in (3, 11):
        configs = [Run.open(out / "trials" / arm / f"seed-{seed}").config for arm in ("standard", "good")]
        assert [config["seed"] for config in configs] == [seed, seed]
        assert all(config["threads"] == 1 and config["compile"] is False and config["precision"] == "fp32" for config in configs)


def test_a_second_call_runs_nothing_and_says_the_same(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(seeds=2)
    first = compare(experiment, tmp_path / "out", name="x")

    def never(task: object) -> str:
        raise AssertionError("nothing is left to run")

    again = compare(experiment, tmp_path / "out", name="x", how=How(trial=never))
    assert plain(again) == plain(first)


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(seeds=2)
    alone = compare(experiment, tmp_path / "one", name="x")
    both = compare(experiment, tmp_path / "two", name="x", how=How(jobs=2, trial=fake_training.run_trial))
    assert plain(both) == plain(alone)


def test_failed_runs_are_kept_named_and_leave_out_their_pair(make_experiment: Make, tmp_path: Path) -> None:
    arms = {"standard": {}, "frail": {"effect": -0.3, "fail_on": [2], "nan_on": [5]}}
    verdict = compare(make_experiment(arms=arms, seeds=9), tmp_path / "out", name="x")
    frail = row(verdict, "frail")
    assert frail["n"] == 7 and [pair["seed"] for pair in frail["pairs"]] == [1, 3, 4, 6, 7, 8, 9]
    assert [(failure["arm"], failure["seed"]) for failure in verdict["failures"]] == [("frail", 2), ("frail", 5)]
    assert "diverged" in verdict["failures"][0]["error"] and "eval_bits_per_byte is no number" in verdict["failures"][1]["error"]
    assert frail["p_holm"] < 0.05 and frail["verdict"] == "no detectable difference", "what survived flatters it"
    assert any("flatters" in note for note in frail["notes"]) and "flatters" in frail["sentence"]
    assert any("failed on 2 of 9 seeds (2, 5)" in note for note in frail["notes"])
    assert (tmp_path / "out" / "trials" / "frail" / "seed-2" / "run.json").is_file()


def test_a_failed_run_is_not_run_again_unless_asked(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(arms={"standard": {}, "frail": {"fail_on": [1]}}, seeds=2)
    compare(experiment, tmp_path / "out", name="x")
    folder = tmp_path / "out" / "trials" / "frail" / "seed-1"
    before = Run.open(folder).id
    compare(experiment, tmp_path / "out", name="x")
    assert Run.open(folder).id == before
    compare(experiment, tmp_path / "out", name="x", how=How(retry=True))
    assert Run.open(folder).id != before


@pytest.mark.slow
def test_a_worker_that_dies_is_that_runs_failure_and_is_tried_again_next_time(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(arms={"standard": {}, "heavy": {"kill_on": [1]}}, seeds=2)
    verdict = compare(experiment, tmp_path / "out", name="x", how=How(jobs=2, trial=fake_training.run_trial))
    assert [(failure["arm"], failure["seed"]) for failure in verdict["failures"]] == [("heavy", 1)]
    assert "SIGKILL" in verdict["failures"][0]["error"]
    again = compare(experiment, tmp_path / "out", name="x", how=How(trial=fake_training.run_trial))  # it goes on from its checkpoint
    assert again["failures"] == [] and row(again, "heavy")["n"] == 2


def test_ctrl_c_leaves_what_is_known_and_the_same_command_goes_on(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(arms={"standard": {}, "good": {"effect": -0.3, "stop_on": [4]}})
    with pytest.raises(Interrupted, match=r": 7 of 12 runs done -> the same command goes on"):
        compare(experiment, tmp_path / "out", name="x")
    partial = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert not partial["finished"] and row(partial, "good")["n"] == 3
    assert partial["arms"][1]["trials"][3]["status"] == "interrupted" and partial["arms"][1]["trials"][4]["status"] == "missing"
    assert row(partial, "good")["verdict"] == "too few seeds to say"
    verdict = compare(experiment, tmp_path / "out", name="x")
    assert verdict["finished"] and row(verdict, "good")["verdict"] == "better"


def test_killed_it_loses_the_running_trial_alone(experiment_file: Callable[..., Path], make_experiment: Make, tmp_path: Path) -> None:
    settings = {"arms": {"standard": {}, "good": {"effect": -0.3}}, "seeds": 2, "base": {"sleep": 0.2}}
    experiment = make_experiment(**settings)
    whole = compare(experiment, tmp_path / "whole", name="killed")
    out, command = tmp_path / "out", [sys.executable, "-m", "tests.unit.lab.fake_training", str(tmp_path / "experiment.yaml")]
    child = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[3])
    last = out / "trials" / "standard" / "seed-2" / "run.json"
    until = time.monotonic() + 60
    while not last.is_file() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    ids = {folder: Run.open(folder).id for folder in out.glob("trials/*/seed-1")}
    assert len(ids) == 2 and all(Run.open(folder).status == "complete" for folder in ids)
    assert plain(compare(experiment, out, name="killed")) == plain(whole)
    assert {folder: Run.open(folder).id for folder in ids} == ids, "finished runs were not run again"


def test_tuning_gives_each_arm_its_best_on_seeds_of_its_own(make_experiment: Make, tmp_path: Path) -> None:
    arms = {"standard": {}, "fast": {"best_rate": 4e-3}}
    experiment = make_experiment(arms=arms, seeds=2, tune={"values": {"learning_rate": ["x1", "x2", "x4"]}, "seeds": 2})
    verdict = compare(experiment, tmp_path / "out", name="x")
    assert [arm["tuned"] for arm in verdict["arms"]] == [{"learning_rate": 0.001}, {"learning_rate": 0.004}]
    tried = verdict["arms"][1]["tuning"]
    assert [one["settings"] for one in tried] == [{"learning_rate": 0.001}, {"learning_rate": 0.002}, {"learning_rate": 0.004}]
    assert all(len(one["values"]) == 2 and one["mean"] == pytest.approx(sum(one["values"]) / 2) for one in tried)
    assert not set(verdict["tuning_seeds"]) & set(verdict["seeds"]) and verdict["tuning_seeds"] == tuning_seeds(experiment)
    assert any("best learning_rate of fast, 0.004, is the largest that was tried" in warning for warning in verdict["warnings"])
    assert Run.is_run(tmp_path / "out" / "tuning" / "fast" / "learning_rate=0.004" / f"seed-{verdict['tuning_seeds'][0]}")
    assert Run.open(tmp_path / "out" / "trials" / "fast" / "seed-1").config["learning_rate"] == 0.004


def test_a_setting_that_fails_is_not_chosen(make_experiment: Make, tmp_path: Path) -> None:
    tune = {"values": {"fail_on": [[], list(range(1_000_000, 1_000_002))]}, "seeds": 2}
    verdict = compare(make_experiment(seeds=2, tune=tune), tmp_path / "out", name="x")
    assert all(arm["tuning"][1]["mean"] is None and arm["tuned"] == {"fail_on": []} for arm in verdict["arms"])


def test_a_budget_in_seconds_is_measured_once_for_each_arm(make_experiment: Make, tmp_path: Path) -> None:
    arms = {"standard": {}, "slow": {"tokens_a_second": 250.0}}
    verdict = compare(make_experiment(arms=arms, seeds=2, budget={"seconds": 4}), tmp_path / "out", name="x")
    assert verdict["tokens_per_second"] == {"standard": 1000.0, "slow": 250.0}
    tokens = {arm["name"]: [trial["metrics"]["tokens"] for trial in arm["trials"]] for arm in verdict["arms"]}
    assert tokens == {"standard": [4000, 4000], "slow": [1000, 1000]}
    config = Run.open(tmp_path / "out" / "trials" / "slow" / "seed-2").config
    assert config["max_tokens"] == 1000 and config["train_seconds"] is None


def test_the_noise_floor_is_measured(make_experiment: Make, tmp_path: Path) -> None:
    verdict = compare(make_experiment(seeds=3, noise_pairs=2), tmp_path / "out", name="x")
    noise = verdict["noise"]
    assert 0 < noise["same_config_sd"] < 0.05 < noise["sd_over_seeds"] < 0.3
    assert "2 pairs of runs that differ in the dropout seed alone" in noise["how"]
    twin, run = Run.open(tmp_path / "out" / "noise" / "seed-1"), Run.open(tmp_path / "out" / "trials" / "standard" / "seed-1")
    assert {key for key, value in twin.config.items() if run.config[key] != value} == {"dropout_seed"}


def test_until_clear_stops_where_it_is_clear_and_an_arm_that_is_clear_gets_no_more_seeds(make_experiment: Make, tmp_path: Path) -> None:
    arms = {"standard": {}, "good": {"effect": -0.3}, "same": {"dropout_seed": 7}}
    verdict = compare(make_experiment(arms=arms, seeds=1, until_clear=True, max_seeds=12), tmp_path / "out", name="x")
    counts = {arm["name"]: len(arm["trials"]) for arm in verdict["arms"]}
    assert counts["good"] < counts["same"] == counts["standard"] <= 12
    assert row(verdict, "good")["verdict"] == "better" and row(verdict, "good")["e_value"] > 40
    assert row(verdict, "same")["verdict"] == "no detectable difference" and verdict["decided_by"].startswith("sequential betting test")


def test_what_is_asked_can_not_be_changed_after_the_first_run(make_experiment: Make, tmp_path: Path) -> None:
    compare(make_experiment(seeds=2, prediction="better"), tmp_path / "out", name="x")
    with pytest.raises(ConfigError, match=r"differs in prediction, metric"):
        compare(make_experiment(seeds=2, prediction="worse", metric="eval_loss"), tmp_path / "out", name="x")


def test_seeds_added_after_a_look_are_told_for_good(make_experiment: Make, tmp_path: Path) -> None:
    compare(make_experiment(seeds=6), tmp_path / "out", name="x")
    for _ in range(2):
        verdict = compare(make_experiment(seeds=7), tmp_path / "out", name="x")
        assert row(verdict, "good")["n"] == 7
        assert any("seeds were changed (6 to 7)" in warning for warning in verdict["warnings"])


def test_a_recipe_that_has_changed_is_not_mixed_in(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(seeds=2)
    compare(experiment, tmp_path / "out", name="x")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_steps: 10", "max_steps: 11"))
    with pytest.raises(ConfigError, match="was run with another max_steps"):
        compare(experiment, tmp_path / "out", name="x")


def test_trials_of_other_data_are_not_mixed_in(make_experiment: Make, tmp_path: Path) -> None:
    experiment, out = make_experiment(seeds=2), tmp_path / "out"
    compare(experiment, out, name="x")
    shutil.rmtree(out / "shared")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("stage: gather", "stage: gather, config: {words: 5}"))
    with pytest.raises(ConfigError, match="was made from other model"):
        compare(experiment, out, name="x")


def test_metrics_beside_it_may_be_ours(make_experiment: Make, tmp_path: Path) -> None:
    also = ["spikes", "grad_norm", "seconds", "eval_loss"]
    verdict = compare(make_experiment(seeds=1, also=also), tmp_path / "out", name="x")
    assert all(set(also) <= set(arm["trials"][0]["metrics"]) for arm in verdict["arms"])
    with pytest.raises(ConfigError, match="'charm' is not a metric"):
        compare(make_experiment(seeds=1, also=["charm"]), tmp_path / "other", name="x")


def test_an_unknown_metric_is_found_before_the_first_trial(make_experiment: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'eval_bits_per_byte'"):
        compare(make_experiment(metric="eval_bits_per_bytes"), tmp_path / "out", name="x")
    assert not (tmp_path / "out" / "trials").exists()


@pytest.mark.parametrize("what", ["a file", "strangers"])
def test_someone_elses_folder_is_left_alone(make_experiment: Make, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError):
        compare(make_experiment(), out, name="x")
    assert (out if what == "a file" else out / "thesis.txt").read_text() == "mine"
