"""The band of a checkpoint: bad luck does not trip it, a bad checkpoint does and soon, however often one looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.release.band import Band, Rollback, evidence

LIMITS = Rollback(min_success=0.8, max_gate_hits=0.2, max_latency_ms=500.0)


def episodes_until_breach(share: float, seed: int, most: int, limits: Rollback = LIMITS) -> int | None:
    rng, band = np.random.default_rng(seed), Band(limits)
    for episode in range(1, most + 1):
        band.episode(bool(rng.random() < share))
        if band.breach() is not None:
            return episode
    return None


def test_three_failures_by_bad_luck_do_not_trip_it_and_nothing_but_failures_soon_does():
    band = Band(LIMITS)
    for _ in range(3):
        band.episode(False)
    assert band.breach() is None
    assert episodes_until_breach(0.0, 0, 10) in (4, 5)


def test_the_chance_of_a_false_alarm_is_no_more_than_declared_though_it_looks_after_every_episode():
    limits = Rollback(min_success=0.8, false_alarm=0.05, episodes=100)
    alarms = sum(episodes_until_breach(0.8, seed, 100, limits) is not None for seed in range(400))
    assert alarms <= 0.05 * 400


def test_a_checkpoint_that_is_better_than_declared_stays_for_good():
    assert sum(episodes_until_breach(0.92, seed, 1000) is not None for seed in range(20)) <= 1


def test_a_sabotaged_checkpoint_is_caught_within_few_episodes():
    caught = [episodes_until_breach(0.2, seed, 30) for seed in range(100)]
    assert None not in caught
    assert np.percentile(caught, 90) <= 12


def test_a_cell_that_changes_after_many_good_episodes_is_seen():
    band = Band(LIMITS)
    for _ in range(500):
        band.episode(True)
    failures = 0
    while band.breach() is None:
        band.episode(False)
        failures += 1
    assert failures <= 20


@pytest.mark.parametrize(('good', 'bad', 'least'), [(0, 4, 0.8), (7, 3, 0.8), (20, 1, 0.95), (3, 9, 0.5)])
def test_the_evidence_is_the_mean_likelihood_ratio_in_closed_form(good, bad, least):
    # Integral of q^good (1-q)^bad over (0, least): a finite sum, by expanding (1-q)^bad.
    integral = sum(math.comb(bad, k) * (-1)**k * least**(good + k + 1) / (good + k + 1) for k in range(bad + 1))
    expected = integral / least / (least**good * (1 - least)**bad)
    assert evidence([True] * good + [False] * bad, least) == pytest.approx(expected, rel=1e-3)


def test_gate_hits_beyond_the_declared_share_leave_the_band():
    band = Band(LIMITS)
    for _ in range(50):
        band.motion(True)
    assert band.breach() is None
    while (breach := band.breach()) is None:
        band.motion(False)
    assert breach.limit == 'max_gate_hits'
    assert 'rollback.max_gate_hits is 0.2' in breach.reason


def test_a_single_gate_hit_leaves_a_band_that_allows_none():
    band = Band(Rollback(max_gate_hits=0.0))
    band.motion(True)
    assert band.breach() is None
    band.motion(False)
    assert band.breach() is not None


def test_the_latency_is_judged_by_its_95th_percentile_once_there_are_enough_decisions():
    band = Band(LIMITS)
    band.decision(5000.0)  # the first after loading is slow
    for _ in range(99):
        band.decision(100.0)
    assert band.breach() is None
    for _ in range(6):
        band.decision(900.0)
    breach = band.breach()
    assert breach is not None
    assert breach.limit == 'max_latency_ms'


def test_what_is_not_declared_is_not_judged():
    band = Band(Rollback())
    for _ in range(100):
        band.episode(False)
        band.motion(False)
        band.decision(1e6)
    assert band.breach() is None
    assert not band.limits.judges


def test_a_limit_out_of_range_is_refused_with_its_key():
    with pytest.raises(UserError, match=r'cell.yaml: min_success is 80.0, but must be between'):
        parse(Rollback, {'min_success': 80}, 'cell.yaml')


def test_one_slow_decision_of_twenty_breaks_no_limit_of_95_percent():
    band = Band(Rollback(max_latency_ms=2000.0))
    for latency_ms in (60_000.0, *[200.0] * 19):
        band.decision(latency_ms)
    assert band.breach() is None and band.latency_ms == 200.0
    band.decision(60_000.0)
    assert band.breach() is not None
