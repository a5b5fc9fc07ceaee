"""The latched stop: it is set by anyone, and lifted only on request and only when its cause is gone."""

from __future__ import annotations

import time
from collections.abc import Callable


def _is_over() -> bool:
    """For an event that is over as soon as it has happened."""
    return False


class StopLatch:
    """A stop that stays until it is reset.

    Args:
        cooldown_s: Time (s) after the last trigger during which a reset is refused, so that a stop can be noticed.
        clock: Monotonic time in seconds.
    """

    def __init__(self, cooldown_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._triggered_at = 0.0
        self._causes: dict[str, tuple[str, Callable[[], bool]]] = {}

    @property
    def active(self) -> bool:
        """True from ``trigger`` until a successful ``reset``."""
        return bool(self._causes)

    @property
    def causes(self) -> dict[str, str]:
        """Everything that has stopped the robot since the last reset, the first one first, each with its sentence."""
        return {cause: message for cause, (message, _) in self._causes.items()}

    @property
    def reason(self) -> str:
        """What stopped first since the last reset; empty while not active."""
        return next(iter(self.causes.values()), '')

    def trigger(self, cause: str, persists: Callable[[], bool] = _is_over, message: str = '') -> None:
        """Stop. While already stopped, the first reason keeps being shown and the cooldown starts again.

        Args:
            cause: What happened, in a word.
            persists: Tells whether the cause is still there; by default an event that is over at once.
            message: What happened, in a sentence for the operator; by default the cause.
        """
        cause = cause or 'unknown reason'
        self._causes[cause] = (message or cause, persists)
        self._triggered_at = self._clock()

    def reset(self) -> tuple[bool, str]:
        """Lift the stop, unless a cause persists or the cooldown has not passed.

        Returns:
            Whether motion is allowed now, and a sentence for the operator.
        """
        if not self.active:
            return True, 'no stop was active'
        for message, persists in self._causes.values():
            if persists():
                return False, f'the stop remains: {message} still holds; remove the cause, then reset again'
        remaining = self._triggered_at + self._cooldown_s - self._clock()
        if remaining > 0.0:
            return False, f'the stop remains: reset again in {remaining:.1f} s'
        lifted = self.reason
        self._causes.clear()
        return True, f'the stop is lifted; its reason was: {lifted}'
