"""The sequential test keeps its promises, counted over simulated pilots that are looked at after every block."""

from fractions import Fraction

import numpy as np
import pytest

from training.pilot.sequential import DIFFERENCES, Counts, SequentialTest, shown_shares

ALPHA, PILOTS = 0.05, 2000


@pytest.mark.parametrize('per_arm', [1, 3])
@pytest.mark.parametrize('success', [0.1, 0.6, 0.95])
def test_equals_are_told_apart_in_alpha_of_pilots_at_most(per_arm, success):
    shares = shown_shares(success, success, per_arm, 240 // per_arm, ALPHA, pilots=PILOTS)
    assert shares[-1] <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / PILOTS)
    assert (np.diff(shares) >= 0).all()


def test_looking_at_a_fixed_sample_test_instead_would_break_alpha_many_times_over():
    """What the sequential test is for: the same looks with a z-test of two proportions."""
    rng = np.random.default_rng(0)
    a, b = (np.cumsum(rng.random((500, 240)) < 0.6, axis=1) for _ in range(2))
    n = np.arange(1, 241)
    pooled = (a + b) / (2 * n)
    z = np.abs(a - b) / n / np.sqrt(np.maximum(2 * pooled * (1 - pooled) / n, 1e-9))
    assert (z[:, 20:] > 1.96).any(axis=1).mean() > 4 * ALPHA


def test_a_difference_is_shown_as_often_as_the_power_says():
    shares = shown_shares(0.6, 0.85, 1, 150, ALPHA, pilots=PILOTS)
    assert shares[-1] > 0.93  # a test of fixed length reaches this with 2 x 84 episodes
    assert np.searchsorted(shares, 0.5) < 60  # half of the pilots may stop after 120 of 300 episodes
    assert shown_shares(0.6, 0.7, 1, 150, ALPHA)[-1] < 0.4


@pytest.mark.parametrize(('a', 'b'), [(0.6, 0.8), (0.9, 0.5), (0.97, 0.98)])
def test_the_true_difference_is_ever_excluded_in_alpha_of_pilots_at_most(a, b):
    rng, counts = np.random.default_rng(1), Counts(2)
    log_e = reached = np.zeros(PILOTS)
    for _ in range(60):
        log_e = log_e + counts.add(rng.binomial(2, a, PILOTS), rng.binomial(2, b, PILOTS), np.array([b - a]))
        reached = np.maximum(reached, log_e)
    assert (reached >= np.log(1 / ALPHA)).mean() <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / PILOTS)


def test_the_confidence_sequence_closes_in_on_the_difference_and_never_widens():
    rng, test = np.random.default_rng(1), SequentialTest(5, ALPHA)
    for successes in zip(rng.binomial(5, 0.6, 60), rng.binomial(5, 0.8, 60)):
        test.add_block(*map(int, successes))
    assert all(x[0] <= y[0] and x[1] >= y[1] for x, y in zip(test.intervals, test.intervals[1:]))
    low, high = test.interval
    assert 0.0 < low < 0.2 < high < 0.4
    assert test.e_value > 20


def test_no_block_is_expected_to_raise_the_evidence_against_what_is_true():
    """The proof rests on it: the expected factor of a block is 1 at most, for every pair of the null hypothesis."""
    for difference in (-0.4, 0.0, 0.3):
        for success in np.linspace(max(0.0, -difference), min(1.0, 1.0 - difference), 7):
            expected = 0.0
            for a in (0, 1):
                for b in (0, 1):
                    counts = Counts(1, np.array([7.0]), np.array([2.0]), 9)
                    factor = np.exp(counts.add(np.array([a]), np.array([b]), np.array([difference])))[0]
                    chance = (success if a else 1 - success) * (success + difference if b else 1 - success - difference)
                    expected += chance * factor
            assert expected <= 1.0 + 1e-9


def test_the_evidence_against_equals_is_the_likelihood_ratio_worked_by_hand():
    test = SequentialTest(1, ALPHA)
    for _ in range(2):
        test.add_block(0, 1)
    # Block 1: both predicted at 1/2. Block 2: A at (0 + 1/2)/2 = 1/4, B at 3/4, the null at their mean.
    assert test.e_value == pytest.approx(float(Fraction(3, 4)**2 / Fraction(1, 2)**2))
    assert test.interval[0] < 0.0 and test.interval[1] == 1.0


def test_nothing_is_known_before_the_first_block_and_zero_is_among_what_is_tested():
    assert SequentialTest(1, ALPHA).interval == (-1.0, 1.0)
    assert DIFFERENCES[len(DIFFERENCES) // 2] == 0.0 and len(DIFFERENCES) == 401
