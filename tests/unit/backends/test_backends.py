"""Backends say the same through our engine, llama.cpp and a server; what goes wrong is one line; a key is never shown."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phiforge.backends.open import open_backend
from phiforge.backends.scripted import Scripted
from phiforge.backends.url import UrlBackend
from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.export.gguf import write_gguf
from phiforge.generate.config import GREEDY, SamplingConfig
from tests.pico_export import pico_folder

WORDS = GREEDY.model_copy(update={"max_new_tokens": 12})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico llama with our chat template, and its GGUF beside it."""
    folder = pico_folder("llama", tmp_path_factory.mktemp("pico"), steps=60)
    write_gguf(folder, folder / "model-F32.gguf", "F32", name="pico")
    return folder


@pytest.fixture
def engine_folder(model: Path, tmp_path: Path) -> Path:
    """The same model without the GGUF, so that our engine answers."""
    for file in model.iterdir():
        if file.suffix != ".gguf":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_engine_and_llamacpp_say_the_same(model: Path, engine_folder: Path) -> None:
    chat = [{"role": "user", "content": "Who are you?"}]
    with open_backend(str(engine_folder)) as ours, open_backend(str(model / "model-F32.gguf")) as theirs:
        assert ours.chats and theirs.chats
        assert ours.context_length == theirs.context_length == 544
        assert ours.complete("The people", WORDS) == theirs.complete("The people", WORDS) != ""
        assert ours.complete(chat, WORDS) == theirs.complete(chat, WORDS)
        assert "".join(ours.stream("The people", WORDS)) == ours.complete("The people", WORDS)


def test_a_server_says_the_same_through_its_address(model: Path) -> None:
    with open_backend(str(model)) as direct:
        address = direct._server.base_url
        through = open_backend(address)
        assert through.complete("The people", WORDS)
        with pytest.raises(PhiforgeError, match="404"):
            through._open("/nothing", {})


def test_a_text_beyond_the_context_loses_its_beginning_aloud(engine_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_backend(str(engine_folder)) as ours:
        assert ours.complete("word " * 3000, WORDS) is not None
    assert "only the last" in capsys.readouterr().err


def test_same_seed_same_words(engine_folder: Path) -> None:
    sampling = SamplingConfig(max_new_tokens=12, temperature=1.5, seed=4)
    with open_backend(str(engine_folder)) as ours:
        assert ours.complete("A", sampling) == ours.complete("A", sampling)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none", "does not exist"),
        (lambda folder: folder, "no model in it"),
        (lambda folder: (folder / "a.txt").write_text("x") and folder / "a.txt", "no .gguf"),
        (lambda folder: "http://", "not an address"),
        (lambda folder: "http://user:secret@127.0.0.1:9/v1", "does not belong in the address"),
    ],
)
def test_what_can_not_talk_is_refused_in_a_line(tmp_path: Path, make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_backend(str(make(tmp_path)))
    assert "secret" not in str(caught.value)


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(PhiforgeError, match="can't be reached"):
        open_backend("http://127.0.0.1:9/v1#m")._open("/models", None)


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks just enough of the protocol; what to answer stands on the server."""

    def do_POST(self) -> None:
        self.server.asked.append(
            (self.path, self.headers.get("Authorization"), json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        )
        status, body = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.answer = [], (200, b"")
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def test_events_are_read_as_they_come_and_the_key_is_sent_not_shown(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFORGE_API_KEY", "sk-secret")
    server.answer = (200, b": comment\n\n" + event("Grüße, ") + event("Welt") + b"data: [DONE]\n\n")
    backend = UrlBackend(f"http://127.0.0.1:{server.server_port}/v1#m")
    assert backend.complete([{"role": "user", "content": "hi"}], SamplingConfig(stop=("x",))) == "Grüße, Welt"
    path, key, body = server.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer sk-secret" and body["model"] == "m" and body["stop"] == ["x"]
    server.answer = (401, json.dumps({"error": {"message": "wrong key"}}).encode())
    with pytest.raises(PhiforgeError, match=r"401.*wrong key") as caught:
        backend.complete("x", WORDS)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"), [(b"data: {broken\n\n", "not JSON"), (b'data: {"error": {"message": "overloaded"}}\n\n', "overloaded")]
)
def test_a_server_that_misbehaves_is_one_line(server: Any, body: bytes, words: str) -> None:
    server.answer = (200, body)
    with pytest.raises(PhiforgeError, match=words):
        UrlBackend(f"http://127.0.0.1:{server.server_port}/v1#m").complete("x", WORDS)


def test_an_answer_that_breaks_off_and_a_list_that_is_none_are_one_line(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked for loopback

    def cut(self: Handler) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(event("half"))

    monkeypatch.setattr(Handler, "do_POST", cut)
    monkeypatch.setattr(Handler, "do_GET", cut, raising=False)
    address = f"http://127.0.0.1:{server.server_port}/v1"
    with pytest.raises(PhiforgeError, match="did not answer with a list"):
        UrlBackend(address)
    with pytest.raises(PhiforgeError, match="broke off before its end"):
        UrlBackend(f"{address}#m").complete("x", WORDS)


def test_a_redirect_does_not_get_the_key(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFORGE_API_KEY", "sk-secret")
    keys: list[tuple[str, str | None]] = []

    def answer(self: Handler) -> None:
        keys.append((self.path, self.headers.get("Authorization")))
        self.send_response(302 if self.path == "/v1/models" else 200)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "m"}]}')

    monkeypatch.setattr(Handler, "do_GET", answer, raising=False)
    assert UrlBackend(f"http://127.0.0.1:{server.server_port}").name == "m at 127.0.0.1"
    assert keys == [("/v1/models", "Bearer sk-secret"), ("/elsewhere", None)]


def test_a_script_ends() -> None:
    script = Scripted(["one two"])
    assert script.complete("a", WORDS) == "one two" and script.asked == ["a"]
    with pytest.raises(PhiforgeError, match="no answer left"):
        script.complete("b", WORDS)
