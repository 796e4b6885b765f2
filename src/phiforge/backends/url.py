"""Any server that speaks OpenAI's protocol: llama.cpp's, Ollama's, a hosted one. Nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from phiforge.backends.base import BackendBase, Prompt
from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.generate.config import SamplingConfig

KEY_VARIABLES = ("PHIFORGE_API_KEY", "OPENAI_API_KEY")  # looked for in this order; never logged, never shown
TIMEOUT = 120.0  # seconds without a byte


class UrlBackend(BackendBase):
    """`http://host:port/v1`, with `#model` behind it where the server has several."""

    context_length = None
    chats = True

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{address}: not an address such as http://127.0.0.1:8080/v1")
        if parts.username or parts.password:
            raise ConfigError("a key does not belong in the address", fix=f"put it in {KEY_VARIABLES[0]}")
        base = parts._replace(fragment="", query="").geturl().rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._timeout = timeout
        # A proxy that the environment names can't see this machine's own loopback.
        direct = [urllib.request.ProxyHandler({})] if parts.hostname in ("localhost", "127.0.0.1", "::1") else []
        self._opener = urllib.request.build_opener(*direct)
        self._model = parts.fragment or self._only_model()
        self.name = f"{self._model} at {parts.hostname}"

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> Iterator[str]:
        """Continue text (`/completions`) or answer a conversation (`/chat/completions`), as it arrives."""
        body = {"model": self._model, "stream": True, **_options(sampling)}
        if isinstance(prompt, str):
            yield from self._events("/completions", {**body, "prompt": prompt})
        else:
            yield from self._events("/chat/completions", {**body, "messages": [dict(message) for message in prompt]})

    def _only_model(self) -> str:
        with self._open("/models", None) as response:
            try:
                found = [str(model["id"]) for model in json.loads(response.read())["data"]]
            except (ValueError, KeyError, TypeError, http.client.HTTPException):
                raise PhiforgeError(f"{self._base}: /models did not answer with a list of models", fix="name one: URL#MODEL") from None
        if len(found) != 1:
            shown = ", ".join(found[:8]) or "none"
            raise ConfigError(f"{self._base}: the server has {len(found)} models ({shown})", fix=f"name one: {self._base}#MODEL")
        return found[0]

    def _events(self, route: str, body: dict[str, Any]) -> Iterator[str]:
        ended = False
        with self._open(route, body) as response:
            try:
                for raw in response:
                    line = raw.decode("utf-8", "replace").strip()
                    if line == "data: [DONE]":
                        ended = True
                    elif line.startswith("data:"):
                        event = json.loads(line[5:])
                        yield from _text(event)
                        ended = ended or any(choice.get("finish_reason") for choice in event.get("choices") or [])
            except (TimeoutError, OSError, http.client.HTTPException) as error:
                raise PhiforgeError(f"{self._base}: the answer broke off: {error}") from None
            except ValueError:
                raise PhiforgeError(f"{self._base}: the server sent what is not JSON") from None
        if not ended:
            raise PhiforgeError(f"{self._base}: the answer broke off before its end", fix="ask again")

    def _open(self, route: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + route, data, {"Content-Type": "application/json"})
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")  # a redirect must not carry it to another host
        try:
            return self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000).decode("utf-8", "replace")
            raise PhiforgeError(f"{self._base}{route}: {error.code} {error.reason}: {_reason(said)}") from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise PhiforgeError(f"{self._base}: can't be reached: {reason}", fix="is the server running?") from None


def _text(event: dict[str, Any]) -> Iterator[str]:
    if "error" in event:
        raise PhiforgeError(f"the server says: {_reason(json.dumps(event))}")
    for choice in event.get("choices") or []:
        text = choice.get("text") or (choice.get("delta") or {}).get("content")
        if text:
            yield text


def _reason(said: str) -> str:
    try:
        error = json.loads(said).get("error", said)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
    except (ValueError, AttributeError):
        return said[:300]


def _options(sampling: SamplingConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    return {key: value for key, value in options.items() if value is not None}
