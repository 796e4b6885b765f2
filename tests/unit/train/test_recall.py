"""The models that the made tasks compare: of one size, on the same rows, deterministic, and able to learn what can be learned."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.evaluate.memory_tasks import make
from phiforge.models.sizes import DecoderSpec
from phiforge.report.memory import accuracies, held, recall_sentence, recall_table
from phiforge.report.run import run_page
from phiforge.train import recall
from phiforge.train.recall_arms import Learner, alphabet_of, answers, examine, kinds, lesson, longest_row, twin_of
from phiforge.train.recall_config import RecallConfig

SMALL = {
    "sizes": [1, 2, 4],
    "keys": 6,
    "values": 4,
    "model": {"width": 24, "depth": 1, "dropout": 0.0, "reads": 2},
    "attention": {"family": "llama", "width": 24, "depth": 2, "heads": 2},
    "tokens_per_step": 96,
    "test_answers": 64,
    "warmup_steps": 5,
    "seeds": 1,
}


def settings(**more) -> RecallConfig:
    return build(RecallConfig, {**SMALL, **more}, where="test")


def test_both_kinds_are_of_one_size_within_two_percent():
    for config in (settings(), RecallConfig()):
        thyme, attention = (sum(p.numel() for p in kind.make(0).parameters()) for kind in kinds(config))
        assert abs(attention / thyme - 1) <= 0.02
    with pytest.raises(ConfigError, match="no MLP width gives 5,000 parameters"):
        twin_of(5_000, DecoderSpec(family="llama", width=64, depth=2, heads=2), 200, 64)


def test_the_literal_form_is_a_further_arm_of_its_own_size():
    names = [(kind.name, kind.twin) for kind in kinds(settings(literal=True))]
    assert names == [("thyme", True), ("attention", True), ("literal", False)]


def test_the_curriculum_reaches_every_size_and_takes_turns():
    config = settings(curriculum=0.5)
    lessons = [lesson(config, 0, step, 120) for step in range(120)]
    assert {kind for kind, _ in lessons[::2]} == {"recall"} and {kind for kind, _ in lessons[1::2]} == {"copy"}
    assert {size for _, size in lessons[:20]} == {1} and {size for _, size in lessons[20:40]} == {1, 2}
    assert {size for _, size in lessons[60:]} == {1, 2, 4}
    assert lessons != [lesson(config, 1, step, 120) for step in range(120)]


def test_the_head_is_asked_where_answers_are_asked_and_nowhere_else():
    config = settings()
    for kind in kinds(config):
        model = kind.make(0).eval()
        batch = make("recall", 4, 3, alphabet_of(config), 0, "test")
        with torch.no_grad():
            logits, targets = answers(model, batch)
            whole = model(input_ids=torch.from_numpy(batch.tokens)).logits
        np.testing.assert_array_equal(targets.numpy(), batch.targets[batch.asked])
        np.testing.assert_allclose(logits.numpy(), whole[torch.from_numpy(batch.asked)].numpy(), atol=1e-5)


def test_the_same_seed_gives_the_same_model_to_the_last_bit():
    config = settings()
    for kind in kinds(config):
        losses = [list(Learner.new(kind, 3, config).train(6, 6)) for _ in range(2)]
        assert losses[0] == losses[1] != list(Learner.new(kind, 4, config).train(6, 6))


def test_both_kinds_learn_what_one_symbol_asks():
    """A string of one symbol, asked for two tokens later: learned by a memory of any kind, at chance before."""
    config = settings(tasks=["copy"], sizes=[1], values=4, learning_rate=1e-2, test_answers=200)
    for kind in kinds(config):
        learner = Learner.new(kind, 0, config)
        before = examine(learner.model, config, 0)["copy", 1]
        for _ in learner.train(60, 60):
            pass
        after = examine(learner.model, config, 0)["copy", 1]
        assert after.value > 0.95 > 0.6 > before.value
        assert learner.step == 60 and learner.tokens == 60 * 32 * 3 and learner.seconds > 0


def test_a_loss_that_is_no_number_stops():
    config = settings()
    learner = Learner.new(kinds(config)[0], 0, config)
    with torch.no_grad():
        learner.model.model.embed_tokens.weight[2:] = float("nan")
    with pytest.raises(PhiforgeError, match="Thyme, seed 0: the loss is nan at step 1"):
        list(learner.train(1, 1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sizes": [4, 2]}, "must ascend"),
        ({"sizes": [2, 7]}, "sizes up to 7 need as many keys, and there are 6"),
        ({"max_steps": 3, "train_seconds": 1.0}, "each say how long to train"),
        ({"tasks": ["copy", "copy"]}, "names one twice"),
        ({"model": {"form": "literal"}}, "set literal=true for a further arm"),
    ],
)
def test_settings_that_cannot_be_are_one_line(wrong, said):
    with pytest.raises(ConfigError, match=said) as error:
        settings(**wrong)
    assert "\n" not in str(error.value)


def test_a_spec_given_in_part_keeps_the_rest():
    config = build(RecallConfig, {"model": {"reads": 2}, "attention": {"depth": 3}}, where="test")
    assert (config.model.width, config.model.reads, config.model.read_state) == (64, 2, False)
    assert (config.attention.family, config.attention.width, config.attention.depth) == ("llama", 64, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the stage: two seeds, a few steps."""
    config = settings(seeds=2, max_steps=8, sizes=[1, 2])
    writer = RunWriter(tmp_path_factory.mktemp("recall") / "run", new_manifest("recall", config), config)
    writer.begin()
    metrics = recall.run(config, {}, writer)
    writer.end("complete", metrics=metrics)
    return writer, metrics, json.loads((writer.path / "recall.json").read_text(encoding="utf-8"))


def test_the_stage_keeps_every_seed_task_size_and_budget(made):
    writer, metrics, found = made
    assert len(found["results"]) == 2 * 2 * 2 * 2 * 2  # kinds, budgets, tasks, sizes, seeds
    thyme, attention = found["kinds"]
    assert thyme["memory_bytes"] == dict.fromkeys(thyme["memory_bytes"], 2304)
    sizes = {int(tokens): kept for tokens, kept in attention["memory_bytes"].items()}
    assert max(sizes) == longest_row(settings(sizes=[1, 2])) and len({kept / tokens for tokens, kept in sizes.items()}) == 1
    costs = [cost for kind in found["kinds"] for cost in kind["costs"]]
    assert {cost["steps"] for cost in costs if cost["budget"] == "steps"} == {8}
    tokens = {cost["tokens"] for cost in costs if cost["budget"] == "steps" and cost["seed"] == 0}
    assert len(tokens) == 1, "equal steps of a seed are equal tokens"
    assert all(cost["steps"] >= 8 for cost in costs if cost["budget"] == "seconds")
    further = [name for name in writer.manifest.decisions if name.startswith("further steps")]
    assert len(further) == 4 and metrics["thyme_parameters"] == thyme["parameters"]


def test_equal_seconds_leaves_the_slower_kind_as_it_was(made):
    _, _, found = made
    slow = [kind for kind in found["kinds"] if all(cost["steps"] == 8 for cost in kind["costs"] if cost["seed"] == 0)]
    assert len(slow) >= 1
    for kind in slow:
        one, other = (
            [r["accuracy"]["value"] for r in found["results"] if r["kind"] == kind["name"] and r["seed"] == 0 and r["budget"] == budget]
            for budget in ("steps", "seconds")
        )
        assert one == other


def test_the_page_shows_it(made):
    writer, _, found = made
    page = run_page(writer.path)
    for text in ("Where it suffices", "Made-up tasks", "most that 18,432 bits allow", "At equal CPU seconds", "2,304 bytes"):
        assert text in page
    assert found["sentence"].split(";")[0] in page and page.count("<svg") >= 4
    title, columns, rows = recall_table(found)
    assert len(rows) == 4 and columns[-2:] == ["Thyme, %", "attention decoder, %"] and "chance 25.0 %" in title


def test_a_run_of_damaged_figures_still_has_a_page(made, tmp_path):
    writer, _, _ = made
    for name in ("run.json", "config.yaml"):
        (tmp_path / name).write_bytes((writer.path / name).read_bytes())
    (tmp_path / "recall.json").write_text('{"kinds": [{"name": 1}], "asked": [{"task": "recall", "size": 3}], "results": [{}]}')
    assert "could not be read" in run_page(tmp_path)
    (tmp_path / "recall.json").write_text("{")
    assert "Made-up tasks" not in run_page(tmp_path)


def result(accuracy: dict[int, float]) -> dict:
    """A recall.json of one kind and one seed with these accuracies."""
    results = [
        {"kind": "thyme", "budget": "steps", "task": "recall", "size": size, "seed": 0, "accuracy": {"value": value}}
        for size, value in accuracy.items()
    ]
    asked = [{"task": "recall", "size": size, "bits": 1.0, "bound": 1.0} for size in accuracy]
    about = [{"name": "thyme", "label": "Thyme"}]
    return {"results": results, "asked": asked, "kinds": about, "threshold": 0.9, "steps": 5, "seeds": [0], "chance": 0.1}


@pytest.mark.parametrize(
    ("accuracy", "holds", "said"),
    [
        ({2: 1.0, 4: 0.95, 8: 0.5}, 4, "Thyme holds up to 4 pairs (after"),
        ({2: 0.5, 4: 0.95}, 0, "Thyme holds not even 2 pairs"),
        ({2: 0.95, 4: 0.2, 8: 0.95}, 2, "up to 2 pairs"),
        ({2: 0.9, 4: 0.9}, 4, "up to 4 pairs, the most that was asked"),
    ],
)
def test_what_is_held_is_every_size_up_to_it(accuracy, holds, said):
    found = result(accuracy)
    assert held(found, "thyme", "recall") == holds and said in recall_sentence(found)
    assert [row[:2] for row in accuracies(found, "thyme", "recall", "steps")] == sorted(accuracy.items())
