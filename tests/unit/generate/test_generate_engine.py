"""The engine: seeds, stops, ragged batches, budgets, the context's end, streaming, errors in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from phiforge.core.errors import ConfigError
from phiforge.generate.config import GREEDY, SamplingConfig
from phiforge.generate.engine import Engine

VOCABULARY, CONTEXT = 256, 48


class Bytes:
    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class ByteLlama(LlamaForCausalLM):
    """Not stock: takes the reference path."""


def model_of(kind: type[LlamaForCausalLM] = LlamaForCausalLM) -> LlamaForCausalLM:
    torch.manual_seed(11)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(LlamaConfig(**sizes, max_position_embeddings=CONTEXT, initializer_range=0.4, tie_word_embeddings=False)).eval()


@pytest.fixture(scope="module", params=["auto", "stock", "reference"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(model_of(), path=request.param)


def greedy(tokens: int, **more: object) -> SamplingConfig:
    return GREEDY.model_copy(update={"max_new_tokens": tokens, **more})


PROMPTS = [[5], [9, 8, 7, 6, 5, 4], [100, 200], [1, 2, 3], [5, 5, 5, 5, 5]]


def test_ragged_prompts_give_what_each_gives_alone(engine: Engine) -> None:
    together = engine.generate(PROMPTS, greedy(12))
    assert together == [engine.generate([prompt], greedy(12))[0] for prompt in PROMPTS]
    assert together == Engine(engine.model, path="reference", max_batch=2).generate(PROMPTS, greedy(12))


def test_a_model_that_cannot_be_padded_is_batched_by_length() -> None:
    engine = Engine(model_of())
    expected = engine.generate([*PROMPTS, [3, 2, 1]], greedy(6))
    reference = Engine(engine.model, path="reference")
    reference.decoder.ragged = False
    assert reference.generate([*PROMPTS, [3, 2, 1]], greedy(6)) == expected


def test_seeds_repeat_and_differ(engine: Engine) -> None:
    sampling = SamplingConfig(max_new_tokens=16, temperature=1.5, top_k=0, top_p=1.0, seed=3)
    first = engine.generate([[5]] * 4, sampling)
    assert first == engine.generate([[5]] * 4, sampling)
    assert len({tuple(completion.ids) for completion in first}) == 4  # each row has its own stream
    assert first[2] == engine.generate([[5]], sampling, seeds=[5])[0]
    fresh = sampling.model_copy(update={"seed": None})
    assert engine.generate([[5]], fresh) != engine.generate([[5]], fresh)
    before = torch.random.get_rng_state()
    engine.generate([[5]], sampling)
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's randomness is left alone


def test_stop_ids_end_a_row_and_only_that_row(engine: Engine) -> None:
    free = engine.generate(PROMPTS, greedy(20))
    stop = free[1].ids[3]
    seen: list[tuple[int, int]] = []
    stopped = engine.generate(PROMPTS, greedy(20), stop_ids=[stop], on_token=lambda row, token: seen.append((row, token)))
    for row, (completion, whole) in enumerate(zip(stopped, free, strict=True)):
        if stop in whole.ids:
            assert completion.ids == whole.ids[: whole.ids.index(stop) + 1] and completion.finish_reason == "stop"
        else:
            assert completion == whole
        assert [token for at, token in seen if at == row] == completion.ids
    assert any(completion.finish_reason == "stop" for completion in stopped)
    assert any(completion.finish_reason == "length" for completion in stopped)


def test_stop_texts_end_a_row(engine: Engine) -> None:
    (free,) = engine.generate([[5]], greedy(20), tokenizer=Bytes())
    assert free.text == Bytes().decode(free.ids)
    stop = free.text[4:6]
    (completion,) = engine.generate([[5]], greedy(20, stop=(stop,)), tokenizer=Bytes())
    assert completion.finish_reason == "stop" and completion.text == free.text[: free.text.index(stop)]
    assert free.ids[: len(completion.ids)] == completion.ids and len(completion.ids) < 20


def test_the_context_ends_a_row_aloud(engine: Engine) -> None:
    long = list(range(CONTEXT - 4))
    last, short = engine.generate([long, [5]], greedy(10))
    assert (len(last.ids), last.finish_reason) == (4, "context")
    assert (len(short.ids), short.finish_reason) == (10, "length")
    assert engine.generate([[5]], greedy(10))[0] == short


def test_stream_gives_the_same_ids_and_text(engine: Engine) -> None:
    sampling = SamplingConfig(max_new_tokens=24, temperature=1.2, seed=1)
    (whole,) = engine.generate([PROMPTS[1]], sampling, tokenizer=Bytes())
    pieces = list(engine.stream(PROMPTS[1], sampling, tokenizer=Bytes()))
    assert [token for piece in pieces for token in piece.ids] == whole.ids
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.finish_reason for piece in pieces] == [None] * 24 + ["length"]


def test_a_stream_left_early_leaves_nothing_behind(engine: Engine) -> None:
    engine.model.train()
    stream = engine.stream([5], greedy(20))
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert engine.model.training
    engine.model.eval()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 1 is empty"),
        ([VOCABULARY], "id 256, the model knows 0 to 255"),
        ([3, -1], "id -1"),
        ([1] * CONTEXT, "48 tokens and the model's context is 48"),
    ],
)
def test_wrong_prompts_are_errors_in_one_line(engine: Engine, prompt: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        engine.generate([[1], prompt], greedy(3))
    assert "\n" not in str(error.value) and error.value.fix


def test_other_wrong_arguments(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        engine.generate([[1]], greedy(3, stop=("x",)))
    with pytest.raises(ConfigError, match="2 seeds for 1"):
        engine.generate([[1]], greedy(3), seeds=[1, 2])
    with pytest.raises(ConfigError, match="max_batch=0"):
        Engine(engine.model, max_batch=0)
    assert engine.generate([], greedy(3)) == []


def test_a_subclass_of_a_stock_model_is_not_taken_for_one() -> None:
    assert Engine(model_of(ByteLlama)).decoder.name == "reference"


def test_the_config_needs_no_torch() -> None:
    code = "import sys, phiforge.generate.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
