"""llama.cpp in process: answers, streams, stays on loopback, stays quiet, closes, and says in one line why it can't."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from phiforge.core.errors import ConfigError, DataError, PhiforgeError
from phiforge.export.gguf import write_gguf
from phiforge.export.native import NativeUnavailable, find_fields, library
from phiforge.export.server import LlamaCpp, serve_forever
from tests.pico_export import pico_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = pico_folder("llama", tmp_path_factory.mktemp("model"), steps=20)
    return write_gguf(folder, folder / "m.gguf", "F32").path


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(model, threads=1) as running:
        yield running


def test_complete_and_stream_agree(server: LlamaCpp) -> None:
    whole = server.complete("The mill", max_tokens=12, temperature=0.0)
    assert whole.completion_tokens <= 12 and whole.prompt_tokens > 1
    assert "".join(server.stream("The mill", max_tokens=12, temperature=0.0)) == whole.text


def test_token_ids_as_a_prompt_and_a_seed(server: LlamaCpp) -> None:
    ids = server.tokenize("The mill")
    assert ids[0] == 1
    assert server.complete(ids, max_tokens=6, seed=5).text == server.complete("The mill", max_tokens=6, seed=5).text


def test_a_stream_can_be_left(server: LlamaCpp) -> None:
    for index, _ in enumerate(server.stream("The", max_tokens=400)):
        if index == 2:
            break
    assert server.complete("a", max_tokens=1).completion_tokens == 1  # the slot is free again


def test_chat_and_its_template(server: LlamaCpp) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert server.apply_template(messages).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert "".join(server.stream_chat(messages, max_tokens=4, temperature=0.0)) == server.chat(messages, max_tokens=4, temperature=0.0).text


def test_web_page_and_loopback(server: LlamaCpp) -> None:
    assert server.base_url.startswith("http://127.0.0.1:")
    request = urllib.request.Request(server.base_url + "/", headers={"Accept-Encoding": "gzip", "Origin": "http://elsewhere.example"})
    with urllib.request.urlopen(request, timeout=10) as page:
        assert page.status == 200 and "text/html" in page.headers["Content-Type"]
        assert page.headers["Access-Control-Allow-Origin"] != "*"
        assert "elsewhere" not in (page.headers["Access-Control-Allow-Origin"] or "")


def test_errors_are_one_line(server: LlamaCpp, model: Path, tmp_path: Path) -> None:
    with pytest.raises(PhiforgeError, match="context size"):
        server.complete("word " * 2000)
    with pytest.raises(PhiforgeError, match="context size"):
        list(server.stream("word " * 2000))
    with pytest.raises(ConfigError, match="temprature"):
        server.complete("a", temprature=1)
    with pytest.raises(ConfigError, match="can't be served"):
        LlamaCpp(model, port=int(server.base_url.rsplit(":", 1)[1]))
    (tmp_path / "not.gguf").write_bytes(b"GGUX" * 100)
    with pytest.raises(DataError, match="invalid magic") as error:
        LlamaCpp(tmp_path / "not.gguf")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        LlamaCpp(tmp_path / "missing.gguf")


def test_quiet_and_closed(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):  # a stop that comes at once must not be lost
        running = LlamaCpp(model, threads=1)
        port = int(running.base_url.rsplit(":", 1)[1])
        running.close()
    assert running.closed
    running.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    with pytest.raises(PhiforgeError, match="closed"):
        running.complete("a")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_control_c_stays_with_python(model: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    running = LlamaCpp(model, threads=1)
    assert signal.getsignal(signal.SIGINT) is before
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    serve_forever(running, wait=lambda: time.sleep(30))
    assert running.closed


def test_fields_are_found_by_their_defaults_or_not_at_all() -> None:
    defaults = bytes(library().llama_context_default_params().raw)
    fields = find_fields(defaults)
    assert fields.n_threads < fields.flash < fields.type_k
    for damaged in (bytes(len(defaults)), defaults[4:] + bytes(4), defaults.replace(b"\xff" * 16, b"\xfe" * 16)):
        with pytest.raises(NativeUnavailable):
            find_fields(damaged)
