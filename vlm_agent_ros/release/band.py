"""The band in which a checkpoint has to stay: the section ``rollback`` of the cell file, and how it is judged.

A share, such as that of the episodes which succeed, is judged by a sequential test (``evidence``). It may look after
every episode, and still condemns a checkpoint that keeps what is declared with a probability of ``false_alarm`` at most
before the window is full: three failures by bad luck are no reason to roll back, and nothing but failures is soon one.
Later the window slides, so that a cell that changes is seen too; there the bound holds for each window by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import bounded

_LATENCIES = 20  # a quantile of fewer says nothing
_GRID = 2000


@dataclass(frozen=True)
class Rollback:
    """When the agent goes back to the checkpoint before; what is left out is not judged."""

    min_success: float | None = bounded(None, low=0.01, high=1.0, help='share of the episodes that has to succeed')
    max_gate_hits: float | None = bounded(None, low=0.0, high=0.99, help='share of the decisions whose motion may be '
                                          'refused or clamped by the gate, or not be plannable')
    max_latency_ms: float | None = bounded(None, low=1.0, help='95th percentile of the time of a decision at most, ms')
    episodes: int = bounded(30, low=5, high=1000, help='newest episodes that are judged')
    decisions: int = bounded(100, low=_LATENCIES, high=10_000, help='newest decisions that are judged')
    false_alarm: float = bounded(0.01, low=1e-6, high=0.2, help='chance that a checkpoint which keeps a declared share '
                                 'is rolled back for it before the window is full')

    @property
    def judges(self) -> bool:
        """Whether anything is declared."""
        return (self.min_success, self.max_gate_hits, self.max_latency_ms) != (None, None, None)


@dataclass(frozen=True)
class Breach:
    """What left the band.

    Attributes:
        limit: Key of the cell file's section.
        reason: One sentence with the figures.
    """

    limit: str
    reason: str


class Band:
    """What is known of the checkpoint that decides, and whether it is within the band.

    Args:
        limits: Of the cell file.
    """

    def __init__(self, limits: Rollback) -> None:
        self.limits = limits
        self._episodes: deque[bool] = deque(maxlen=limits.episodes)
        self._clean: deque[bool] = deque(maxlen=limits.decisions)
        self._latencies: deque[float] = deque(maxlen=limits.decisions)
        self.episodes_total = 0

    def episode(self, success: bool) -> None:
        """An episode in which the checkpoint moved the robot has ended."""
        self._episodes.append(success)
        self.episodes_total += 1

    def decision(self, latency_ms: float) -> None:
        """It has decided."""
        self._latencies.append(latency_ms)

    def motion(self, clean: bool) -> None:
        """A motion that it decided on was let through as it was (True), or refused, clamped or not plannable."""
        self._clean.append(clean)

    @property
    def full(self) -> bool:
        """Whether it has been watched for a whole window, so that it can be gone back to."""
        if self.limits.min_success is not None:
            return len(self._episodes) == self.limits.episodes
        return len(self._latencies) == self.limits.decisions

    def breach(self) -> Breach | None:
        """The first limit that is broken."""
        limits, needed = self.limits, 1.0 / self.limits.false_alarm
        if limits.min_success is not None and evidence(self._episodes, limits.min_success) >= needed:
            return Breach('min_success', f'{_share(self._episodes)} of the last episodes succeeded, but '
                          f'rollback.min_success is {limits.min_success:g}')
        if limits.max_gate_hits is not None and evidence(self._clean, 1.0 - limits.max_gate_hits) >= needed:
            hits = [not clean for clean in self._clean]
            return Breach('max_gate_hits', f'{_share(hits)} of the last motions were refused, clamped or not '
                          f'plannable, but rollback.max_gate_hits is {limits.max_gate_hits:g}')
        latency = self.latency_ms
        if limits.max_latency_ms is not None and len(self._latencies) >= _LATENCIES and latency > limits.max_latency_ms:
            return Breach('max_latency_ms', f'95 % of the last {len(self._latencies)} decisions took up to '
                          f'{latency:.0f} ms, but rollback.max_latency_ms is {limits.max_latency_ms:g}')
        return None

    @property
    def latency_ms(self) -> float:
        """Time (ms) that 95 % of the newest decisions took at most; 0 where there are none."""
        # Not between two of them: one slow decision of twenty would move it.
        return float(np.percentile(list(self._latencies), 95.0, method='inverted_cdf')) if self._latencies else 0.0

    def figures(self) -> dict[str, str]:
        """Key-values of a diagnostic status."""
        return {'success': _share(self._episodes), 'gate_hits': _share([not clean for clean in self._clean]),
                'latency_p95_ms': f'{self.latency_ms:.1f}', 'episodes': str(self.episodes_total)}


def evidence(kept: Sequence[bool] | deque[bool], least: float) -> float:
    """How much likelier the observations are under lower shares than under the declared one.

    The mean of the likelihood ratios of all shares below ``least`` against ``least`` itself (Robbins 1970). Where the
    true share is ``least`` or more it is a supermartingale of mean 1 or less: it ever reaches 1/α with probability α at
    most, however often one looks (Ville 1939).

    Args:
        kept: What was observed, in any order.
        least: Declared share, 0 … 1.

    Returns:
        1 without observations; infinity where one contradicts a share of 1.
    """
    good, bad = sum(kept), len(kept) - sum(kept)
    if least >= 1.0:
        return math.inf if bad else 1.0
    if least <= 0.0:
        return 1.0
    shares = (np.arange(_GRID) + 0.5) / _GRID * least  # midpoint rule over (0, least)
    logs = good * np.log(shares / least) + bad * np.log((1.0 - shares) / (1.0 - least))
    return float(np.exp(logs).mean())


def _share(values: Sequence[bool] | deque[bool]) -> str:
    return f'{sum(values)} of {len(values)}'
