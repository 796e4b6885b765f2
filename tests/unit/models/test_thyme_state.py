"""What was read, as a value: the same continuation after saving, loading and forking; another model's state is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from phiforge.core.errors import ConfigError, DataError, PhiforgeError
from phiforge.generate import recurrent_native
from phiforge.generate.config import GREEDY, SamplingConfig
from phiforge.generate.engine import Engine
from phiforge.models.decoder import build as build_decoder
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.models.thyme.modeling import ThymeForCausalLM, ThymeLM
from phiforge.models.thyme.state import ThymeState, fingerprint

VOCABULARY = 71
NEXT = GREEDY.model_copy(update={"max_new_tokens": 24})


def build(seed: int = 2, **settings: Any) -> ThymeForCausalLM:
    torch.manual_seed(seed)
    model = ThymeLM(VOCABULARY, width=32, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


BOOK = torch.randint(VOCABULARY, (700,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture(params=["native", "recurrent", "native-unmarked"])
def engine(request: pytest.FixtureRequest) -> Engine:
    path, _, unmarked = request.param.partition("-")
    if path == "native" and isinstance(recurrent_native.library(), str):
        pytest.skip(f"the native path is not available: {recurrent_native.library()}")
    return Engine(build(state_layers=2, token_shift=not unmarked), path=path)


def test_restored_and_continued_is_the_same_continuation(engine: Engine, tmp_path: Path) -> None:
    whole = engine.generate([BOOK], NEXT)[0]
    state = engine.read(BOOK)
    assert (state.nbytes, state.seen, state.last) == (2304, 700, BOOK[-1])
    state.save(tmp_path / "book.state")
    assert (tmp_path / "book.state").stat().st_size < 2304 + 400
    again = ThymeState.load(tmp_path / "book.state", engine.model)
    assert torch.equal(again.memory, state.memory) and (again.seen, again.last, again.model) == (state.seen, state.last, state.model)
    assert engine.generate([[]], NEXT, state=again) == [whole]
    drawn = SamplingConfig(max_new_tokens=24, seed=9, temperature=1.4, repetition_penalty=1.0)
    assert engine.generate([[4, 8]], drawn, state=again) == engine.generate([[*BOOK, 4, 8]], drawn)
    assert [token for piece in engine.stream([], NEXT, state=again) for token in piece.ids] == whole.ids


def test_reading_in_parts_is_reading_at_once(engine: Engine) -> None:
    whole = engine.read(BOOK)
    state = engine.read(BOOK[:1])
    for begin, end in ((1, 2), (2, 300), (300, 700)):
        state = engine.read(BOOK[begin:end], state)
    assert state.seen == whole.seen and state.last == whole.last
    torch.testing.assert_close(state.memory, whole.memory, atol=1e-5, rtol=1e-4)


def test_forks_go_their_own_ways(engine: Engine) -> None:
    state = engine.read(BOOK[:50])
    before = state.memory.clone()
    left, right = engine.generate([[1, 2, 3], [60]], NEXT, state=state)  # rows of unlike length, from one state
    assert left != right
    assert engine.generate([[60]], NEXT, state=state.fork()) == [right]
    other = state.fork()
    other.memory.zero_()
    engine.read([5, 6], state)
    assert torch.equal(state.memory, before)


def test_the_models_own_forward_goes_on_from_a_state(engine: Engine) -> None:
    model: Any = engine.model
    state = engine.read(BOOK[:40])
    with torch.no_grad():
        logits = model(torch.tensor([[state.last, 7]] * 3), past_key_values=state.cache(3)).logits[:, -1]
        expected = model(torch.tensor([[*BOOK[:40], 7]])).logits[:, -1]
    torch.testing.assert_close(logits, expected.expand(3, -1), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("path", ["native", "recurrent"])
def test_the_last_row_is_the_mark_of_the_token_before(path: Any) -> None:
    if path == "native" and isinstance(recurrent_native.library(), str):
        pytest.skip(f"the native path is not available: {recurrent_native.library()}")
    model: Any = build()
    engine = Engine(model, path=path)
    one, other = engine.read([5, 9, 7, 3]), engine.read([8, 7, 3])  # what is kept of a text is kept before its newest token
    assert torch.equal(one.memory[:, -1], other.memory[:, -1]) and not torch.allclose(one.memory[:, :-1], other.memory[:, :-1])
    layer = model.model.memories[0]
    with torch.no_grad():
        x = model.model.embed_tokens(torch.tensor([[7]]))
        for block in model.model.before:
            x = block(x)
        torch.testing.assert_close(one.memory[0, -1], layer.marks(layer.norm(x))[0, 0], atol=1e-5, rtol=1e-4)


def test_a_position_table_goes_on_counting() -> None:
    engine = Engine(build(positions="literal", context_length=60))
    state = engine.read(BOOK[:30])
    assert engine.generate([[9]], NEXT, state=state) == engine.generate([[*BOOK[:30], 9]], NEXT)


def test_the_fingerprint_is_of_the_weights() -> None:
    model = build()
    assert fingerprint(model) == fingerprint(build()) != fingerprint(build(seed=3))
    before = fingerprint(model)
    with torch.no_grad():
        model.model.embed_tokens.weight[5, 3] += 1e-3
    assert fingerprint(model) != before


def one_line(caught: pytest.ExceptionInfo[PhiforgeError]) -> None:
    assert "\n" not in str(caught.value) and caught.value.fix


def test_another_models_state_is_refused_in_one_line(engine: Engine, tmp_path: Path) -> None:
    other = Engine(build(seed=8, state_layers=2))
    other.read(BOOK[:9]).save(tmp_path / "other.state")
    with pytest.raises(ConfigError, match=r"other\.state: belongs to another model") as caught:
        ThymeState.load(tmp_path / "other.state", engine.model)
    one_line(caught)
    state = ThymeState.load(tmp_path / "other.state")
    for use in (lambda: engine.read([1], state), lambda: engine.generate([[1]], NEXT, state=state)):
        with pytest.raises(ConfigError, match="belongs to another model") as caught:
            use()
        one_line(caught)


def test_what_is_no_state_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no state at all")
    save_file({"memory": torch.zeros(1, 24, 24)}, tmp_path / "plain")
    facts = {"format": "phiforge thyme state 1", "model": "x", "seen": "3", "last": "1"}
    save_file({"memory": torch.full((1, 24, 24), torch.nan)}, tmp_path / "nan", facts)
    save_file({"memory": torch.zeros(1, 24, 24)}, tmp_path / "count", facts | {"seen": "many"})
    save_file({"else": torch.zeros(1)}, tmp_path / "named", facts)
    whole = (tmp_path / "nan").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-100])
    for name in ("text", "plain", "nan", "count", "named", "cut", "missing"):
        with pytest.raises(DataError, match=name) as caught:
            ThymeState.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_only_models_with_a_state_have_one() -> None:
    llama = Engine(build_decoder(resolve(DecoderSpec(family="llama", width=32, depth=1, heads=2, vocab_size=VOCABULARY)), seed=1))
    with pytest.raises(ConfigError, match="remembers every token") as caught:
        llama.read([1, 2])
    one_line(caught)
    with pytest.raises(ConfigError, match="reference path"):
        Engine(build(), path="reference").read([1, 2])
    with pytest.raises(ConfigError, match="prompt 0 is empty"):
        Engine(build()).read([])
