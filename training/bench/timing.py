"""Timing on a machine that other work shares: interleaved repeats, medians, ratios of the same round."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median


def interleaved(contenders: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1
                ) -> dict[str, list[float]]:
    """Seconds of every contender in every round.

    Each round runs every contender once, in an order that rotates: what slows the machine for a while slows all of
    them, and none profits from its place.

    Args:
        contenders: What is timed, by name.
        repeats: Rounds that count.
        warm_up: Rounds before them that do not.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + repeats):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            started = time.perf_counter()
            contenders[name]()
            _finish()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _finish() -> None:
    """Wait for what a GPU still has to do: the next contender would be billed for it."""
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long the first takes: the median over rounds of the ratio within a round."""
    return median(a / b for a, b in zip(slow, fast, strict=True))
