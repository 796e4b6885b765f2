"""The stage: a real model folder and a real data run in, evaluation.json out."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import zstandard
from transformers import LlamaConfig, LlamaForCausalLM

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, PhiforgeError, RunError
from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.data.document import Document, DocumentWriter
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.vocabulary import build_spec, our_settings
from phiforge.evaluate.baselines import Baseline, sentence
from phiforge.evaluate.config import EvaluateConfig
from phiforge.evaluate.score import Score
from phiforge.evaluate.stage import run as evaluate
from phiforge.evaluate.stage import token_byte_lengths
from phiforge.evaluate.stages import EVALUATE

WORDS = ("the", "cat", "sat", "on", "a", "mat", "æøå", "日本", "\r\n", "")


def text(number: int) -> str:
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(60 + number))


def write_documents(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as stream:
        writer = DocumentWriter(stream)
        for content in texts:
            writer.write(Document.of(content, "made"))


@pytest.fixture
def parents(tmp_path, monkeypatch):
    """A data run and a byte-level model run with a random model of context 32, trained on that data."""
    monkeypatch.setenv("PHIFORGE_CACHE", str(tmp_path / "cache"))
    data = RunWriter(tmp_path / "data", new_manifest("data prepare", EvaluateConfig()), EvaluateConfig())
    data.begin()
    write_documents(data.path / "documents" / "train.jsonl.zst", [text(i) for i in range(40)])
    write_documents(data.path / "documents" / "validation.jsonl.zst", [text(i) for i in range(100, 112)])
    finished = data.end("complete")
    model = RunWriter(tmp_path / "model", new_manifest("pretrain", EvaluateConfig()), EvaluateConfig())
    model.manifest.parents = {"data": finished.as_parent()}
    model.begin()
    Tokenizer(build_spec([bytes([b]) for b in range(256)], "gpt-2"), our_settings(None)).save(model.path / "model")
    write_model(model.path / "model")
    return {"data": finished, "model": model.end("complete")}


def write_model(folder, **changes):
    shape = {"vocab_size": 261, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)


def run_stage(tmp_path, parents, **settings):
    config = build(EvaluateConfig, settings, where="test")
    run = RunWriter(tmp_path / "evaluation", new_manifest("evaluate", config), config)
    run.begin()
    metrics = evaluate(config, parents, run)
    run.end("complete", metrics=metrics)
    return metrics, json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))


def test_figures_and_baselines(tmp_path, parents):
    metrics, found = run_stage(tmp_path, parents)
    spelled = sum(len(text(i).encode()) for i in range(100, 112))
    assert found["text"] == {"split": "validation", "documents": 12, "bytes": spelled, "tokens": spelled}
    assert found["notes"] == [] and found["settings"] == {"context_length": 32, "stride": 16, "precision": "fp32"}
    assert metrics["eval_bits_per_byte"] == pytest.approx(math.log2(261), abs=0.3)  # one byte a token, nothing learned
    assert metrics["eval_bits_per_byte"] == pytest.approx(math.log2(metrics["eval_perplexity"]))
    names = {baseline["name"]: baseline for baseline in found["baselines"]}
    assert set(names) == {"ngram", "xz", "xz_alone"} and names["ngram"]["bits_per_byte"]["cluster"] == "document"
    gap = names["ngram"]["gap"]
    assert gap["value"] == pytest.approx(metrics["ngram_bits_per_byte"] - metrics["eval_bits_per_byte"]) and gap["standard_error"] > 0
    assert metrics["ngram_bits_per_byte"] < 2 < metrics["eval_bits_per_byte"]
    assert metrics["xz_bits_per_byte"] < metrics["xz_alone_bits_per_byte"]
    assert "it has not yet learned what counting and copying give" in found["sentence"] and "5-gram" in found["sentence"]
    assert Run.open(tmp_path / "evaluation").metrics()[0]["eval_bits_per_byte"] == metrics["eval_bits_per_byte"]


def test_windows_that_begin_anew_and_a_trigram(tmp_path, parents):
    metrics, found = run_stage(tmp_path, parents, protocol={"length": 16, "batch": 4, "borders": ["keep", "join"]})
    rows = {(row["who"], row["borders"], row["stride"]): row for row in found["protocol"]["rows"]}
    assert len(rows) == 8 and found["protocol"]["bytes_per_token"] == 1
    assert metrics["protocol_perplexity"] == rows["model", "keep", 8]["perplexity"] == pytest.approx(261, rel=0.3)
    assert metrics["protocol_trigram_disjoint_join_perplexity"] == rows["trigram", "join", 16]["perplexity"] < 20
    trigram = next(baseline for baseline in found["baselines"] if baseline["name"] == "trigram")
    assert trigram["bits_per_byte"]["value"] == metrics["trigram_bits_per_byte"] < metrics["protocol_trigram_bits_per_byte"]
    assert trigram["bits_per_byte"]["n"] == found["text"]["bytes"]
    _, found = run_stage(tmp_path / "without", parents, protocol={"length": 16, "trigram": False})
    assert {row["who"] for row in found["protocol"]["rows"]} == {"model"} and len(found["baselines"]) == 3


def test_a_part_and_the_training_side(tmp_path, parents):
    metrics, found = run_stage(tmp_path, parents, max_tokens=200, baselines=False)
    assert metrics["eval_tokens"] <= 200 and found["baselines"] == [] and "max_tokens" in found["notes"][0]
    _, found = run_stage(tmp_path / "again", parents, split="train")
    assert "it was trained on" in found["sentence"] and found["baselines"] == []


def test_text_of_another_data_run_may_have_been_seen(tmp_path, parents):
    parents["model"].manifest.parents["data"].fingerprint = "another"
    _, found = run_stage(tmp_path, parents, baselines=False)
    assert "another data run" in found["notes"][0]


@pytest.mark.parametrize("settings", [{"context_length": 33}, {"context_length": 16, "stride": 17}])
def test_windows_that_do_not_fit_are_refused(tmp_path, parents, settings):
    with pytest.raises(ConfigError, match=next(iter(reversed(settings)))):
        run_stage(tmp_path, parents, **settings)


def test_a_run_without_a_model_is_refused(tmp_path, parents):
    with pytest.raises(RunError, match="no model in it"):
        run_stage(tmp_path, {**parents, "model": parents["data"]})


def test_a_foreign_tokenizer_is_refused(tmp_path, parents):
    write_model(parents["model"].model_dir, vocab_size=200)
    with pytest.raises(ConfigError, match="261 ids and the model knows 200"):
        run_stage(tmp_path, parents)


def test_a_diverged_model_is_told(tmp_path, parents):
    model = LlamaForCausalLM.from_pretrained(parents["model"].model_dir)
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    model.save_pretrained(parents["model"].model_dir)
    with pytest.raises(PhiforgeError, match="not a number"):
        run_stage(tmp_path, parents)


def test_special_tokens_spell_nothing(parents):
    sizes = token_byte_lengths(Tokenizer.load(parents["model"].model_dir))
    assert sizes[:5].tolist() == [0] * 5 and set(sizes[5:]) == {1}


def test_the_sentence_says_who_won():
    def score(value):
        return Score(value=value, standard_error=0.01, n=9)

    others = [Baseline(name="ngram", label="5-gram byte model", about="", fair=True, bits_per_byte=score(2.1))]
    others.append(Baseline(name="xz_alone", label="xz, this text alone", about="", fair=False, bits_per_byte=score(1.0)))
    assert sentence(score(1.83), others).endswith("a 5-gram byte model needs 2.10. Fewer is better: it beats the 5-gram byte model.")
    assert "draw within the error" in sentence(score(2.09), others)
    gap = Score(value=0.01, standard_error=0.001, n=9)  # the same figures, but measured byte by byte on the same text
    assert "it beats" in sentence(score(2.09), [replace(others[0], gap=gap)])
    assert "not yet learned" in sentence(score(2.5), others)
    assert "unseen" not in sentence(score(1.0), others, seen=True)
    others.append(Baseline(name="xz", label="xz", about="", fair=True, bits_per_byte=score(1.5)))
    assert sentence(score(1.4), others).endswith("it beats the 5-gram byte model and xz.")
    assert "it beats the 5-gram byte model, but not xz, which copies" in sentence(score(1.83), others)
    assert "it beats the 5-gram byte model, and draws with xz." in sentence(score(1.5), others)
    assert "not yet learned" in sentence(score(2.5), others)


def test_the_stage_names_its_roles():
    assert [role.name for role in EVALUATE.roles] == ["model", "data"] and EVALUATE.load() is evaluate


def test_weights_chosen_by_the_text_that_is_scored_are_told(tmp_path, parents):
    parents["model"].manifest.metrics = {"steps": 100, "model_step": 60}
    _, found = run_stage(tmp_path, parents, baselines=False)
    assert "step 60 of 100 were chosen by this text" in found["notes"][0]
    parents["model"].manifest.metrics = {"steps": 100, "model_step": 100}
    _, found = run_stage(tmp_path / "last", parents, baselines=False)
    assert found["notes"] == []
