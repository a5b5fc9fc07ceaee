"""A fault with hysteresis, so that one bad or one good observation among others neither stops nor releases a robot."""

from __future__ import annotations


class Fault:
    """Something that may be wrong, observed again and again.

    Args:
        trigger_count: Observations in a row that have to show it before it counts as present.
        release_s: Time (s) for which every observation has to be good before it counts as gone.
    """

    def __init__(self, trigger_count: int, release_s: float) -> None:
        self.present = False
        self._trigger_count, self._release_s = trigger_count, release_s
        self._bad_in_a_row = 0
        self._good_since: float | None = None

    def observe(self, bad: bool, now_s: float) -> bool:
        """Take an observation in, made at a monotonic time (s); whether the fault counts as present."""
        if bad:
            self._bad_in_a_row += 1
            self._good_since = None
            self.present = self.present or self._bad_in_a_row >= self._trigger_count
            return self.present
        self._bad_in_a_row = 0
        if self._good_since is None:
            self._good_since = now_s
        self.present = self.present and now_s - self._good_since < self._release_s
        return self.present


class Pulse:
    """When something was last new: a message that repeats the stamp of the one before shows no life.

    Ages are monotonic times of arrival, so that a jump of the wall clock, which stamps follow, is no fault.
    """

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._arrived_s: float | None = None

    @property
    def seen(self) -> bool:
        """At least one message has come."""
        return self._arrived_s is not None

    def beat(self, stamp_ns: int, now_s: float) -> None:
        """A message has come."""
        if stamp_ns != self._stamp_ns:
            self._stamp_ns, self._arrived_s = stamp_ns, now_s

    def age_s(self, now_s: float) -> float:
        """Time (s) since the newest message; infinite where none has come."""
        return float('inf') if self._arrived_s is None else now_s - self._arrived_s
