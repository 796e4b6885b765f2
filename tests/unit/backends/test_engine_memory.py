"""A constant-state model in chat: a text read once, saved, and gone on from; the card and the refusals of such a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from phiforge.backends.open import open_backend
from phiforge.backends.scripted import Scripted
from phiforge.cli import chat
from phiforge.core.errors import ConfigError
from phiforge.data.chat import PLAIN
from phiforge.export.gguf import write_gguf
from phiforge.generate.config import GREEDY
from phiforge.models.thyme.modeling import ThymeLM
from tests.pico_export import pico_tokenizer

WORDS = GREEDY.model_copy(update={"max_new_tokens": 12})
BOOK = "The people of the north came down to the sea, and the sea was not kind to them. " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Thyme model; its weights are random, but large enough for what was read to matter."""
    path = tmp_path_factory.mktemp("thyme")
    tokenizer = pico_tokenizer(path, template=PLAIN.name)
    torch.manual_seed(4)
    model = ThymeLM(tokenizer.vocab_size, width=48)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    waiting = iter([*lines, "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(waiting))


def test_a_text_read_once_is_gone_on_from_in_another_session(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    book, kept = tmp_path / "a book.txt", tmp_path / "book.state"
    book.write_text(BOOK, encoding="utf-8")
    with open_backend(str(folder)) as first:
        expected = first.complete(BOOK + " Then", WORDS)
        without = first.complete(" Then", WORDS)
        typed(monkeypatch, "/help", f"/read {book}", f"/save {kept}", " Then")
        chat._talk(first, None, WORDS)
    said = capsys.readouterr()
    assert expected in said.out and expected != without
    assert "/load FILE" in said.err and "2,304 bytes" in said.err
    assert 2304 < kept.stat().st_size < 2304 + 400
    with open_backend(str(folder)) as second:
        typed(monkeypatch, f"/load {kept}", " Then", "/reset", " Then")
        chat._talk(second, None, WORDS)
    out = capsys.readouterr().out
    assert out.index(expected) < out.rindex(without)
    assert not second.memory


def test_what_goes_wrong_is_a_line_and_the_conversation_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    wrong = ["/save x", "/read", f"/read {tmp_path}/none", f"/read {tmp_path}/empty", f"/read {tmp_path}/binary", f"/load {tmp_path}/empty"]
    with open_backend(str(folder)) as backend:
        typed(monkeypatch, *wrong, "The people")
        chat._talk(backend, None, WORDS)
        assert backend.complete("The people", WORDS) in capsys.readouterr().out
        for line, words in zip(
            wrong, ("nothing has been read", "needs a file", "No such file", "is empty", "UTF-8", "no saved"), strict=True
        ):
            chat._memory(backend, line)
            assert words in (err := capsys.readouterr().err) and err.count("\n") <= 2
    chat._memory(Scripted(["yes"]), f"/load {tmp_path}/empty")
    assert "keeps no memory" in capsys.readouterr().err


def test_a_conversation_has_no_end_of_context(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_backend(str(folder)) as backend:
        assert backend.context_length is None
        assert backend.complete("word " * 3000, WORDS)
    assert "only the last" not in capsys.readouterr().err


def test_llama_cpp_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["model_type"] == "phiforge_thyme"
    with pytest.raises(ConfigError, match="a phiforge_thyme model can't go to llama") as caught:
        write_gguf(folder, tmp_path / "model.gguf", "F16", name="thyme")
    assert "\n" not in str(caught.value) and caught.value.fix
    assert not list(tmp_path.iterdir())
