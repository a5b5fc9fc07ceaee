"""Advantages against values computed by hand."""

import numpy as np
import pytest

from training.rl.gae import (
    generalized_advantages,
    leave_one_out,
    normalise_group,
    returns_to_go,
    standardise,
    token_advantages,
)

REWARDS, VALUES = np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.0, 0.25])


def test_a_terminated_episode_has_no_value_beyond_its_end():
    # δ = 1 + 0.9·1 - 0.5 = 1.4; 0 + 0.9·0.25 - 1 = -0.775; 2 + 0 - 0.25 = 1.75; γλ = 0.45
    expected = [1.4 + 0.45 * (-0.775 + 0.45 * 1.75), -0.775 + 0.45 * 1.75, 1.75]
    np.testing.assert_allclose(generalized_advantages(REWARDS, VALUES, 0.0, 0.9, 0.5), expected, rtol=1e-12)


def test_a_truncated_episode_bootstraps_from_the_value_of_its_final_observation():
    # Only the last δ changes: 2 + 0.9·3 - 0.25 = 4.45
    expected = [1.4 + 0.45 * (-0.775 + 0.45 * 4.45), -0.775 + 0.45 * 4.45, 4.45]
    np.testing.assert_allclose(generalized_advantages(REWARDS, VALUES, 3.0, 0.9, 0.5), expected, rtol=1e-12)


def test_lambda_one_gives_discounted_returns_less_values():
    returns = [1 + 0.81 * 2, 0.9 * 2, 2]
    np.testing.assert_allclose(generalized_advantages(REWARDS, VALUES, 0.0, 0.9, 1.0), returns - VALUES, rtol=1e-12)
    np.testing.assert_allclose(returns_to_go(REWARDS, 0.9), returns, rtol=1e-12)


def test_leave_one_out_compares_each_return_with_the_mean_of_the_others():
    np.testing.assert_allclose(leave_one_out(np.array([1.0, 0.0, 0.5])), [0.75, -0.75, 0.0])


def test_a_group_of_one_has_nothing_to_learn_from():
    np.testing.assert_array_equal(leave_one_out(np.array([1.0])), [0.0])


def test_standardised_advantages_have_zero_mean_and_unit_variance_and_stay_finite():
    result = standardise(np.array([1.0, 2.0, 3.0]))
    assert result.mean() == pytest.approx(0.0) and result.std() == pytest.approx(1.0)
    np.testing.assert_array_equal(standardise(np.ones(4)), np.zeros(4))


def test_credit_goes_to_turns_first_and_then_to_their_tokens():
    # Two turns of two and three tokens, cut off with a final value of 2. Turns: γ = 0.9, λ = 0.5.
    # δ_1 = 0 + 0.9·2 - 1 = 0.8 with V_2 = 1 and r_2 = 0; δ_0 = 1 + 0.9·1 - 0.5 = 1.4; A_0 = 1.4 + 0.45·0.8 = 1.76
    turn = generalized_advantages(np.array([1.0, 0.0]), np.array([0.5, 1.0]), 2.0, 0.9, 0.5)
    np.testing.assert_allclose(turn, [1.76, 0.8], rtol=1e-12)
    # Tokens of the first turn: worth 1.76 + 0.5 = 2.26. γ = 0.8, λ = 0.5.
    # δ_1 = 2.26 - 1.5 = 0.76; δ_0 = 0.8·1.5 - 0.5 = 0.7; A_0 = 0.7 + 0.4·0.76 = 1.004
    np.testing.assert_allclose(token_advantages(np.array([0.5, 1.5]), 2.26, 0.8, 0.5), [1.004, 0.76], rtol=1e-12)
    # Of the second: worth 1.8. δ = 0.8·2 - 1 = 0.6; 0.8·1.2 - 2 = -1.04; 1.8 - 1.2 = 0.6
    expected = [0.6 + 0.4 * (-1.04 + 0.4 * 0.6), -1.04 + 0.4 * 0.6, 0.6]
    np.testing.assert_allclose(token_advantages(np.array([1.0, 2.0, 1.2]), 1.8, 0.8, 0.5), expected, rtol=1e-12)


def test_undiscounted_tokens_have_the_turns_worth_less_the_value_before_them():
    np.testing.assert_allclose(token_advantages(np.array([0.5, 1.5]), 2.0, 1.0, 1.0), [1.5, 0.5], rtol=1e-12)


def test_a_normalised_group_has_unit_variance_and_nothing_where_all_are_equal():
    np.testing.assert_allclose(normalise_group(np.array([1.0, 0.0, 0.0, 1.0])), [1, -1, -1, 1], atol=1e-5)
    np.testing.assert_allclose(normalise_group(np.array([0.7, 0.7, 0.7])), [0, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(normalise_group(np.array([3.0])), [0.0])
