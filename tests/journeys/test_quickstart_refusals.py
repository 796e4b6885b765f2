"""`phiforge quickstart PATH` says in one line why it can't, and leaves nothing half-made."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phiforge.cli import main
from phiforge.core import hardware
from phiforge.core.lock import Lock
from phiforge.core.runs import Run
from phiforge.core.stages import Body, Stage

LONG = "".join(f"Paragraph {number} of a text that is long enough to begin with.\n\n" for number in range(2000))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to run in; of the stages only the first may begin."""
    monkeypatch.chdir(tmp_path)
    load = Stage.load

    def only_data(stage: Stage) -> Body:
        assert stage.name == "data prepare", f"{stage.name} began"
        return load(stage)

    monkeypatch.setattr(Stage, "load", only_data)


def refused(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    got = main._guarded(["quickstart", *words])
    said = capsys.readouterr()
    assert got == code, f"exit code {got}: {said.err}"
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: "), said.err
    return said.err


def nothing_made(folder: Path) -> bool:
    """No document file, no report, nothing under a temporary name; what was begun says that it failed."""
    left = [path for path in folder.rglob("*") if path.name.startswith((".partial-", ".all")) or path.name in ("documents", "data.json")]
    return not left and all(Run.open(path.parent).status == "failed" for path in folder.rglob("run.json"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, "text: no such file or folder"),
        ({}, "text: an empty folder"),
        (
            {"a.bin": b"\0", "b.jpg": b"\xff"},
            "text: none of its 2 files is text that can be read (1 unknown extension .bin; 1 unknown extension",
        ),
        (b"\x7fELF\x02\x01\x01\0" + bytes(range(256)) * 200, "text: not text (a zero byte at position 7)"),
        ({"a.txt": bytes(range(256)) * 200}, "text: no document could be read (1 binary (contains zero bytes))"),
        (b"x" * 200, "text: too little text: 200 bytes, 16,384 are needed"),
        (b"", "text: no document could be read (1 empty)"),
        (LONG.encode() + b"caf\xe9\n", f"text: not valid UTF-8 at byte {len(LONG) + 3:,} (0xe9)"),
        ({"a.txt": LONG.encode(), "b.txt": b"caf\xe9 au lait"}, "b.txt: not valid UTF-8 at byte 3 (0xe9)"),
        (LONG.encode("utf-16"), "text: UTF-16 text"),
    ],
    ids=[
        "missing",
        "empty folder",
        "folder of no texts",
        "binary",
        "folder of binaries",
        "200 bytes",
        "empty",
        "not UTF-8",
        "one not UTF-8",
        "UTF-16",
    ],
)
def test_texts(written: bytes | dict[str, bytes] | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(written, bytes):
        (tmp_path / "text").write_bytes(written)
    elif written is not None:
        (tmp_path / "text").mkdir()
        for name, data in written.items():
            (tmp_path / "text" / name).write_bytes(data)
    line = refused(["text"], 2, capsys)
    assert expected in line and " -> " in line
    assert nothing_made(tmp_path)
    if written is None or written == {}:
        assert not (tmp_path / "runs").exists()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory. Needs root and a kernel that lets it; skips elsewhere."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A text that nothing is wrong with, hard to compress."""
    words = random.Random(0)
    (tmp_path / "good.txt").write_text("\n\n".join(f"{words.getrandbits(2048):x}" for _ in range(1500)))
    return "good.txt"


def test_a_disk_without_room(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hardware, "free_disk", lambda path: 10_000_000)
    line = refused([text, "--out", "made"], 3, capsys)
    assert "needs 50 MB of disk and 10 MB is free" in line and "--out" in line
    assert not (tmp_path / "made").exists()


def test_a_small_disk(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "small", "size=8m") as small:
        assert "is free" in refused([text, "--out", str(small / "made")], 3, capsys)
        assert list(small.iterdir()) == []


@pytest.mark.parametrize("size", ["0", "4k", "16k", "32k", "128k", "500k"])
def test_a_disk_that_fills_up(
    size: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = "nr_blocks=1" if size == "0" else f"size={size}"
    with mounted(tmp_path / "small", pages) as small:
        monkeypatch.setattr(hardware, "free_disk", lambda path: 10**12)
        assert main._guarded(["quickstart", text, "--out", str(small / "made")]) == 3
        *before, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and ("disk is full" in line or "No space left" in line)
        assert not before or size == "500k"  # there the text was read, and said to be split, before the disk was full
        assert not [path for path in small.rglob("*") if path.name.startswith(".partial-")]


def test_a_read_only_place(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "fixed", "ro") as fixed:
        assert "no permission to write" in refused([text, "--out", str(fixed / "made")], 3, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_of_someone_else(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    assert "no permission to write" in refused([text, "--out", "theirs/made"], 3, capsys)


def test_an_immutable_place(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fixed").mkdir()
    try:
        done = subprocess.run(["chattr", "+i", str(tmp_path / "fixed")], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no chattr here")
    if done.returncode:
        pytest.skip("chattr is not permitted here")
    try:
        assert "no permission to write" in refused([text, "--out", "fixed/made"], 3, capsys)
    finally:
        subprocess.run(["chattr", "-i", str(tmp_path / "fixed")], check=True)


def test_permission_taken_away_on_the_way(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_folder(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", no_folder)
    assert "no permission to write there" in refused([text, "--out", "made"], 3, capsys)


def test_a_file_where_the_run_should_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("made").write_text("mine")
    assert "made: is a file" in refused([text, "--out", "made"], 3, capsys)
    assert Path("made").read_text() == "mine"


_HOLD = """
import sys, time
from pathlib import Path
from phiforge.core.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("held", ["made", "made/data"])
def test_a_second_process_in_the_same_folder(held: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / held).mkdir(parents=True)
    command = [sys.executable, "-c", _HOLD, str(tmp_path / held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        line = refused([text, "--out", "made"], 1, capsys)
        assert f"{held}: process {first.pid} is working in this folder" in line and "--out" in line
        first.communicate()


def test_the_whole_folder_is_held_while_a_recipe_runs(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two stages too: a second process must not slip in there."""
    met: list[str] = []

    def look(stage: Stage) -> Body:
        with pytest.raises(Exception, match="is working in this folder"), Lock(Path("made")):
            pass
        met.append(stage.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "load", look)
    assert main._guarded(["quickstart", text, "--out", "made"]) == 130
    assert met == ["data prepare"]
    with Lock(Path("made")):
        pass


def test_as_a_person_runs_it(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"x" * 200)
    command = [sys.executable, "-m", "phiforge.cli.main", "quickstart", "text"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1) and "too little text" in said.stderr
