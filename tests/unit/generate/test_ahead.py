"""Several greedy steps at once: the same ids as step by step, wherever rows stop, however long they are."""

from __future__ import annotations

import pytest
import torch

from phiforge.generate.config import GREEDY
from phiforge.generate.engine import AHEAD, Engine
from phiforge.generate.native import NativeDecoder
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve


@pytest.fixture(scope="module")
def engine() -> Engine:
    model = build(resolve(DecoderSpec(family="llama", width=32, depth=2, heads=4, vocab_size=61, context_length=96)), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)  # sharp enough for tokens to vary
    if NativeDecoder.problem(model) is not None:
        pytest.skip("no C compiler on this machine: there is no path that goes several steps at once")
    return Engine(model.eval(), path="native")


@pytest.mark.parametrize("stops", [(), (7, 11), tuple(range(0, 61, 3))])
@pytest.mark.parametrize(("rows", "length", "new"), [(1, 1, 1), (1, 5, 2), (3, 17, AHEAD), (33, 9, 2 * AHEAD + 5), (5, 30, 90)])
def test_at_once_equals_step_by_step(engine: Engine, stops: tuple[int, ...], rows: int, length: int, new: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    prompts = [torch.randint(61, (length + row % 4,), generator=draw).tolist() for row in range(rows)]
    sampling = GREEDY.model_copy(update={"max_new_tokens": new})
    seen: list[tuple[int, int]] = []
    watched = engine.generate(prompts, sampling, stop_ids=stops, on_token=lambda row, token: seen.append((row, token)))
    assert engine.generate(prompts, sampling, stop_ids=stops) == watched
    assert [[token for at, token in seen if at == row] for row in range(rows)] == [made.ids for made in watched]
