"""What a constant state is worth when generating: flat memory, flat time, and tokens per CPU-second beside an attention decoder of ours.

    python benchmarks/constant_state.py                     # 100,000 tokens, 8 pairs: about ten minutes
    python benchmarks/constant_state.py --tokens 20000 --pairs 2 --steps 64 --no-record

Flat: one row, sampled as `phiforge chat` does (temperature 0.7, top-k 40, top-p 0.9, repetition penalty 1.1), streamed through the engine
after a warm-up of 5,000 tokens, ids dropped as they are given away; then once more with `generate()`, which keeps them (4 bytes an id, part
of its figure). Resident memory is read from the system every 1,000 tokens. Time is CPU time of the process: the median thousand of the
last tenth against the median thousand of the first. A text of 100,000 tokens is read too, its memory above where it began.

Against attention: a Thyme and a llama of ours with as many parameters, both on the engine's fastest path (C, float32, one call for several
greedy steps), the llama's cache holding 4,096 tokens at the first step of every round; one row and eight. It is a comparison of cost: two
models with random weights say different things. Before that, both paths are checked against the models' own forward.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from harness import line, paired, record

from phiforge.core.hardware import configure_allocator
from phiforge.generate.config import SamplingConfig
from phiforge.generate.engine import Engine
from phiforge.generate.paths import choose_decoder
from phiforge.models import decoder
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.models.thyme.modeling import ThymeForCausalLM, ThymeLM

VOCABULARY, CONTEXT, WARM_UP, EACH = 10_000, 4096, 5000, 1000
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def flat(name: str, tokens: Iterator[int], count: int) -> dict[str, Any]:
    """Memory and time while `count` tokens come out of an iterator that has been warmed up."""
    gc.collect()
    memory, seconds = [resident()], []
    before = time.process_time()
    for index, _ in enumerate(tokens, start=1):
        if index % EACH == 0:
            now = time.process_time()
            seconds.append(now - before)
            memory.append(resident())
            before = time.process_time()
        if index == count:
            break
    tenth = max(len(seconds) // 10, 1)
    first, last = statistics.median(seconds[:tenth]), statistics.median(seconds[-tenth:])
    result = {
        "name": name,
        "tokens": count,
        "resident_bytes": memory[0],
        "resident_growth": max(memory) - memory[0],
        "resident_growth_at_end": memory[-1] - memory[0],
        "us_per_token": 1e6 * statistics.median(seconds) / EACH,
        "last_tenth_over_first": last / first,
        "flat_to_1_MB": max(memory) - memory[0] <= 1_000_000,
        "flat_to_5_percent": abs(last / first - 1) <= 0.05,
    }
    print(
        f"{name}: {count:,} tokens, resident {memory[0] / 1e6:.0f} MB + {result['resident_growth']:,} bytes at most"
        f" ({result['resident_growth_at_end']:+,} at the end); {result['us_per_token']:.0f} us of CPU a token,"
        f" last tenth / first {last / first:.3f}",
        flush=True,
    )
    return result


def streamed(engine: Engine, count: int) -> Iterator[int]:
    """Ids as the engine streams them; the first WARM_UP are gone already."""
    pieces = engine.stream([5], SamplingConfig(max_new_tokens=WARM_UP + count, seed=1))
    for _ in range(WARM_UP):
        next(pieces)
    return (token for piece in pieces for token in piece.ids)


def kept(engine: Engine, count: int) -> dict[str, Any]:
    """The same through generate(), which keeps what it made; the measuring sits in `on_token`."""
    memory: list[int] = []
    met = 0

    def see(row: int, token: int) -> None:
        nonlocal met
        met += 1
        if met >= WARM_UP and met % EACH == 0:
            memory.append(resident())

    (made,) = engine.generate([[5]], SamplingConfig(max_new_tokens=WARM_UP + count, seed=1), on_token=see)
    assert len(made.ids) == WARM_UP + count
    growth = max(memory) - memory[0]
    print(f"the same through generate(), ids kept: + {growth:,} bytes at most, of which {4 * count:,} are ids", flush=True)
    return {"name": "generate(), ids kept", "tokens": count, "resident_growth": growth, "ids_bytes": 4 * count}


def reading(engine: Engine, count: int) -> dict[str, Any]:
    """A text of `count` tokens read into a state."""
    text = prompt_of(count, seed=2)
    engine.read(text[:WARM_UP])
    gc.collect()
    before = resident()
    started = time.process_time()
    state = engine.read(text)
    seconds = time.process_time() - started
    result = {
        "name": "a text read into a state",
        "tokens": count,
        "state_bytes": state.nbytes,
        "resident_growth": resident() - before,
        "tokens_per_cpu_second": count / seconds,
    }
    print(
        f"a text of {count:,} tokens read into {state.nbytes:,} bytes: {count / seconds:,.0f} tokens per CPU-second,"
        f" resident {result['resident_growth']:+,} bytes",
        flush=True,
    )
    return result


def attention_like(model: ThymeForCausalLM, steps: int) -> Any:
    """A llama of ours with as many parameters."""
    size = str(sum(parameter.numel() for parameter in model.parameters()))
    spec = DecoderSpec(family="llama", size=size, vocab_size=VOCABULARY, context_length=CONTEXT + steps + 64)
    return decoder.build(resolve(spec), seed=0).eval()


def check(model: Any) -> None:
    """The path that is timed computes what the model's own forward does."""
    prompts = [prompt_of(70), prompt_of(33, seed=1)]
    with torch.inference_mode():
        fast = choose_decoder(model, torch.float32, "native").start(prompts, 8)[1]
        slow = choose_decoder(model, torch.float32, "reference").start(prompts, 8)[1]
    torch.testing.assert_close(fast, slow, atol=2e-4, rtol=1e-3)


def generating(model: Any, rows: int, steps: int) -> Callable[[], None]:
    """`steps` greedy tokens for each row, after CONTEXT tokens that are read here, once."""
    made: Any = choose_decoder(model, torch.float32, "native")
    with torch.inference_mode():
        session, logits = made.start([prompt_of(CONTEXT, seed=row) for row in range(rows)], steps + 16)
        first = logits.argmax(-1).clone()

    def run() -> None:
        if hasattr(session, "length"):
            session.length = CONTEXT  # the cache is written over from here: every round begins at this length
        with torch.inference_mode():
            session.greedy(first, steps)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=512, help="tokens of each row in one timed call")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator = configure_allocator()
    model = ThymeLM(VOCABULARY).eval()
    engine = Engine(model)
    assert engine.decoder.name == "native", "the C path is what is measured here, and it can't run on this machine"
    results: list[dict[str, Any]] = [
        flat("streamed, one row", streamed(engine, options.tokens), options.tokens),
        kept(engine, options.tokens),
        reading(engine, options.tokens),
    ]
    attention = attention_like(model, options.steps)
    sizes = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in (("thyme", model), ("attention", attention))}
    print(f"parameters: Thyme {sizes['thyme']:,}, attention {sizes['attention']:,}")
    for each in (model, attention):
        check(each)
    for rows in options.rows:
        a, b = (generating(each, rows, options.steps) for each in (attention, model))
        name = f"generating after {CONTEXT:,} tokens, {rows} row{'s' * (rows > 1)}: attention / Thyme, cost comparison"
        result = paired(name, a, b, pairs=options.pairs, work=rows * options.steps, unit="tokens")
        print(line(result), flush=True)
        results.append(result)
    if not options.no_record:
        config = {
            "tokens": options.tokens, "warm_up": WARM_UP, "context": CONTEXT, "steps": options.steps, "dtype": "float32",
            "parameters": sizes, "attention": attention.config.to_diff_dict(), "thyme": model.config.to_diff_dict(), "allocator": allocator,
        }  # fmt: skip
        print(record("constant_state", results, config=config))


if __name__ == "__main__":
    main()
