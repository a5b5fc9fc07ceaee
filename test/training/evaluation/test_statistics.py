"""Intervals and tests against numbers worked out by hand, and against data whose truth is known."""

import numpy as np
import pytest

from training.evaluation.statistics import (
    bootstrap_interval,
    holm,
    mcnemar_p,
    paired_share_interval,
    sign_flip_p,
    wilson_interval,
)


@pytest.mark.parametrize(('successes', 'n', 'low', 'high'), [
    (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (81, 263, 0.25526, 0.36618), (170, 200, 0.79387, 0.89291),
])
def test_the_interval_of_a_share_has_known_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_nothing_is_known_without_episodes():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert paired_share_interval(0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize(('only_a', 'only_b', 'p'), [
    (0, 0, 1.0),
    (1, 0, 1.0),  # 2 · 1/2
    (0, 5, 2 / 32),
    (1, 9, 2 * (1 + 10) / 1024),
    (2, 8, 2 * (1 + 10 + 45) / 1024),
    (5, 5, 1.0),  # 2 · 638/1024 is more than certain
    (600, 600, 1.0),
])
def test_mcnemar_has_hand_computed_values_in_both_directions(only_a, only_b, p):
    assert mcnemar_p(only_a, only_b) == pytest.approx(p, rel=1e-12)
    assert mcnemar_p(only_b, only_a) == mcnemar_p(only_a, only_b)


def test_mcnemar_stays_exact_where_floats_would_overflow():
    assert 0.0 < mcnemar_p(900, 1200) < 1e-9


def test_the_interval_of_a_paired_difference_is_antisymmetric_and_never_certain():
    # a = 5.5, b = 15.5, N = 102: (10 ± 1.96 · sqrt(21 - 100/102)) / 102
    assert paired_share_interval(5, 15, 100) == pytest.approx((0.01204, 0.18404), abs=1e-4)
    low, high = paired_share_interval(15, 5, 100)
    assert (-high, -low) == pytest.approx(paired_share_interval(5, 15, 100))
    low, high = paired_share_interval(0, 0, 200)
    assert low == -high and 0.005 < high < 0.02


def test_a_bootstrap_is_seeded_and_follows_its_seed():
    values = np.random.default_rng(0).normal(size=40)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_a_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_interval(rng.exponential(size=60) - 0.5, seed=trial)
        covered += low <= 0.5 <= high
    assert 87 <= covered <= 99


def test_sign_flips_find_no_difference_where_there_is_none_and_one_where_there_is():
    assert sign_flip_p([0.0] * 30) == 1.0
    assert sign_flip_p([1.0, -1.0] * 20) == 1.0
    assert sign_flip_p([1.0] * 8) == pytest.approx(2 / 2**8, rel=0.3)  # only the two patterns of one sign
    assert sign_flip_p([0.1 + 0.2, -0.3] * 10) == 1.0  # equal but for rounding
    p_values = [sign_flip_p(np.random.default_rng(i).normal(size=25), seed=i) for i in range(100)]
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.1)


def test_holm_has_hand_computed_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_many_episodes_are_resampled_without_filling_the_memory():
    assert bootstrap_interval(np.full(20_000, 2.0)) == (2.0, 2.0)
