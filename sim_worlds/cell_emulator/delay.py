"""Things that take their time: commands on their way to the robot, images on their way from the camera."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

import numpy as np

T = TypeVar('T')


class DelayLine(Generic[T]):
    """Gives back what was put in, a latency later; jitter and extra delay may change the order.

    Args:
        latency_s: Shortest delay, s.
        jitter_s: Largest delay that is added at random, s.
        rng: Source of randomness.
    """

    def __init__(self, latency_s: float, jitter_s: float, rng: np.random.Generator) -> None:
        self._latency_s, self._jitter_s, self._rng = latency_s, jitter_s, rng
        self._waiting: list[tuple[float, int, T]] = []
        self._count = itertools.count()  # of two that are due together the first comes first

    def push(self, item: T, now_s: float, extra_s: float = 0.0) -> None:
        """Put something in at a time (s), to be delayed by some more."""
        due_s = now_s + self._latency_s + self._jitter_s * self._rng.random() + extra_s
        heapq.heappush(self._waiting, (due_s, next(self._count), item))

    def due(self, now_s: float) -> list[T]:
        """Take out all that is due."""
        items = []
        while self._waiting and self._waiting[0][0] <= now_s:
            items.append(heapq.heappop(self._waiting)[2])
        return items
