"""Claim: our engine samples several times more tokens per CPU-second than transformers' generate(), and gives the same greedy ids.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py             # 8 pairs of each, results/sampling-<date>.json
    OMP_NUM_THREADS=1 python benchmarks/sampling.py --pairs 2 --sizes 0.82M --no-record

Batch 32, prompt 16, 64 new tokens, fp32, 1 thread, process CPU time. Weights are random (the speed does not depend on them), engine and
model are made beforehand, both with the allocator setting of `core.hardware.configure_allocator`. Greedy ids are compared before anything
is timed. The sampled comparison (temperature 0.7, top-k 40, top-p 0.9, repetition penalty 1.1) is one of cost: the two draw differently
from the same distribution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import line, paired, record
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Starcoder2Config, Starcoder2ForCausalLM

from phiforge.core.hardware import configure_allocator
from phiforge.generate.config import GREEDY, SamplingConfig
from phiforge.generate.engine import Engine

SIZES: dict[str, dict[str, int]] = {
    "0.82M": {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
    "7.08M": {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8},
}
BATCH, PROMPT, NEW = 32, 16, 64
REPEATS = {"0.82M": 12, "7.08M": 1}  # calls timed as one, so that ours takes some tenths of a second as well


def build(family: str, size: str) -> PreTrainedModel:
    """The stock model of a family at one of the sizes, tied head, random weights large enough to give every row its own text."""
    torch.manual_seed(0)
    settings: dict[str, Any] = SIZES[size] | {
        "max_position_embeddings": 256, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": None, "initializer_range": 0.05,
    }  # fmt: skip
    width = SIZES[size]["hidden_size"]
    if family == "starcoder2":
        return Starcoder2ForCausalLM(Starcoder2Config(**settings, intermediate_size=4 * width)).eval()
    # about 8/3 of the width, in 16s: the same parameter count as 4x without the gate
    return LlamaForCausalLM(LlamaConfig(**settings, intermediate_size=(8 * width // 3 + 15) // 16 * 16)).eval()


def repeated(work: Callable[[], Any], times: int) -> Callable[[], None]:
    """`work` several times over as one call."""

    def run() -> None:
        for _ in range(times):
            work()

    return run


def measure(family: str, size: str, path: str, pairs: int) -> list[dict[str, Any]]:
    """Greedy (ids equal, or AssertionError) and sampled, ours against generate()."""
    model = build(family, size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ids = torch.randint(0, SIZES[size]["vocab_size"], (BATCH, PROMPT))
    prompts, mask = ids.tolist(), torch.ones_like(ids)
    engine = Engine(model, path=path)
    greedy, sampled = GREEDY.model_copy(update={"max_new_tokens": NEW}), SamplingConfig(max_new_tokens=NEW)

    def peer(**how: Any) -> torch.Tensor:
        return model.generate(ids, attention_mask=mask, max_new_tokens=NEW, pad_token_id=0, **how)

    expected = peer(do_sample=False)[:, PROMPT:].tolist()
    found = [completion.ids for completion in engine.generate(prompts, greedy)]
    assert found == expected, f"{family} {size}: greedy ids differ in {sum(a != b for a, b in zip(found, expected, strict=True))} rows"
    assert len({tuple(row) for row in found}) > BATCH // 2, "the rows are all alike: not a fair text"
    how = {"do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1}
    results = []
    for name, a, b in (
        ("greedy, ids equal", lambda: peer(do_sample=False), lambda: engine.generate(prompts, greedy)),
        ("sampled, cost comparison", lambda: peer(**how), lambda: engine.generate(prompts, sampled)),
    ):
        times = REPEATS[size]
        label = f"{family} {size} {engine.decoder.name} {name}"
        result = paired(label, repeated(a, times), repeated(b, times), pairs=pairs, work=BATCH * NEW * times, unit="tokens")
        print(line(result), flush=True)
        results.append(result | {"parameters": parameters, "path": engine.decoder.name})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--families", nargs="+", choices=("starcoder2", "llama"), default=["starcoder2", "llama"])
    parser.add_argument("--paths", nargs="+", choices=("auto", "native", "stock"), default=["auto", "stock"])
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator = configure_allocator()
    results = [
        result
        for path in options.paths
        for size in options.sizes
        for family in options.families
        for result in measure(family, size, path, options.pairs)
    ]
    if not options.no_record:
        config = {"batch": BATCH, "prompt": PROMPT, "new_tokens": NEW, "dtype": "float32", "sizes": SIZES, "allocator": allocator}
        print(record("sampling", results, config=config))


if __name__ == "__main__":
    main()
