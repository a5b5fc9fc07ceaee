"""Whether the robot's driver could tell of a protective stop: a driver that is gone says nothing about it either."""

from __future__ import annotations

from ..topics import ProtectiveStop


class DriverWatch:
    """Judges the silence of a driver.

    Args:
        stop: Its topic; None where the cell file names none, so that nothing is awaited.
    """

    def __init__(self, stop: ProtectiveStop | None) -> None:
        self._stop = stop
        self._heard_s: float | None = None
        self._publishers = 0

    def heard(self, now_s: float) -> None:
        """The driver has said something, at a monotonic time (s)."""
        self._heard_s = now_s

    def publishers(self, count: int) -> None:
        """So many publishers of the topic exist now."""
        self._publishers = count

    def silence(self, now_s: float) -> str:
        """Why its word cannot be relied on at a monotonic time (s), in a sentence; empty while it can."""
        stop = self._stop
        if stop is None:
            return ''
        if not stop.max_age_s:
            return '' if self._publishers else f'nobody publishes {stop.topic}, where the driver of the robot tells ' \
                'of a protective stop: start the driver'
        if self._heard_s is not None and now_s - self._heard_s <= stop.max_age_s:
            return ''
        return f'the driver of the robot has said nothing on {stop.topic} for more than {stop.max_age_s:g} s: see ' \
            'that it runs'
