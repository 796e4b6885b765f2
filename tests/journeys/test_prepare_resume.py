"""`data prepare` killed at any moment, and gone on with: the same bytes as if nothing had happened, with however many workers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phiforge.data.parts import Part
from phiforge.data.tokenizer_train import train_tokenizer

WORDS = "light table wind seven stone paper morning small river quick anchor barley copper dune ember fjord".split()
PROGRAM = [sys.executable, "-m", "phiforge.cli.main", "data", "prepare"]


def prose(seed: int, words: int) -> str:
    draw = random.Random(seed)
    sentences = [" ".join(draw.choices(WORDS, k=8)) + "." for _ in range(words // 8)]
    return "\n\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)) + "\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files with two that repeat others, 1,200 short documents with tabs and quotes, and a tokenizer."""
    folder = tmp_path_factory.mktemp("prepare")
    texts = folder / "texts"
    texts.mkdir()
    for i in range(40):
        (texts / f"{i:02}.txt").write_text(prose(i, 1200))
    (texts / "x.txt").write_text(prose(3, 1200))
    (texts / "y.txt").write_text(prose(4, 1200) + "\n\n")
    lines = [json.dumps({"text": f'{prose(1000 + i, 48)}\tsaid "{i}" \\ \x01'}) for i in range(1200)]
    (texts / "many.jsonl").write_text("\n".join(lines) + "\n")
    train_tokenizer([prose(i, 1200) for i in range(5)], 400).save(folder / "tok")
    return folder


def command(out: str, workers: int, *more: str) -> list[str]:
    keys = ["source=texts", "tokenizer=tok", "part_bytes=20000", "min_bytes=1000", "save_dropped=true", f"workers={workers}"]
    return [*PROGRAM, *keys, *more, "--out", out]


def prepare(place: Path, out: str, workers: int, *more: str) -> dict[str, str]:
    done = subprocess.run(command(out, workers, *more), cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (place / out / "checkpoints").exists()
    return contents(place / out)


def contents(out: Path) -> dict[str, str]:
    files = [file for name in ("documents", "packed") for file in sorted((out / name).rglob("*")) if file.is_file()]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in [*files, out / "data.json"]}


def kill_after(place: Path, out: str, workers: int, parts: int, *more: str) -> bool:
    """Kill -9 the run and its workers when so many parts are done; whether it was still running."""
    process = subprocess.Popen(command(out, workers, *more), cwd=place, stderr=subprocess.DEVNULL, start_new_session=True)
    folder = place / out / "checkpoints" / "checkpoint-parts"
    while process.poll() is None and len(list(folder.glob("*.json"))) < parts:
        time.sleep(0.002)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


@pytest.fixture(scope="module")
def expected(place: Path) -> dict[str, str]:
    return prepare(place, "whole", 1)


def test_killed_and_gone_on_with(place: Path, expected: dict[str, str]) -> None:
    assert {"packed/train/tokens.bin", "documents/dropped.jsonl.zst", "documents/validation.jsonl.zst", "data.json"} <= set(expected)
    assert kill_after(place, "killed", 1, 5)
    refused = subprocess.run(command("killed", 1), cwd=place, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    before = {path.name: path.stat().st_mtime_ns for path in (place / "killed/checkpoints/checkpoint-parts").glob("*.json")}
    assert len(before) >= 5
    assert prepare(place, "killed", 2, "--resume") == expected
    assert "were there from before" in (place / "killed" / "log.txt").read_text()


@pytest.mark.slow
def test_killed_at_many_moments(place: Path, expected: dict[str, str]) -> None:
    """Each time a little later, the last time when the parts are done and the result is written; one folder all the way."""
    parts = json.loads((place / "whole" / "data.json").read_text())["documents"] and 28
    for n, count in enumerate((1, 4, 11, 19, parts)):
        kill_after(place, "often", 1 + n % 2, count, *(["--resume"] if n else []))
    assert prepare(place, "often", 3, "--resume") == expected


def test_a_damaged_part_is_made_again(place: Path, expected: dict[str, str]) -> None:
    assert kill_after(place, "torn", 1, 4)
    folder = place / "torn/checkpoints/checkpoint-parts"
    keys = [path.stem for path in folder.glob("*.json")]
    (folder / f"{keys[0]}.train.zst").write_bytes(b"torn")
    (folder / f"{keys[1]}.npz").unlink()
    (folder / f"{keys[2]}.json").write_text("{")
    assert [Part.find(folder, key) is None for key in keys[:4]] == [True, True, True, False]
    assert prepare(place, "torn", 1, "--resume") == expected


def interrupt(place: Path, out: str, pattern: str) -> None:
    """Ctrl-C when a file like that is there: one line, no trace."""
    process = subprocess.Popen(command(out, 2), cwd=place, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not list((place / out).glob(pattern)):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said, said


def test_ctrl_c_is_clean_and_a_changed_file_is_read_again(place: Path) -> None:
    interrupt(place, "early", "checkpoints/checkpoint-parts")  # while the workers load
    interrupt(place, "stopped", "checkpoints/checkpoint-parts/*.json")
    assert not list((place / "stopped/checkpoints/checkpoint-parts").glob(".*")), "nothing half-made is left"
    (place / "texts" / "00.txt").write_text(prose(999, 1200))
    try:
        assert prepare(place, "stopped", 1, "--resume") == prepare(place, "fresh", 1)
    finally:
        (place / "texts" / "00.txt").write_text(prose(0, 1200))
