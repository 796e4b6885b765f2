"""Writing a 400 MB model as GGUF against `cp && sync && sha256sum` of a file of the same size; private memory of the writer.

    python benchmarks/gguf_write.py [--pairs 8] [--megabytes 400] [--types F32,F16,BF16,Q8_0] [--record]

Each type writes a file of its own; the peer copies, syncs and hashes exactly that file. Ours converts, writes, syncs, renames and has
the sha256 when it is done. Wall time, interleaved, in one folder; Python's start-up is not counted (the gate is timed apart, by the stage).
The file is checked before its time counts: the hash against sha256sum, every tensor against its source. Private memory is the peak of a
fresh process's USS (Private_Clean + Private_Dirty of smaps_rollup), sampled every 5 ms while it writes. The model is a llama of 8 layers
with made-up weights in one safetensors file of float32.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from harness import line, paired, record

from phiforge.data.tokenizer_train import train_tokenizer
from phiforge.export import sample
from phiforge.export.contents import check_contents
from phiforge.export.gguf import write_gguf
from phiforge.export.layouts import LAYOUTS


def make_model(folder: Path, megabytes: int) -> None:
    """A llama of about `megabytes` of float32 weights."""
    tokenizer = train_tokenizer([sample.TOKENS_TEXT], 600)
    tokenizer.save(folder)
    layers, heads = 8, 16
    width = max(64, int((megabytes * 1e6 / 4 / (layers * 13)) ** 0.5) // 64 * 64)
    config = {
        "model_type": "llama", "vocab_size": tokenizer.vocab_size, "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    layout = LAYOUTS["llama"]
    dims = layout.dims(config)
    shapes = {}
    for rule in layout.tensors:
        if rule.required:
            for index in range(layers if "{i}" in rule.source else 1):
                shapes["model." + rule.source.format(i=index)] = tuple(dims[letter] for letter in rule.shape)
    write_safetensors(folder / "model.safetensors", shapes)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random float32 tensors, one at a time."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            stream.write((0.02 * generator.standard_normal(int(np.prod(shape)), np.float32)).tobytes())


def private_bytes() -> int:
    """USS of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(row.split()[1]) for row in lines if row.startswith(("Private_Clean:", "Private_Dirty:")))


def measure_memory(folder: Path, out: Path, kind: str) -> None:
    """Write once and print the peak USS in bytes. Run in a process of its own."""
    peak, done = [private_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], private_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    write_gguf(folder, out, kind)
    done.set()
    thread.join()
    print(json.dumps({"peak": peak[0], "torch": "torch" in sys.modules}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--types", default="F32,F16,BF16,Q8_0")
    parser.add_argument("--scratch", type=Path, default=None, help="folder on the disk to be measured")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--memory", nargs=3, metavar=("MODEL", "OUT", "TYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(Path(options.memory[0]), Path(options.memory[1]), options.memory[2])
        return
    results = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        make_model(folder, options.megabytes)
        for kind in options.types.split(","):
            results.append(one(folder, Path(scratch), kind, options.pairs))
            print(
                line(results[-1]), f"private memory {results[-1]['uss_bytes'] / 1e6:.0f} MB, file {results[-1]['file_bytes'] / 1e6:.0f} MB"
            )
    if options.record:
        record("gguf_write", results, config={"megabytes": options.megabytes, "types": options.types})


def one(folder: Path, scratch: Path, kind: str, pairs: int) -> dict[str, object]:
    """Check, then time one type."""
    out, copy = scratch / f"model-{kind}.gguf", scratch / "copy.gguf"
    written = write_gguf(folder, out, kind)
    digest = subprocess.run(["sha256sum", str(out)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest == written.sha256, "the hash that was computed while writing is not the file's"
    failed = [check.line() for check in check_contents(folder, out, LAYOUTS["llama"]) if not check.passed]
    assert not failed, failed
    command = [sys.executable, __file__, "--memory", str(folder), str(out), kind]
    memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert not memory["torch"], "writing imported torch"

    def peer() -> None:
        subprocess.run(["cp", str(out), str(copy)], check=True)
        subprocess.run(["sync"], check=True)
        subprocess.run(["sha256sum", str(copy)], check=True, stdout=subprocess.DEVNULL)

    ours = scratch / "again.gguf"
    result = paired(f"write {kind}", peer, lambda: write_gguf(folder, ours, kind), pairs=pairs, clock=time.perf_counter)
    for path in (copy, ours):
        path.unlink()
    return {**result, "uss_bytes": memory["peak"], "file_bytes": written.nbytes, "times_the_peer": 1 / float(result["ratio"])}


if __name__ == "__main__":
    main()
