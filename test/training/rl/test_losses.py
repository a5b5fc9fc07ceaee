"""The terms of the losses against values computed by hand."""

import math

import pytest
import torch

from training.rl.losses import clipped_share, kl_estimate, policy_loss, token_mean, token_weights, value_loss


def test_thought_tokens_weigh_lambda_and_padding_nothing():
    mask = torch.tensor([[True, True, True, False]])
    thought = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(token_weights(mask, thought, 0.3), torch.tensor([[0.3, 0.3, 1.0, 0.0]]))


def loss(log_ratios, weights, advantage, level='decision', max_ratio=10.0, clip_high=0.0):
    new = torch.tensor([log_ratios])
    return policy_loss(new, torch.zeros_like(new), torch.tensor([weights]), torch.tensor([advantage]),
                       clip=0.2, clip_high=clip_high, max_ratio=max_ratio, level=level).item()


def test_the_ratio_of_a_decision_is_that_of_its_lambda_weighted_log_probability():
    # log π = 0.5·(thoughts) + (actions): ratio = exp(0.5·0.2 + 0.05) = e^0.15, within the clip range of 0.2
    assert loss([0.2, 0.05], [0.5, 1.0], 2.0) == pytest.approx(-2.0 * math.exp(0.15))


def test_the_surrogate_is_clipped_where_it_would_reward_a_larger_step():
    assert loss([math.log(1.5)], [1.0], 2.0) == pytest.approx(-1.2 * 2.0)
    assert loss([math.log(0.5)], [1.0], -2.0) == pytest.approx(0.8 * 2.0)


def test_the_surrogate_is_not_clipped_where_it_corrects_a_step():
    assert loss([math.log(0.5)], [1.0], 2.0) == pytest.approx(-0.5 * 2.0)
    assert loss([math.log(1.5)], [1.0], -2.0) == pytest.approx(1.5 * 2.0)


def test_ratios_beyond_the_maximum_use_only_the_clipped_surrogate():
    assert loss([math.log(12.0)], [1.0], -2.0) == pytest.approx(1.2 * 2.0)
    assert math.isfinite(loss([500.0], [1.0], -2.0))


def test_token_level_clips_each_token_and_weighs_its_surrogate():
    # Thought token: 1.5 clipped to 1.2, times 0.5; action token: 1.1 as it is.
    assert loss([math.log(1.5), math.log(1.1)], [0.5, 1.0], 2.0, 'token') == pytest.approx(-2.0 * (0.5 * 1.2 + 1.1))


@pytest.mark.parametrize('level', ['decision', 'token'])
def test_both_levels_have_the_policy_gradient_where_nothing_has_changed(level):
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    weights = torch.tensor([[0.3, 1.0]])
    policy_loss(new, new.detach(), weights, torch.tensor([1.5]), clip=0.2, max_ratio=10.0, level=level).sum().backward()
    torch.testing.assert_close(new.grad, -1.5 * weights)


def test_the_value_loss_takes_the_worse_of_plain_and_clipped():
    values, old, targets = torch.tensor([1.0, 0.05]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    # Moved by 1.0, clipped to 0.1: error (0.1 - 1)² counts although the plain one is 0. Moved by 0.05: within.
    torch.testing.assert_close(value_loss(values, old, targets, 0.1), torch.tensor([0.5 * 0.81, 0.5 * 0.9025]))
    torch.testing.assert_close(value_loss(values, old, targets, 0.0), torch.tensor([0.0, 0.5 * 0.9025]))


def test_the_kl_estimate_is_zero_for_equal_policies_and_positive_otherwise():
    log_probs = torch.tensor([[-1.0, -1.0]])
    torch.testing.assert_close(kl_estimate(log_probs, log_probs), torch.zeros(1, 2))
    other = torch.tensor([[-1.5, -0.5]])
    expected = torch.tensor([[math.exp(-0.5) - 1 + 0.5, math.exp(0.5) - 1 - 0.5]])
    torch.testing.assert_close(kl_estimate(log_probs, other), expected)


def test_the_kl_of_a_policy_that_has_moved_is_estimated_from_samples_of_the_one_before():
    """In expectation over all tokens; without the weights the estimate would be of something else."""
    old, new, other = (torch.log_softmax(torch.tensor(logits), 0) for logits in (
        [2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [3.0, -1.0, 0.0]))
    exact = (new.exp() * (new - other)).sum()
    torch.testing.assert_close((old.exp() * kl_estimate(new, other, old)).sum(), exact)
    assert abs((old.exp() * kl_estimate(new, other)).sum() - exact) > 0.05
    assert kl_estimate(new, other, old, max_ratio=1.0)[2] == kl_estimate(new, other)[2]


def test_the_mean_over_tokens_ignores_padding():
    per_token, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]])
    torch.testing.assert_close(token_mean(per_token, mask), torch.tensor([2.0]))


def test_clip_high_lets_the_ratio_grow_further_than_it_may_shrink():
    assert loss([math.log(1.5)], [1.0], 2.0, clip_high=0.4) == pytest.approx(-1.4 * 2.0)
    assert loss([math.log(1.3)], [1.0], 2.0, clip_high=0.4) == pytest.approx(-1.3 * 2.0)
    assert loss([math.log(0.5)], [1.0], -2.0, clip_high=0.4) == pytest.approx(0.8 * 2.0)


def test_advantages_of_tokens_go_to_their_tokens():
    # 0.5 · min(1.5, 1.2) · 2 for the thought, 1.1 · (-1) for the action.
    assert loss([math.log(1.5), math.log(1.1)], [0.5, 1.0], [2.0, -1.0], 'token') == pytest.approx(-1.2 + 1.1)


@pytest.mark.parametrize(('level', 'share'), [('decision', [1.0, 0.0]), ('token', [0.0, 0.5])])
def test_the_clipped_share_is_that_of_the_ratios_that_the_loss_clips(level, share):
    # Two tokens of 1.15 are a decision of 1.32; one of 1.5 that counts a tenth, and one of 0.9, one of 0.94.
    new = torch.tensor([[1.15, 1.15, 1.0], [1.5, 0.9, 9.0]]).log()
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.1, 1.0, 0.0]])
    found = clipped_share(new, torch.zeros_like(new), weights, clip=0.2, level=level)
    torch.testing.assert_close(found, torch.tensor(share))
    assert not clipped_share(new, torch.zeros_like(new), weights, clip=0.2, level=level, clip_high=0.6).any()
