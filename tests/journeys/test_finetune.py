"""Fine-tuning from end to end: it learns, ends its turns where transformers generates, resumes exactly, and takes borrowed models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from phiforge.core.errors import DataError
from phiforge.core.runs import Run, read_jsonl
from phiforge.data.chat import CHATML
from phiforge.data.tokenizer import Tokenizer
from tests.unit.train.chat_parts import OWN, borrowed, finetune, ours, save_model, write_sums

LEARN = {
    "learning_rate": 1e-2,
    "max_steps": 40,
    "eval_steps": 10,
    "save_steps": 10,
    "save_total_limit": 5,
    "context_length": 96,
    "sample_tokens": 8,
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("finetune")
    model = save_model(folder / "base", ours())
    return finetune(folder / "run", model, data=str(write_sums(folder / "sums.jsonl")), **LEARN)


def test_it_learns_on_conversations_it_has_not_seen(taught: Run) -> None:
    metrics = taught.manifest.metrics
    assert metrics["eval_loss"] < 0.5 * metrics["eval_loss_before"]
    assert metrics["eval_turn_end_accuracy"] > 0.5
    assert metrics["eval_turns_ended"] > 0.5 and metrics["eval_questions_answered"] == 4
    lines = [line for line in taught.metrics() if "eval_loss" in line]
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40]


def test_it_keeps_which_held_out_questions_it_answered_right(taught: Run) -> None:
    outcomes = list(read_jsonl(taught.path / "items.jsonl"))
    assert len({line["item"] for line in outcomes}) == len(outcomes) == 4
    right = sum(line["correct"] for line in outcomes)
    assert taught.manifest.metrics["eval_exact_match"] == right / 4
    assert "items.jsonl" in taught.manifest.artefacts


def test_the_run_says_what_it_was_made_from(taught: Run) -> None:
    found = json.loads((taught.path / "data.json").read_text())
    assert found["conversations"] == 200 and found["template"] == "chatml"
    assert found["train"]["conversations"] + found["validation"]["conversations"] + _held_back(found) == 200
    assert 0 < found["train"]["trained_fraction"] < 0.3
    samples = list(read_jsonl(taught.path / "samples.jsonl"))
    assert {line["step"] for line in samples} == {0, 10, 20, 30, 40} and len(samples) == 15


def _held_back(found: dict[str, dict[str, int]]) -> int:
    """Repeats of held-out conversations: on neither side."""
    sums = Path(found["files"][0]).read_text().splitlines()  # type: ignore[index]
    distinct = len(set(sums))
    assert found["repeats"] == 200 - distinct and found["validation"]["conversations"] == round(distinct * 0.1)  # type: ignore[comparison-overlap]
    return 200 - found["train"]["conversations"] - found["validation"]["conversations"]


def test_transformers_stops_where_the_turn_ends(taught: Run) -> None:
    tokenizer = AutoTokenizer.from_pretrained(taught.model_dir)
    model = AutoModelForCausalLM.from_pretrained(taught.model_dir)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|eos|>"])
    assert model.generation_config.eos_token_id == ends
    assert tokenizer.chat_template == CHATML.jinja and Tokenizer.load(taught.model_dir).eot_id == ends[0]
    ended = 0
    for letter in "abcdefgh":
        asked = [{"role": "user", "content": f"2 {letter}"}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        said = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
        ended += len(said) < 40 and said[-1] == ends[0]
    assert ended >= 4


def test_a_killed_run_goes_on_as_if_nothing_had_been(taught: Run, tmp_path: Path) -> None:
    shutil.copytree(taught.path, tmp_path / "run")
    for name in ("model", *(f"checkpoints/checkpoint-{step}" for step in (20, 30, 40))):
        shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    assert (tmp_path / "run/checkpoints/checkpoint-10").is_dir()
    again = finetune(tmp_path / "run", Run.borrow(taught.path.parent / "base"), resume=True, **taught.config)
    for name in ("model/model.safetensors", "checkpoints/checkpoint-40/model.safetensors"):
        a, b = (load_file(run.path / name) for run in (taught, again))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    clock = {"seconds", "tokens_per_second"}
    left, right = ([{k: v for k, v in line.items() if k not in clock} for line in run.metrics()] for run in (taught, again))
    assert left == right
    assert (taught.path / "samples.jsonl").read_bytes() == (again.path / "samples.jsonl").read_bytes()
    costs = {"cpu_seconds", "peak_memory_bytes"}
    first, second = ({k: v for k, v in run.manifest.metrics.items() if k not in costs} for run in (taught, again))
    assert first == second
    assert costs < again.manifest.metrics.keys()


def test_a_taught_model_can_be_taught_again(taught: Run, tmp_path: Path) -> None:
    settings = LEARN | {"max_steps": 3, "final_questions": 0, "validation_fraction": 0, "sample_questions": 0}
    run = finetune(tmp_path / "run", taught, data=taught.config["data"], **settings)
    assert "eval_loss" not in run.manifest.metrics and run.manifest.metrics["loss"] < taught.manifest.metrics["eval_loss_before"]
    assert (run.model_dir / "chat_template.jinja").read_bytes() == (taught.model_dir / "chat_template.jinja").read_bytes()


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_borrowed_models_learn_too(tmp_path: Path, kind: str) -> None:
    specials = ("<|endoftext|>",) if kind == "gpt2" else ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = borrowed(specials, **({"bos_token": "<|endoftext|>"} if kind == "gpt2" else {"chat_template": OWN}))
    base = save_model(tmp_path / "base", tokenizer, kind)
    run = finetune(tmp_path / "run", base, data=str(write_sums(tmp_path / "sums.jsonl")), **LEARN)
    assert run.manifest.metrics["eval_loss"] < 0.6 * run.manifest.metrics["eval_loss_before"]
    taught = Tokenizer.load(run.model_dir)
    model = AutoModelForCausalLM.from_pretrained(run.model_dir)
    assert taught.chat_template == (OWN if kind == "qwen2" else CHATML.jinja)
    assert model.generation_config.eos_token_id[0] == taught.eot_id == taught.specials["<|im_end|>"]
    assert model.config.vocab_size == taught.vocab_size == (260 if kind == "gpt2" else 259)
    theirs = AutoTokenizer.from_pretrained(run.model_dir)
    assert theirs.convert_tokens_to_ids("<|im_end|>") == taught.eot_id


def test_a_folder_without_a_model_is_one_line(taught: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no model in it"):
        finetune(tmp_path / "run", Run.borrow(tmp_path / "empty"), data=taught.config["data"])


def test_real_conversations(shared_data: Path, tmp_path: Path) -> None:
    names = ("llms_from_scratch.jsonl.gz", "fastchat_dummy_conversation.jsonl.gz")
    run = finetune(
        tmp_path / "run",
        save_model(tmp_path / "base", ours()),
        data=[str(shared_data / "instruct" / name) for name in names],
        **LEARN | {"max_steps": 4, "final_questions": 2, "eval_tokens": 2000, "final_eval_tokens": 2000},
    )
    found = json.loads((run.path / "data.json").read_text())
    assert found["conversations"] == 1600 and found["truncated"] > 0 and found["question_too_long"] > 0
    assert run.manifest.metrics["eval_loss"] < run.manifest.metrics["eval_loss_before"]
