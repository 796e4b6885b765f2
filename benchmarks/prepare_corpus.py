"""A folder of books to packed shards, cleaning included, against `datasets.map` with `tokenizers` and the same merges.

    python benchmarks/prepare_corpus.py BOOKS [BOOKS ...] [--megabytes 60] [--pairs 8] [--vocab 8192] [--record]
    python benchmarks/prepare_corpus.py BOOKS [BOOKS ...] --megabytes 1000 --whole [--workers 2] [--record]

The text: the books below BOOKS (headers of Project Gutenberg taken off first), again and again, one word in fifty changed each time for
another of the same book. Ours is `data prepare tokenizer=... deduplicate=false`: reading, line ends, headers, licence hints, personal
data, hashes, split, compressed documents, tokens, fsync. The peer reads the same files with `load_dataset("text", sample_by="document")`
and maps `encode_batch` over them: no cleaning, no split, Arrow files of ids. The ids of every document are checked equal first.
Pairs are CPU seconds with one thread and one process; `--whole` is one run by the clock, with processes, and its peak of memory.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # before the libraries below read it
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import argparse
import hashlib
import importlib.metadata
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import line, paired, record

from phiforge.core import console
from phiforge.core.config import build
from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.data import prepare
from phiforge.data.config import DataPrepareConfig
from phiforge.data.filters import strip_gutenberg
from phiforge.data.sources import Intake, read_source
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_tokenizer

_WORD = re.compile(r"\b[a-z]{4,}\b")
_PIECE = 500_000  # characters of a document: an ordinary book


def make_text(books: list[Path], folder: Path, megabytes: float) -> list[str]:
    """Write the corpus; returns the books themselves, for the tokenizer to learn from."""
    originals = [strip_gutenberg(document.text)[0] for place in books for document in read_source(place, Intake())]
    draw, size, number = random.Random(0), 0, 0
    folder.mkdir()
    while size < megabytes * 1e6:
        text = originals[number % len(originals)]
        at = draw.randrange(max(1, len(text) - _PIECE))
        words = _WORD.findall(text[at : at + 20_000])
        piece = _WORD.sub(lambda m, words=words: draw.choice(words) if draw.random() < 0.02 else m.group(), text[at : at + _PIECE])
        encoded = piece.encode("utf-8")
        (folder / f"{number:06}.txt").write_bytes(encoded)
        size, number = size + len(encoded), number + 1
    return originals


def ours(texts: Path, tokenizer: Path, out: Path, workers: int) -> Path:
    """`data prepare`, as the command line runs it."""
    shutil.rmtree(out, ignore_errors=True)
    settings = {"source": str(texts), "deduplicate": False, "workers": workers}
    config = build(DataPrepareConfig, settings, where="benchmark")
    run = RunWriter(out, new_manifest("data prepare", config), config)
    run.begin()
    run.end("complete", metrics=prepare.run(config, {"tokenizer": Run.borrow(tokenizer)}, run))
    return out


def peers(texts: Path, tokenizer: Path, cache: Path) -> Any:
    """`datasets.map`."""
    import datasets
    import tokenizers

    datasets.disable_progress_bars()
    shutil.rmtree(cache, ignore_errors=True)
    model = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    files = sorted(str(path) for path in texts.iterdir())
    rows = datasets.load_dataset("text", data_files=files, sample_by="document", split="train", cache_dir=str(cache))
    return rows.map(
        lambda batch: {"ids": [found.ids for found in model.encode_batch(batch["text"], add_special_tokens=False)]},
        batched=True,
        batch_size=16,
    )


def check_same(out: Path, rows: Any, tokenizer: Tokenizer) -> int:
    """Every document has the ids that the peer gave it; how many documents."""
    theirs = {hashlib.sha256(row["text"].encode()).digest(): np.array(row["ids"], np.int64) for row in rows}
    seen = 0
    for side in ("train", "validation"):
        packed = prepare.packed_split(out, side, tokenizer)
        ends = [*packed.starts[1:], packed.n_tokens]
        for document, start, end in zip(prepare.read_split(out, side), packed.starts, ends, strict=True):
            mine = packed.tokens[start + 1 : end - 1].astype(np.int64)
            if not np.array_equal(mine, theirs[hashlib.sha256(document.text.encode()).digest()]):
                raise SystemExit(f"{document.source}: the ids differ: nothing to time")
            seen += 1
    return seen


def whole(texts: Path, folder: Path, out: Path, workers: int) -> dict[str, Any]:
    """One run by the clock."""
    size = sum(path.stat().st_size for path in texts.iterdir())
    began, cpu = time.perf_counter(), os.times()
    ours(texts, folder, out, workers)
    seconds, now = time.perf_counter() - began, os.times()
    spent = sum(now[:4]) - sum(cpu[:4])
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    print(f"{size / 1e6:,.0f} MB in {seconds:.1f} s with {workers} processes; {size / 1e6 / spent:.2f} MB per CPU second;"
          f" largest process {peak / 1e6:,.0f} MB")  # fmt: skip
    return {"name": "whole", "bytes": size, "seconds": seconds, "cpu_seconds": spent, "workers": workers, "peak_bytes": peak}


def main() -> None:
    """Make the text, check the ids, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    console.console.quiet = True
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        texts, folder, out, cache = place / "texts", place / "tokenizer", place / "out", place / "cache"
        tokenizer = train_tokenizer(make_text(chosen.books, texts, chosen.megabytes), chosen.vocab)
        tokenizer.save(folder)
        if chosen.whole:
            results = [whole(texts, folder, out, chosen.workers)]
        else:
            count = check_same(ours(texts, folder, out, 1), peers(texts, folder, cache), tokenizer)
            print(f"{count} documents, the same ids", file=sys.stderr)
            size = sum(path.stat().st_size for path in texts.iterdir()) / 1e6
            results = [
                paired(
                    f"corpus to packed shards, {tokenizer.vocab_size} ids",
                    lambda: peers(texts, folder, cache),
                    lambda: ours(texts, folder, out, 1),
                    pairs=chosen.pairs,
                    warm_up=0,  # both have just run
                    work=size,
                    unit="MB",
                )
            ]
            print(line(results[0]))
    if chosen.record:
        peer = f"datasets {importlib.metadata.version('datasets')}"
        config = {"megabytes": chosen.megabytes, "vocab": chosen.vocab, "peer": peer, "cleaning": "ours alone"}
        record("prepare_corpus" + ("_whole" if chosen.whole else ""), results, config=config)


if __name__ == "__main__":
    main()
