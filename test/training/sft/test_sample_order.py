"""Which samples a step takes: a pure function of seed and step, and rare samples as often as their weight says."""

from __future__ import annotations

import numpy as np
import pytest

from training.sft.sample_order import SampleOrder

TRAIN, HELD_OUT = np.array([0, 1, 2, 4, 5, 7, 8, 9, 11, 12]), np.array([3, 6, 10])


def order(weights: np.ndarray, seed: int = 3) -> SampleOrder:
    return SampleOrder(seed, TRAIN, HELD_OUT, weights)


def test_without_weights_every_epoch_is_the_permutation_of_its_seed_and_number():
    # The order of every run before there were weights: their batches must stay the same.
    expected = np.concatenate([np.random.default_rng((3, epoch)).permutation(TRAIN) for epoch in range(6)])
    unweighted = order(np.ones(13))
    assert [unweighted.rows(step, 8).tolist() for step in range(7)] == expected[:56].reshape(7, 8).tolist()
    assert unweighted.held_out.tolist() == np.random.default_rng(3).permutation(HELD_OUT).tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    weights = np.linspace(0.2, 3.0, 13)
    expected = [order(weights).rows(step, 7).tolist() for step in range(9)]
    one = order(weights)
    assert [one.rows(step, 7).tolist() for step in (8, 0, 4)] == [expected[step] for step in (8, 0, 4)]
    assert expected != [order(weights, seed=4).rows(step, 7).tolist() for step in range(9)]


@pytest.mark.parametrize('weight', [0.0, 0.25, 1.0, 2.5, 7.0])
def test_a_sample_comes_as_often_as_its_weight_says(weight):
    weights = np.ones(13)
    weights[4] = weight
    epoch = round(9 + weight)
    counts = np.bincount(order(weights).rows(0, 200 * epoch), minlength=13) / 200
    scale = epoch / (9 + weight)
    assert counts[4] == pytest.approx(weight * scale, abs=0.15)
    assert counts[TRAIN[TRAIN != 4]] == pytest.approx(scale, abs=0.15)
    assert not counts[HELD_OUT].any()
