"""llama.cpp in this process, through xllamacpp: a GGUF file becomes a server with an OpenAI-style interface and a web page.

Bound to loopback unless told otherwise, on a free port unless told otherwise, and quiet: llama.cpp's messages are kept, not
printed. `LlamaCpp` also answers directly, without the detour over HTTP.
"""

from __future__ import annotations

import json
import queue
import signal
import socket
import threading
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from phiforge.core.errors import ConfigError, DataError, PhiforgeError
from phiforge.core.hardware import cpu_count
from phiforge.export import native

LOOPBACK = "127.0.0.1"
# What a Modelfile of ours and `phiforge chat` use unless told otherwise.
SAMPLING: dict[str, float] = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1}
CACHE_RAM_MIB = 256  # of prompts seen before; llama.cpp's own default is 8 GiB

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Completion:
    """What came back. `finish_reason` is "stop" (the model ended or a stop string came) or "length"."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    raw: dict[str, Any]


class LlamaCpp:
    """A GGUF file, loaded and served until `close()`. Use as a context manager.

    `host` other than loopback opens the server to the network. `full_precision` keeps the cache in float32 and flash attention
    off, as the parity gate needs. Raises DataError when the file can't be loaded, ConfigError when the port is taken.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        context_length: int = 0,
        threads: int | None = None,
        full_precision: bool = False,
        web_page: bool = True,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file", fix="`phiforge export gguf RUN` writes one")
        _check_port(host, port)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        server = _start(self.path, _parameters(self.path, host, port, context_length, threads, full_precision, web_page))
        _restore(handlers)
        self._holder = [server]
        self.base_url: str = _reachable(server.listening_address, host)
        # Its loop starts after the constructor returns, and a stop that comes before that is lost (the join would hang for good);
        # this question is answered by the loop itself.
        self.get("/slots")
        self._finalizer = weakref.finalize(self, self._holder.clear)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._holder

    def close(self) -> None:
        """Stop the server and free the model; returns when its thread has ended."""
        self._finalizer()

    # ---- direct answers

    def complete(self, prompt: str | Sequence[int], **options: Any) -> Completion:
        """Continue `prompt` (text, or token ids). Options: max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop."""
        return self._answer("handle_completions", {"prompt": _plain(prompt)}, options)

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[str]:
        """As `complete`, piece by piece as it is made. Leaving the loop early stops the generation."""
        return self._stream("handle_completions", {"prompt": _plain(prompt)}, options)

    def chat(self, messages: Messages, **options: Any) -> Completion:
        """Answer a conversation through the file's chat template."""
        return self._answer("handle_chat_completions", {"messages": list(messages)}, options)

    def stream_chat(self, messages: Messages, **options: Any) -> Iterator[str]:
        """As `chat`, piece by piece."""
        return self._stream("handle_chat_completions", {"messages": list(messages)}, options)

    def apply_template(self, messages: Messages) -> str:
        """The conversation as llama.cpp renders it, ready for the assistant's turn."""
        return str(self.post("/apply-template", {"messages": list(messages)})["prompt"])

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids as the server makes them from a prompt."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return [int(token) for token in self.post("/tokenize", body)["tokens"]]

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request to the server over HTTP."""
        request = urllib.request.Request(self.base_url + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            data: dict[str, Any] = json.loads(response.read())
        return data

    def get(self, route: str) -> dict[str, Any]:
        """What the server tells about itself, over HTTP: `/v1/models`, `/props`, `/health`."""
        with urllib.request.urlopen(self.base_url + route, timeout=60) as response:
            data: dict[str, Any] = json.loads(response.read())
        return data

    # ---- inside

    def _server(self) -> Any:
        if not self._holder:
            raise PhiforgeError(f"the server of {self.path} is closed")
        return self._holder[0]

    def _answer(self, method: str, request: dict[str, Any], options: dict[str, Any]) -> Completion:
        reply = _checked(getattr(self._server(), method)({**request, **_options(options)}))
        choice, usage = reply["choices"][0], reply.get("usage", {})
        text = choice.get("text") if "text" in choice else choice["message"].get("content")
        return Completion(
            text or "", choice.get("finish_reason") or "", usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), reply
        )

    def _stream(self, method: str, request: dict[str, Any], options: dict[str, Any]) -> Iterator[str]:
        """The server calls back from its own loop; a thread turns that into an iterator that can be left at any time."""
        pieces: queue.Queue[str | BaseException | None] = queue.Queue()
        left = threading.Event()
        function = getattr(self._server(), method)

        def take(chunk: dict[str, Any]) -> bool:
            try:
                for choice in _checked(chunk).get("choices", []):
                    pieces.put(choice.get("text") or choice.get("delta", {}).get("content") or "")
            except PhiforgeError as error:
                pieces.put(error)
                return True
            return left.is_set()

        def run() -> None:
            try:
                function({**request, **_options(options), "stream": True}, take)
                pieces.put(None)
            except BaseException as error:  # carried to whoever reads
                pieces.put(error)

        thread = threading.Thread(target=run, name="llama-stream", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                if piece:
                    yield piece
        finally:
            left.set()
            thread.join()


def _parameters(path: Path, host: str, port: int, context_length: int, threads: int | None, full_precision: bool, web_page: bool) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames, params.port = [host], port
    params.n_ctx = context_length  # 0: the model's own
    params.fit_params = False  # it would enlarge a small model's context to 4096
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or cpu_count()
    params.warmup = False
    params.verbosity = -1
    params.cache_ram_mib = CACHE_RAM_MIB
    params.ui = web_page
    if host in (LOOPBACK, "localhost", "::1"):
        # llama.cpp allows every web page to read its answers; a page from elsewhere has no business with a local model
        params.cors_origins = f"http://{host}"
    if full_precision:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def _start(path: Path, params: Any) -> Any:
    import xllamacpp

    native.silence()
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise DataError(f"{path}: llama.cpp can't load it{_why(path)}", fix="export it again") from None
    finally:
        native.silence()  # the server sets its own printer


def _why(path: Path) -> str:
    """The server keeps its reasons to itself; loading the file once more through the C interface tells them."""
    try:
        native.NativeModel(path, window=8).close()
    except PhiforgeError as error:
        return f" ({error.what})"
    except native.NativeUnavailable:
        pass
    return ""


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """xllamacpp takes over Ctrl-C and SIGTERM for the whole process; Python gets them back."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: a port is 1 to 65535, or 0 for any free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} can't be served: {error.strerror or error}", fix="choose another --port; 0 is any free one"
            ) from None


def _reachable(address: str, host: str) -> str:
    return address.replace("0.0.0.0", LOOPBACK) if host == "0.0.0.0" else address


def _plain(prompt: str | Sequence[int]) -> str | list[int]:
    return prompt if isinstance(prompt, str) else [int(token) for token in prompt]


def _options(options: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in options.items() if value is not None}
    if unknown := set(given) - {
        "max_tokens",
        "min_p",
        "seed",
        "stop",
        "n_probs",
        "cache_prompt",
        "logit_bias",
        "json_schema",
        "grammar",
        *SAMPLING,
    }:
        raise ConfigError(f"unknown sampling option {sorted(unknown)[0]!r}")
    return {"max_tokens": 128, "min_p": 0.0, **SAMPLING, **given}


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    error = reply.get("error") if isinstance(reply, dict) else None
    if error is None:
        return reply
    raise PhiforgeError(f"llama.cpp refused the request: {error.get('message', error) if isinstance(error, dict) else error}")


def serve_forever(server: LlamaCpp, wait: Callable[[], Any] | None = None) -> None:
    """Keep serving until Ctrl-C or SIGTERM, then close."""
    stop = threading.Event()
    before = (
        signal.signal(signal.SIGTERM, lambda number, frame: stop.set()) if threading.current_thread() is threading.main_thread() else None
    )
    try:
        (wait or stop.wait)()
    except KeyboardInterrupt:
        pass
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        server.close()
