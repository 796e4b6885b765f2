"""Patience with a hub: what is worth another try, how long to wait, and what to say when it was not."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from phiforge.core.console import warn
from phiforge.core.errors import DataError

T = TypeVar("T")
TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; doubles from one to the other
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_WAY = ("ConnectError", "NameResolutionError", "OfflineModeIsEnabled")
_INTERRUPTED = (
    "TimeoutException ReadTimeout ConnectTimeout PoolTimeout RemoteProtocolError ReadError WriteError ProtocolError ChunkedEncodingError"
    " IncompleteRead ServerDisconnectedError ClientPayloadError ServerTimeoutError FSTimeoutError ConnectionError NetworkError"
).split()


def hub() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, each once."""
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or step.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error."""
    for step in _causes(error):
        status = getattr(getattr(step, "response", None), "status_code", None) or getattr(step, "status", None)
        if isinstance(status, int):
            return status
    return None


def _classes(error: BaseException) -> set[str]:
    return {base.__name__ for step in _causes(error) for base in type(step).__mro__}


def unreachable(error: BaseException) -> bool:
    """Whether there is no connection at all: nothing answers, or the machine is offline."""
    if status_of(error) is not None:
        return False
    return bool(_classes(error) & set(_NO_WAY)) or any(
        isinstance(step, ConnectionRefusedError | socket.gaierror)
        or (isinstance(step, OSError) and step.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH))
        for step in _causes(error)
    )


def transient(error: BaseException) -> bool:
    """Whether the same request may work later."""
    status = status_of(error)
    if status is not None:
        return status in _BUSY
    return unreachable(error) or isinstance(error, TimeoutError | ConnectionError) or bool(_classes(error) & set(_INTERRUPTED))


def wait_for(error: BaseException, tried: int) -> float:
    """Seconds until the next try: what the server asks for, else doubling."""
    for step in _causes(error):
        asked = getattr(getattr(step, "response", None), "headers", {}).get("Retry-After", "")
        if str(asked).isdigit():
            return min(float(asked), 2 * LONGEST_WAIT)
    return float(min(FIRST_WAIT * 2**tried, LONGEST_WAIT))


def said(error: BaseException) -> str:
    """The error in few words."""
    status = status_of(error)
    reason = {401: "it asks who you are", 403: "access is refused", 404: "not found", 429: "too many requests", 503: "service unavailable"}
    if status is not None:
        return f"{status}, {reason[status]}" if status in reason else f"status {status}"
    return (" ".join(str(error).split()) or type(error).__name__)[:120]


def patiently(call: Callable[[], T], what: str, *, at_once: bool = False) -> T:
    """The call's result, tried again while the hub is busy; `at_once`: a hub that can't be reached at all is not waited for.

    Raises what the call raises in the end.
    """
    for tried in range(TRIES):
        try:
            return call()
        except Exception as error:
            if tried == TRIES - 1 or not transient(error) or (at_once and unreachable(error)):
                raise
            pause(error, tried, what)
    raise AssertionError("unreachable")


def pause(error: BaseException, tried: int, what: str) -> None:
    """Wait before the next try, and say so."""
    seconds = wait_for(error, tried)
    warn(f"{what}: {said(error)}; trying again in {seconds:.0f} s ({tried + 1} of {TRIES - 1})")
    time.sleep(seconds)


def explained(error: BaseException, what: str) -> DataError:
    """The error as one line with the way out. A token never shows: only status and class of an error are told."""
    status = status_of(error)
    if "OfflineModeIsEnabled" in _classes(error):
        return DataError(f"{what}: HF_HUB_OFFLINE is set", fix="unset HF_HUB_OFFLINE, or give a local copy: source=FOLDER")
    if status in (401, 403):
        fix = "accept its terms on its page and set HF_TOKEN, or give a local copy: source=FOLDER"
        return DataError(f"{what}: {said(error)} ({hub()})", fix=fix)
    if status == 404 or _classes(error) & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        return DataError(f"{what}: not found on {hub()}", fix="check the name; a set that is private or gated needs HF_TOKEN")
    if status is not None and status in _BUSY:
        return DataError(f"{what}: {hub()} is busy ({said(error)}), tried {TRIES} times", fix="run it again later: what was read is kept")
    if unreachable(error) or transient(error):
        fix = "check the connection and run it again (what was read is kept), or give a local copy: source=FOLDER"
        return DataError(f"{what}: {hub()} could not be reached ({said(error)})", fix=fix)
    if "Dataset scripts are no longer supported" in str(error):
        fix = "choose a set of plain files (parquet, .jsonl)"
        return DataError(f"{what}: it needs a program of its own to load, which is never run", fix=fix)
    fix = "look at its page, or give a local copy: source=FOLDER"
    return DataError(f"{what}: could not be read ({type(error).__name__}: {said(error)})", fix=fix)
