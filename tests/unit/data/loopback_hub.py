"""A hub on the loopback: as much of the Hugging Face hub's interface as `datasets` and `huggingface_hub` ask for, with faults to order."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One set, `me/books`, out of a folder. busy: pattern of paths -> how often they answer 503; cut: the same for breaking off."""

    root: Path
    busy: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    address: str = ""

    def due(self, faults: dict[str, int], path: str) -> bool:
        """Whether a fault is due at this path; counts it."""
        for pattern, left in faults.items():
            if left and re.search(pattern, path):
                faults[pattern] -= 1
                return True
        return False

    def entry(self, path: Path) -> dict[str, Any]:
        """What the hub tells of a file or folder."""
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `asked`."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self.hub.due(self.hub.busy, path):
            self.answer(503, b"busy", Retry_After="0")
        elif found := re.fullmatch(r"/api/datasets/me/books(?:/(revision|tree|paths-info)/[^/]+(?:/(.*))?)?", path):
            self.about(found[1] or "revision", found[2] or "", body)
        elif found := re.fullmatch(r"/datasets/me/books/resolve/[^/]+/(.*)", path):
            self.file(self.hub.root / found[1])
        else:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_POST = do_GET

    def about(self, what: str, below: str, body: bytes) -> None:
        """The set's description, a folder's listing, or what is known of some paths."""
        root, entry = self.hub.root, self.hub.entry
        if what == "revision":
            files = [entry(path) for path in sorted(root.rglob("*")) if path.is_file()]
            siblings = [{"rfilename": file["path"], "size": file["size"]} for file in files]
            data: Any = {"id": "me/books", "sha": SHA, "private": False, "tags": ["license:cc0-1.0"], "siblings": siblings}
        elif what == "tree":
            if not (root / below).is_dir():
                return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
            deep = parse_qs(urlparse(self.path).query.lower()).get("recursive") == ["true"]
            data = [entry(path) for path in sorted((root / below).rglob("*") if deep else (root / below).iterdir())]
        else:
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            data = [entry(root / path) for path in wanted if (root / path).exists()]
        self.answer(200, json.dumps(data).encode(), Content_Type="application/json")

    def file(self, path: Path) -> None:
        """A file, whole or a range of it; or half of that, and the connection breaks."""
        if not path.is_file():
            return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": SHA, "Accept_Ranges": "bytes"}
        asked, status = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")), 200
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers["Content_Range"], status, whole = f"bytes {first}-{last}/{len(data)}", 206, data
            data = whole[first : last + 1]
        if self.command == "GET" and self.hub.due(self.hub.cut, path.name):
            self.send_response(status)
            for name, value in {**headers, "Content_Length": str(len(data))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.answer(status, data, **headers)


@contextmanager
def serving(root: Path, **faults: dict[str, int]) -> Iterator[Hub]:
    """A hub with the folder as its one set, while the block runs."""
    hub = Hub(root, **faults)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
