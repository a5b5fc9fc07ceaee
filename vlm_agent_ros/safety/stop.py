"""The latched stop: it is set by anyone, and lifted only on request and only when its cause is gone."""

from __future__ import annotations

import time
from collections.abc import Callable


class StopLatch:
    """A stop that stays until it is reset.

    Args:
        cooldown_s: Time (s) after the last trigger during which a reset is refused, so that a stop can be noticed.
        clock: Monotonic time in seconds.

    Attributes:
        reason: What stopped first since the last reset; empty while not active.
    """

    def __init__(self, cooldown_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason = ''
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._triggered_at = 0.0
        self._causes: dict[str, Callable[[], bool]] = {}

    @property
    def active(self) -> bool:
        """True from ``trigger`` until a successful ``reset``."""
        return bool(self.reason)

    def trigger(self, reason: str, persists: Callable[[], bool] | None = None) -> None:
        """Stop. While already stopped, the first reason keeps being shown and the cooldown starts again.

        Args:
            reason: What happened, for the operator.
            persists: Tells whether the cause is still there; None for an event that is over at once.
        """
        self.reason = self.reason or reason or 'unknown reason'
        self._triggered_at = self._clock()
        if persists is not None:
            self._causes[reason] = persists

    def reset(self) -> tuple[bool, str]:
        """Lift the stop, unless a cause persists or the cooldown has not passed.

        Returns:
            Whether motion is allowed now, and a sentence for the operator.
        """
        if not self.active:
            return True, 'no stop was active'
        for reason, persists in self._causes.items():
            if persists():
                return False, f'the stop remains: {reason} still holds; remove the cause, then reset again'
        remaining = self._triggered_at + self._cooldown_s - self._clock()
        if remaining > 0.0:
            return False, f'the stop remains: reset again in {remaining:.1f} s'
        lifted, self.reason = self.reason, ''
        self._causes.clear()
        return True, f'the stop is lifted; its reason was: {lifted}'
