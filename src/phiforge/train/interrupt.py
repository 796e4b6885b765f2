"""Ctrl-C and SIGTERM while training: finish the step, save, stop. A second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from phiforge.core import console


class Stop:
    """Whether someone asked to stop."""

    def __init__(self) -> None:
        self.asked: str | None = None

    def __bool__(self) -> bool:
        return self.asked is not None


@contextmanager
def graceful() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets the flag that is yielded; the second SIGINT raises KeyboardInterrupt."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.asked = signal.Signals(number).name
        console.warn("stopping after this step, with a checkpoint (Ctrl-C again stops at once, without)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
