"""A test of two success probabilities that may be looked at after every block, and stopped whenever one likes.

The evidence against a difference δ is an e-process: the product, over the blocks so far, of how much likelier the block
is under estimates from the blocks before it than under the closest pair of probabilities that differ by δ (the reverse
information projection; Turner, Ly & Grünwald 2024, doi:10.1016/j.jspi.2023.106116). Its expectation is at most 1 if the
difference is δ, so that by Ville's inequality it ever reaches 1/α with probability α at most, however often one looks.
The δ whose e-process has never reached 1/α are a confidence sequence (Turner & Grünwald 2022, arXiv:2203.09785): at all
times together it holds the true difference with probability 1 - α. Both are exact for any number of episodes, and the
success of a line may drift as long as it drifts for both alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_STEP = 0.005  # of the differences that are tested
_BISECTIONS = 40
_EDGE = 1e-12

DIFFERENCES = np.round(np.arange(-1.0, 1.0 + _STEP / 2, _STEP), 6)
"""(401,) the differences B less A that are tested; 0 is among them."""


@dataclass
class Counts:
    """Successes of both checkpoints in the blocks so far.

    Attributes:
        per_arm: Episodes of each checkpoint in a block.
        a, b: Their successes; arrays count independent pilots.
        blocks: Whole blocks.
    """

    per_arm: int
    a: np.ndarray = field(default_factory=lambda: np.zeros(1))
    b: np.ndarray = field(default_factory=lambda: np.zeros(1))
    blocks: int = 0

    def add(self, a: np.ndarray, b: np.ndarray, differences: np.ndarray) -> np.ndarray:
        """Count a block.

        Args:
            a, b: (pilots,) int, successes in it.
            differences: (differences, 1) or (1,), B less A, each in -1 … 1.

        Returns:
            Logarithms of the factors by which the e-process of each difference grows, (…, pilots) float64.
        """
        before_a, before_b = self._predicted(self.a), self._predicted(self.b)
        null_a, null_b = _projection(before_a, before_b, differences)
        self.a, self.b, self.blocks = self.a + a, self.b + b, self.blocks + 1
        return _log_ratio(a, self.per_arm, before_a, null_a) + _log_ratio(b, self.per_arm, before_b, null_b)

    def _predicted(self, successes: np.ndarray) -> np.ndarray:
        """Mean of a Beta posterior; the parameters of its prior are the default of the authors' ``safestats``."""
        prior = 1.0 / (2 * self.per_arm)
        return (successes + prior) / (self.blocks * self.per_arm + 2 * prior)


class SequentialTest:
    """Follows a pilot block by block.

    Args:
        per_arm: Episodes of each checkpoint in a block.
        alpha: Error probability, over all looks together.

    Attributes:
        intervals: The confidence sequence: lower and upper end of the difference in success, B less A, after each
            block; never wider than before.
        e_value: Largest evidence so far against equal success; 20 or more happens in 1 of 20 pilots of equals at most.
    """

    def __init__(self, per_arm: int, alpha: float) -> None:
        self._counts, self._limit = Counts(per_arm), float(np.log(1.0 / alpha))
        self._log_e = np.zeros(len(DIFFERENCES))
        self._reached = self._log_e.copy()
        self.intervals: list[tuple[float, float]] = []

    @property
    def interval(self) -> tuple[float, float]:
        """The newest of ``intervals``; (-1, 1) before the first block."""
        return self.intervals[-1] if self.intervals else (-1.0, 1.0)

    @property
    def e_value(self) -> float:
        """See the class."""
        return float(np.exp(min(self._reached[len(DIFFERENCES) // 2], 700.0)))

    def add_block(self, successes_a: int, successes_b: int) -> None:
        """Take in a whole block."""
        a, b = np.array([successes_a]), np.array([successes_b])
        self._log_e += self._counts.add(a, b, DIFFERENCES[:, None])[:, 0]
        self._reached = np.maximum(self._reached, self._log_e)
        inside = np.flatnonzero(self._reached < self._limit)
        if not len(inside):  # has probability α at most; what was left before stays
            self.intervals.append(self.interval)
            return
        # An end lies between two tested differences: the outer one is kept.
        self.intervals.append((float(DIFFERENCES[max(inside[0] - 1, 0)]),
                               float(DIFFERENCES[min(inside[-1] + 1, len(DIFFERENCES) - 1)])))


def shown_shares(success_a: float, success_b: float, per_arm: int, blocks: int, alpha: float, *, pilots: int = 1000,
                 seed: int = 0) -> np.ndarray:
    """(blocks,) share of simulated pilots that have shown a difference by each block.

    That is the power of a pilot that ends there, or its error rate where both are equal.

    Args:
        success_a, success_b: True success probabilities.
        per_arm: Episodes of each checkpoint in a block.
        blocks: Blocks at most.
        alpha: Of the test.
        pilots: Simulated pilots.
        seed: Of their outcomes.
    """
    rng = np.random.default_rng(seed)
    counts, log_e, shown = Counts(per_arm), np.zeros(pilots), np.zeros(pilots, bool)
    shares = np.empty(blocks)
    for block in range(blocks):
        a, b = (rng.binomial(per_arm, p, pilots) for p in (success_a, success_b))
        log_e += counts.add(a, b, np.zeros(1))
        shown |= log_e >= np.log(1.0 / alpha)
        shares[block] = shown.mean()
    return shares


def _projection(a: np.ndarray, b: np.ndarray, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pair of probabilities that differ by ``difference`` and are closest to (a, b) in Kullback-Leibler divergence.

    Along such pairs the divergence is convex; the zero of its derivative is found by bisection.
    """
    if not difference.any():
        middle = 0.5 * (a + b)
        return middle, middle
    shape = np.broadcast_shapes(a.shape, difference.shape)
    low = np.broadcast_to(np.maximum(0.0, -difference), shape).copy()
    high = np.broadcast_to(np.minimum(1.0, 1.0 - difference), shape).copy()
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        rising = _slope(middle, a) + _slope(middle + difference, b) > 0.0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    null_a = 0.5 * (low + high)
    return np.clip(null_a, _EDGE, 1.0 - _EDGE), np.clip(null_a + difference, _EDGE, 1.0 - _EDGE)


def _slope(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Derivative by p of the divergence from Bernoulli(target) to Bernoulli(p)."""
    p = np.clip(p, _EDGE, 1.0 - _EDGE)
    return (p - target) / (p * (1.0 - p))


def _log_ratio(successes: np.ndarray, per_arm: int, predicted: np.ndarray, null: np.ndarray) -> np.ndarray:
    return (successes * (np.log(predicted) - np.log(null))
            + (per_arm - successes) * (np.log1p(-predicted) - np.log1p(-null)))
