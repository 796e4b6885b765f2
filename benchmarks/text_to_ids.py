"""Text to ids and BPE training against `tokenizers`, on the default corpus, one thread.

    python benchmarks/text_to_ids.py [--pairs 8] [--megabytes 4] [--vocab 8192] [--record]

Encoding: our Tokenizer (tiktoken with our merges) against `tokenizers` with the same tokenizer.json; ids are checked equal first.
Training: rustbpe against `tokenizers`' BpeTrainer, same texts, pattern and size; the pieces are checked to be the same set but for ties at
the last frequency. Packing: documents to a memory-mapped shard, for its rate (a cost, not a comparison). CPU seconds of the process.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # before the libraries below read it
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import line, paired, record
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Reference

from phiforge.data import pretokenizers
from phiforge.data.document import Document
from phiforge.data.pack import pack
from phiforge.data.python_corpus import read_python
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_pieces, train_tokenizer

PRE = "llama-bpe"
PATTERN = pretokenizers.PATTERNS[PRE][0]


def reference_pieces(texts: list[str], vocab_size: int) -> set[bytes]:
    """What `tokenizers` learns."""
    reference = Reference(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    reference.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pretokenizers.byte_alphabet()
    reference.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    byte_of = {character: byte for byte, character in enumerate(alphabet)}
    merges = json.loads(reference.to_str())["model"]["merges"]
    return {bytes(byte_of[c] for c in left + right) for left, right in merges}


def encoding(texts: list[str], tokenizer: Tokenizer, pairs: int) -> dict[str, Any]:
    """Our ids against the reference's."""
    for text in texts:
        if (tokenizer.encode(text) != tokenizer.encode_reference(text)).any():
            raise SystemExit("the ids differ: nothing to time")
    return paired(
        f"text to ids, {tokenizer.vocab_size} ids",
        lambda: [tokenizer.encode_reference(text) for text in texts],
        lambda: [tokenizer.encode(text) for text in texts],
        pairs=pairs,
        work=sum(len(text.encode()) for text in texts) / 1e6,
        unit="MB",
    )


def training(texts: list[str], vocab_size: int, pairs: int) -> dict[str, Any]:
    """Our trainer against the reference's."""
    ours = set(train_pieces(texts, vocab_size, PATTERN)[256:])
    apart = len(ours ^ reference_pieces(texts, vocab_size))
    if apart > 8:
        raise SystemExit(f"{apart} pieces differ: nothing to time")
    return paired(
        f"BPE training, {vocab_size} pieces ({apart} differ)",
        lambda: reference_pieces(texts, vocab_size),
        lambda: train_pieces(texts, vocab_size, PATTERN),
        pairs=pairs,
        work=sum(len(text.encode()) for text in texts) / 1e6,
        unit="MB",
    )


def main() -> None:
    """Run both and print; `--record` keeps the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    texts, size = [], 0
    for document in read_python():
        texts.append(document.text)
        size += len(document.text)
        if size >= chosen.megabytes * 1e6:
            break
    tokenizer = train_tokenizer(texts, chosen.vocab, pre_tokenizer=PRE)
    results = [encoding(texts, tokenizer, chosen.pairs), training(texts, chosen.vocab, chosen.pairs)]
    for result in results:
        print(line(result))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        pack([Document.of(text, "benchmark") for text in texts], tokenizer, Path(folder))
        print(f"packing: {size / 1e6 / (time.process_time() - started):.1f} MB per CPU second, hashing and writing included")
    if chosen.record:
        record("text_to_ids", results, config={"megabytes": chosen.megabytes, "vocab": chosen.vocab, "pre_tokenizer": PRE})


if __name__ == "__main__":
    main()
