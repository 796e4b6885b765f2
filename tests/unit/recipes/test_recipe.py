"""From words to a recipe: where a key goes, what a path stands for, what a verb needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phiforge.core.config import Config
from phiforge.core.errors import ConfigError
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.recipes import recipe


def steps(data: dict[str, Any], main: str | None = None, /, **keys: Any) -> dict[str, recipe.Step]:
    return {step.name: step for step in recipe.override(data, keys, main=main).steps}


def made_run(path: Path, stage: str) -> str:
    writer = RunWriter(path, new_manifest(stage, Config()), Config())
    writer.begin()
    writer.end("complete")
    return str(path)


def test_a_bare_key_goes_to_the_step_that_has_it() -> None:
    found = steps(recipe.default_recipe("pretrain"), "pretrain", learning_rate=1e-2, lr_scheduler_type="linear", split="tail", seed=4)
    assert found["pretrain"].config["learning_rate"] == 1e-2 and found["data"].config["split"] == "tail"
    assert found["pretrain"].config["seed"] == 4 and "seed" not in found["data"].config  # paired seeds share their data


def test_a_key_of_a_nested_config_is_found_one_level_down() -> None:
    found = steps(recipe.default_recipe("pretrain"), "pretrain", size="3M", model={"family": "llama"})
    assert found["pretrain"].config["model"] == {"size": "3M", "family": "llama"}
    assert found["tokenizer"].config["model_size"] == "3M"  # the vocabulary fits the model


def test_a_vocabulary_asked_for_is_the_models_and_its_tokenizers() -> None:
    found = steps(recipe.load_recipe("thyme/books").model_dump(), vocab_size=512)
    assert found["pretrain"].config["model"]["vocab_size"] == found["tokenizer"].config["vocab_size"] == 512
    padded = steps(recipe.load_recipe("thyme/books").model_dump(), pretrain={"model": {"vocab_size": 8192}})
    assert padded["tokenizer"].config["vocab_size"] == 4096


def test_a_dotted_key_names_its_step() -> None:
    assert steps(recipe.load_recipe("codette/quickstart").model_dump(), data={"seed": 3}, pretrain={"lr": 0.1})["data"].config["seed"] == 3


def test_a_path_of_text_is_the_source_and_a_run_takes_the_place_of_its_step(tmp_path: Path) -> None:
    assert steps(recipe.default_recipe("pretrain"), "pretrain", data="texts")["data"].config["source"] == ["texts"]
    run = made_run(tmp_path / "d", "data prepare")
    found = steps(recipe.default_recipe("pretrain"), "pretrain", data=run)
    assert "data" not in found and found["pretrain"].parents["data"] == found["tokenizer"].parents["data"] == run


def test_a_role_on_the_command_line_is_a_parent(tmp_path: Path) -> None:
    run = made_run(tmp_path / "m", "pretrain")
    assert steps(recipe.default_recipe("evaluate"), "evaluate", model=run)["evaluate"].parents["model"] == run


def test_a_verb_without_what_it_needs_says_so() -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        steps(recipe.default_recipe("export"), "export")


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        steps(recipe.default_recipe("pretrain"), "pretrain", learning_rte=1)


def test_up_to_keeps_only_what_is_needed() -> None:
    whole = recipe.load_recipe("codette/quickstart")
    assert [step.name for step in recipe.up_to(whole, "tokenizer train").steps] == ["data", "tokenizer"]
    with pytest.raises(ConfigError, match="no finetune step"):
        recipe.up_to(whole, "finetune")


def test_shipped_recipes_have_a_description_and_stand() -> None:
    assert {"codette/quickstart", "codette/tiny-shakespeare"} <= set(recipe.recipe_names())
    assert all(recipe.load_recipe(name).description for name in recipe.recipe_names())
