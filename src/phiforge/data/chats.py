"""Conversations from .jsonl and .json files (plain, .gz, .zst): `messages`, `conversations`, alpaca's and prompt/response records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiforge.core.errors import DataError
from phiforge.data.chat import ROLES, Message
from phiforge.data.reading import COMPRESSED, read_bytes, read_lines

MAX_LINE = 1 << 26
MAX_JSON = 1 << 30  # a .json list is read whole; larger sets come as .jsonl
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ANSWERS = ("output", "response", "completion", "answer")
_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, or instruction/input/output'


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and where it came from (file:line)."""

    messages: list[Message]
    source: str


def chat_files(source: Path) -> list[Path]:
    """The .jsonl and .json files at `source` (a file or a folder), by name. Raises DataError."""
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.is_file() and _kind(path) in (".jsonl", ".json"))
        if not found:
            raise DataError(f"{source}: no .jsonl or .json file in it", fix=_FORM)
        return found
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder", fix="check the path")
    if _kind(source) not in (".jsonl", ".json"):
        raise DataError(f"{source}: chats come as .jsonl or .json (also .gz, .zst)", fix=_FORM)
    return [source]


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix.lower()


def read_chats(source: Path) -> Iterator[Chat]:
    """The conversations at `source`. Raises DataError naming the file and the line (or the record of a .json list)."""
    for path in chat_files(source):
        for where, record in _records(path):
            yield Chat(to_messages(record, where), where.replace(f"{path.parent}/", "", 1))


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    if _kind(path) == ".jsonl":
        for number, line in read_lines(path, limit=MAX_LINE):
            body = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if body.strip():
                yield f"{path}, line {number}", _parse(body, f"{path}, line {number}")
        return
    whole = bytearray()
    for piece in read_bytes(path):
        whole += piece
        if len(whole) > MAX_JSON:
            raise DataError(f"{path}: more than {MAX_JSON:,} bytes in one JSON list", fix="write it as .jsonl, one object a line")
    records = _parse(bytes(whole).removeprefix(b"\xef\xbb\xbf"), str(path))
    if not isinstance(records, list):
        raise DataError(f"{path}: a list of conversations was expected, not a {type(records).__name__}", fix=_FORM)
    yield from ((f"{path}, record {number}", record) for number, record in enumerate(records, 1))


def _parse(body: bytes, where: str) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not valid UTF-8 at byte {error.start:,}", fix="convert the file to UTF-8") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({getattr(error, 'msg', type(error).__name__)})", fix=_FORM) from None


def to_messages(record: Any, where: str) -> list[Message]:
    """The messages of one record, whichever known shape it has. Raises DataError that begins with `where`."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: a {type(record).__name__}, not an object", fix=_FORM)
    if "messages" in record:
        return _turns(record["messages"], "role", "content", {role: role for role in ROLES}, where)
    if "conversations" in record:
        return _turns(record["conversations"], "from", "value", _SHAREGPT, where)
    question = next((record[key] for key in ("instruction", "prompt", "question") if key in record), None)
    answer = next((record[key] for key in _ANSWERS if key in record), None)
    extra = record.get("input") or ""
    if not all(isinstance(part, str) for part in (question, answer, extra)):
        keys = ", ".join(map(str, list(record)[:6])) or "no keys"
        raise DataError(f"{where}: neither messages nor instruction and output as strings (has: {keys[:80]})", fix=_FORM)
    asked = f"{question}\n\n{extra}" if extra.strip() else str(question)
    messages = [Message(role="user", content=_whole(asked, where)), Message(role="assistant", content=_whole(str(answer), where))]
    system = record.get("system")
    return [Message(role="system", content=system), *messages] if isinstance(system, str) and system else messages


def _turns(turns: Any, role_key: str, text_key: str, roles: dict[str, str], where: str) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: the conversation is no list of turns, or an empty one", fix=_FORM)
    messages = []
    for number, turn in enumerate(turns, 1):
        role = turn.get(role_key) if isinstance(turn, dict) else None
        text = turn.get(text_key) if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in roles:
            raise DataError(f"{where}: turn {number} has {role_key} {role!r}", fix=f"one of: {', '.join(roles)}")
        if not isinstance(text, str):
            raise DataError(f"{where}: turn {number} has no {text_key} of type string", fix=_FORM)
        messages.append(Message(role=roles[role], content=_whole(text, where)))
    return messages


def _whole(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: the text holds half of a character (a lone surrogate)", fix="repair it") from None
    return text
