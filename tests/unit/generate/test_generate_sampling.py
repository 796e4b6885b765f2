"""Sampling: the settings against transformers' own logits warpers, draws against the distribution they must follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from phiforge.generate import native
from phiforge.generate.config import GREEDY, SamplingConfig
from phiforge.generate.sampling import invert, sample, warp

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
SETTINGS = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 1000},
    {"top_p": 0.5},
    {"top_p": 0.01},
    {"top_p": 0.999},
    {"min_p": 0.2},
    {"repetition_penalty": 1.7},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1},
    {"temperature": 2.5, "top_p": 0.8, "min_p": 0.01},
]


def transformers_warp(logits: torch.Tensor, ids: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    steps = LogitsProcessorList()
    if config.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    steps.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        steps.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        steps.append(TopPLogitsWarper(config.top_p))
    if config.min_p > 0:
        steps.append(MinPLogitsWarper(config.min_p))
    return steps(ids, logits.clone())


def logits_and_seen(rows: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(rows, vocabulary, generator=generator)
    ids = torch.randint(0, vocabulary, (rows, 9), generator=generator)
    return logits, ids, torch.zeros(rows, vocabulary, dtype=torch.bool).scatter(1, ids, True)


@pytest.mark.parametrize("vocabulary", [2, 63, 500])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_warp_equals_transformers(settings: dict, vocabulary: int) -> None:
    config = SamplingConfig(**(OFF | settings))
    logits, ids, seen = logits_and_seen(5, vocabulary)
    torch.testing.assert_close(warp(logits, config, seen), transformers_warp(logits, ids, config))


def sample_in_c(*arguments: object) -> torch.Tensor:
    made = native.library()
    if isinstance(made, str):
        pytest.skip(f"the native path is not available: {made}")
    return native.choose(made, *arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("sample", [sample, sample_in_c])
@pytest.mark.parametrize("vocabulary", [2, 63, 500])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_follow_the_warped_distribution(settings: dict, vocabulary: int, sample: Callable[..., torch.Tensor]) -> None:
    """Uniforms on a fine grid make the draw's frequencies equal the probabilities to the grid's resolution: no luck involved."""
    config = SamplingConfig(**(OFF | settings))
    logits, _, seen = logits_and_seen(1, vocabulary)
    grid = 4000
    uniforms = (torch.arange(grid) + 0.5) / grid
    drawn = sample(logits.expand(grid, -1).contiguous(), config, uniforms, seen.expand(grid, -1).contiguous())
    frequencies = torch.bincount(drawn, minlength=vocabulary) / grid
    expected = warp(logits, config, seen).softmax(-1)[0]
    assert not frequencies[expected == 0].any()
    torch.testing.assert_close(frequencies, expected, atol=1.5 / grid, rtol=0)


@pytest.mark.parametrize("sample", [sample, sample_in_c])
def test_edges_of_the_uniform_stay_inside(sample: Callable[..., torch.Tensor]) -> None:
    uniforms = torch.tensor([0.0, 1 - 2**-24])
    assert invert(torch.tensor([[0.0, 0.3, 0.7, 0.0]] * 2), uniforms).tolist() == [1, 2]
    logits = torch.tensor([[-30.0, 5.0, 4.0, -30.0]] * 2)
    for settings in ({"top_k": 2}, {"top_p": 0.9999}, {"top_k": 3, "top_p": 0.99}):
        assert sample(logits, SamplingConfig(**(OFF | settings)), uniforms, None).tolist() == [1, 2]
    logits = torch.tensor([[-200.0, 5.0, 4.0, -200.0]] * 2)
    assert sample(logits, SamplingConfig(**OFF), uniforms, None).tolist() == [1, 2]


def test_greedy_is_the_largest_after_the_penalty() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.9], [-1.0, -3.0, -1.05]])
    assert sample(logits, GREEDY, None).tolist() == [1, 0]
    seen = torch.tensor([[False, True, False], [True, False, False]])
    config = GREEDY.model_copy(update={"repetition_penalty": 1.2})
    assert sample(logits, config, None, seen).tolist() == [2, 2]
    assert torch.isfinite(warp(logits, config, seen)).nonzero().tolist() == [[0, 2], [1, 2]]


def test_without_randomness_is_a_bug_that_shows() -> None:
    with pytest.raises(ValueError, match="uniform"):
        sample(torch.zeros(1, 3), SamplingConfig(), None)
