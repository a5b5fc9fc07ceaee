"""Intervals and tests for success, and for differences between policies on the same episodes.

``docs/evaluation.md`` says on one page which of them answers which question, and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
_Z95 = 1.959963984540054
_BLOCK = 1_000_000  # random numbers drawn at a time


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a success probability (Wilson 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - margin), min(1.0, centre + margin)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: the chance that equally good policies differ at least as lopsidedly.

    Only episodes that exactly one of two policies solves tell them apart; between equals each falls to either side
    with probability 1/2 (McNemar 1947, exact binomial form). 1 where there are none.

    Args:
        only_a: Episodes that the first policy alone solves.
        only_b: Episodes that the second policy alone solves.
    """
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, tail / 2**(n - 1)) if n else 1.0


def paired_share_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two success probabilities, B less A, on the same n episodes.

    Wald's interval after half an episode is added to each cell of the 2 x 2 table (Agresti & Min 2005): unlike a
    bootstrap it does not claim certainty where no episode differs. (-1, 1) where n is 0.
    """
    if n == 0:
        return -1.0, 1.0
    a, b, total = only_a + 0.5, only_b + 0.5, n + 2
    centre = (b - a) / total
    margin = _Z95 * math.sqrt(max(a + b - (b - a)**2 / total, 0.0)) / total
    return max(-1.0, centre - margin), min(1.0, centre + margin)


def bootstrap_interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of paired differences: percentiles over resampled episodes (Efron 1979).

    Args:
        differences: One per episode, at least one.
        seed: Of the resampling; the same seed gives the same interval.
    """
    values, rng = np.asarray(differences, dtype=float), np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=(rows, len(values)))].mean(axis=1) for rows in _blocks(len(values))]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided paired permutation test of a mean difference of zero.

    Were the policies alike, each difference could as well have had the other sign. The share of random sign patterns
    whose mean is at least as far from zero, the observed one among them (Phipson & Smyth 2010); 1 where all are zero.

    Args:
        differences: One per episode, at least one.
        seed: Of the sign patterns.
    """
    values, rng = np.asarray(differences, dtype=float), np.random.default_rng(seed)
    # Rounding must not tell apart what is equal.
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    extreme = 0
    for rows in _blocks(len(values)):
        signs = rng.integers(2, size=(rows, len(values)), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= observed))
    return (extreme + 1) / (RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), in the order given.

    Below 0.05 after it, the chance of even one false alarm among all of them stays below 5 %.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _blocks(n: int) -> list[int]:
    """Rows of each draw, so that many episodes do not fill the memory."""
    rows = max(1, min(RESAMPLES, _BLOCK // n))
    return [rows] * (RESAMPLES // rows) + ([RESAMPLES % rows] if RESAMPLES % rows else [])
