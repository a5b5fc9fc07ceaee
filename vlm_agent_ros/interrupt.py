"""Ctrl-C that ends a program once, wherever it lands."""

from __future__ import annotations

import time
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
