"""Ctrl-C that ends a program once, wherever it lands, and never in the middle of what must be whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_INSIST_S = 5.0


class Interrupt:
    """Signal handler that raises KeyboardInterrupt at the first signal.

    Ctrl-C reaches a launched process twice, from the terminal and from launch; the second must not disturb what is
    saved and closed after the first. Who repeats it later than that takes means it.

    Attributes:
        received: A signal has come. It may have landed in compiled code that made an error of its own of it.
        closing: The program is ending anyway: nothing is raised any more.
    """

    def __init__(self) -> None:
        self.received, self.closing = False, False
        self._ignored_until = -float('inf')

    def __call__(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        now = time.monotonic()
        ignored = self.closing or now < self._ignored_until
        if not self.received:
            self.received, self._ignored_until = True, now + _INSIST_S
        if not ignored:
            raise KeyboardInterrupt


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is done; the handlers from before get the first that came."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
