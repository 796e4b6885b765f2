"""Fast = reference for constant-state models: C and torch paths against the model's own forward, whatever the rows' lengths."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
import torch

from phiforge.core.errors import ConfigError
from phiforge.generate import recurrent, recurrent_native
from phiforge.generate.config import GREEDY, SamplingConfig
from phiforge.generate.engine import Engine, choose_decoder
from phiforge.models.thyme.modeling import ThymeForCausalLM, ThymeLM

VOCABULARY = 83
SHAPES: dict[str, dict[str, Any]] = {
    "outer": {},
    "outer-two-states": {"state_layers": 2, "depth_before": 2, "depth": 3},
    "outer-added": {"delta": False, "decay": "single", "reads": 0},
    "outer-kept": {"decay": "none", "normalise_keys": False, "read_state": False, "delta": False, "context_length": 16},
    "outer-positions": {"positions": "literal", "context_length": 9, "data_dependent": False},
    "outer-bare": {"tie_head": False, "depth": 0, "depth_before": 0, "reads": 1},
    "outer-asked": {"state_layers": 2, "read_state": False},
    "outer-unmarked": {"token_shift": False},
    "outer-unmarked-two-states": {"token_shift": False, "state_layers": 2, "read_state": False, "delta": False, "decay": "none"},
    "literal": {"form": "literal"},
    "literal-positions": {"form": "literal", "positions": "literal", "context_length": 5},
}
STEPS = GREEDY.model_copy(update={"max_new_tokens": 21})


def build(name: str = "outer", width: int = 37) -> ThymeForCausalLM:
    torch.manual_seed(7)
    model = ThymeLM(VOCABULARY, width=width, mlp_width=70, **SHAPES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.eval()


def prompts_of(count: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count * 100 + longest)
    lengths = [1 + (longest - 1) * (index % 4) // 3 for index in range(count)]
    lengths[-1] = longest
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(params=["native", "recurrent"])
def path(request: pytest.FixtureRequest) -> Any:
    if request.param == "native" and isinstance(recurrent_native.library(), str):
        pytest.skip(f"the native path is not available: {recurrent_native.library()}")
    return request.param


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("count", "longest"), [(1, 1), (3, 17), (33, 6)])
def test_logits_at_every_step_equal_the_reference(name: str, count: int, longest: int, path: Any) -> None:
    model = build(name)
    prompts = prompts_of(count, longest)
    fast, slow = choose_decoder(model, torch.float32, path), choose_decoder(model, torch.float32, "reference")
    assert fast.name == path
    with torch.inference_mode():
        (session, logits), (expected_session, expected) = fast.start(prompts, 20), slow.start(prompts, 20)
        for step in range(12):
            torch.testing.assert_close(logits, expected, atol=5e-5, rtol=2e-4)
            if step == 7 and count > 1:  # rows leave, in another order
                rows = torch.tensor([count - 1, 0] if count > 2 else [1])
                session.keep(rows), expected_session.keep(rows)
                expected = expected[rows]
            tokens = expected.argmax(-1)
            logits, expected = session.step(tokens).clone(), expected_session.step(tokens)


@pytest.mark.parametrize("name", ["outer", "outer-two-states", "literal"])
def test_greedy_ids_equal_transformers_generate(name: str, path: Any) -> None:
    model = build(name)
    prompts = prompts_of(5, 9)
    found = Engine(model, path=path).generate(prompts, STEPS)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=21, do_sample=False, pad_token_id=0)
        assert completion.ids == made[0, len(prompt) :].tolist() and completion.finish_reason == "length"


@pytest.mark.parametrize("sampling", [STEPS, SamplingConfig(max_new_tokens=25, seed=5, temperature=1.2)])
def test_a_row_is_what_it_is_alone(sampling: SamplingConfig, path: Any) -> None:
    prompts = prompts_of(19, 12)
    engine = Engine(build("outer-two-states"), path=path)
    together = engine.generate(prompts, sampling, stop_ids=range(0, VOCABULARY, 9))
    assert {made.finish_reason for made in together} == {"stop", "length"}
    for index in (0, 7, 18):
        (alone,) = engine.generate([prompts[index]], sampling, stop_ids=range(0, VOCABULARY, 9), seeds=[5 + index])
        assert alone == together[index]
        pieces = list(engine.stream(prompts[index], sampling.model_copy(update={"seed": 5 + index}), stop_ids=range(0, VOCABULARY, 9)))
        assert [token for piece in pieces for token in piece.ids] == alone.ids and pieces[-1].finish_reason == alone.finish_reason


def test_ids_gone_at_once_are_those_gone_singly(path: Any) -> None:
    engine, prompts = Engine(build(), path=path), prompts_of(18, 7)
    singly: list[tuple[int, int]] = []
    watched = engine.generate(prompts, STEPS, stop_ids=[3, 40], on_token=lambda row, token: singly.append((row, token)))
    assert engine.generate(prompts, STEPS, stop_ids=[3, 40]) == watched
    assert [[token for at, token in singly if at == row] for row in range(18)] == [made.ids for made in watched]


@pytest.mark.parametrize("name", ["outer", "outer-two-states", "outer-positions"])
def test_a_long_prompt_is_read_in_pieces(name: str, path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build(name), prompts_of(3, 50)
    expected = choose_decoder(model, torch.float32, "reference").start(prompts, 5)[1]
    monkeypatch.setattr(recurrent.pieces, "__defaults__", (7,))
    with torch.inference_mode():
        torch.testing.assert_close(choose_decoder(model, torch.float32, path).start(prompts, 5)[1], expected, atol=5e-5, rtol=2e-4)


def test_several_threads_give_what_one_gives() -> None:
    if isinstance(recurrent_native.library(), str):
        pytest.skip(str(recurrent_native.library()))
    prompts = prompts_of(33, 11)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Engine(build(), path="native").generate(prompts, STEPS)
        torch.set_num_threads(2)
        two = Engine(build(), path="native").generate(prompts, STEPS)
    finally:
        torch.set_num_threads(before)
    assert one == two


@pytest.mark.parametrize("name", ["outer", "outer-unmarked"])
def test_what_a_token_writes_is_learned_or_computed_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(recurrent_native.library(), str):
        pytest.skip(str(recurrent_native.library()))
    model, prompts = build(name), prompts_of(4, 30)
    learned = choose_decoder(model, torch.float32, "native")
    monkeypatch.setattr(recurrent_native, "MEMO_BYTES", 0)
    computed = choose_decoder(model, torch.float32, "native")
    with torch.inference_mode():
        torch.testing.assert_close(learned.start(prompts, 1)[1], computed.start(prompts, 1)[1], atol=2e-5, rtol=1e-4)


def test_refresh_takes_the_weights_as_they_are_now() -> None:
    if isinstance(recurrent_native.library(), str):
        pytest.skip(str(recurrent_native.library()))
    model, prompts = build(), prompts_of(2, 5)
    engine = Engine(model, path="native")
    before = engine.generate(prompts, STEPS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert engine.generate(prompts, STEPS) == before
    engine.refresh()
    assert engine.generate(prompts, STEPS) == Engine(model, path="recurrent").generate(prompts, STEPS) != before


def test_paths_are_chosen_and_wrong_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    with pytest.raises(ConfigError, match="stock starcoder2 and llama"):
        Engine(model, path="stock")
    with pytest.raises(ConfigError, match="float32"):
        Engine(model, path="native", dtype=torch.bfloat16)
    monkeypatch.setattr(recurrent_native, "library", lambda: "no C compiler")
    assert Engine(model).decoder.name == "recurrent" and Engine(model).context_length is None


def test_a_stream_keeps_nothing_of_what_it_gave_away() -> None:
    """Three blocks of ids on, no Python object and no tensor of the session has grown (resident memory: benchmarks/constant_state.py)."""
    engine = Engine(build())
    stream = engine.stream([5], SamplingConfig(max_new_tokens=10_000, seed=1, temperature=1.1))
    for _ in range(1100):
        next(stream)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(100):
            next(stream)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3 * 1024):
            next(stream)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        stream.close()
    assert grown < 3 * 1024 * 4  # less than one small integer a token
