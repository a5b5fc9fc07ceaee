"""The PPO loss against values computed by hand, and a toy problem that the real code learns to optimality."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.episodes import Player
from training.learner import Learner
from training.losses import kl_estimate, policy_loss, token_mean, token_weights, value_loss
from training.rollout import TrainingSchedule, collect


def test_thought_tokens_weigh_lambda_and_padding_nothing():
    mask = torch.tensor([[True, True, True, False]])
    thought = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(token_weights(mask, thought, 0.3), torch.tensor([[0.3, 0.3, 1.0, 0.0]]))


def loss(log_ratios, weights, advantage, level='decision', max_ratio=10.0):
    new = torch.tensor([log_ratios])
    return policy_loss(new, torch.zeros_like(new), torch.tensor([weights]), torch.tensor([advantage]),
                       clip=0.2, max_ratio=max_ratio, level=level).item()


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


def test_the_mean_over_tokens_ignores_padding():
    per_token, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]])
    torch.testing.assert_close(token_mean(per_token, mask), torch.tensor([2.0]))


def learn(toy, updates):
    schedule = TrainingSchedule(toy.config)
    player = Player(toy.policy, toy.worlds, toy.commander_of, unit=toy.config.group_size)
    ppo = Learner(toy.policy, toy.config, toy.config.seed)
    rows = []
    for number in range(updates):
        rollout = collect(player, schedule, toy.config, 1.0)
        rows.append({**rollout.metrics, **ppo.update(rollout.samples, number=number, temperature=1.0, progress=0.0)})
    return rows


@pytest.mark.parametrize('overrides', [
    {}, {'ratio_level': 'token'}, {'baseline': 'group', 'group_size': 4, 'worlds': 8}, {'kl_coef': 0.01},
], ids=['decision', 'token', 'group', 'kl'])
def test_a_two_state_problem_is_learnt_to_optimality(make_toy, overrides):
    toy = make_toy(**{'worlds': 4, 'decisions_per_update': 64, 'minibatch_size': 32, **overrides})
    learn(toy, 40)
    probabilities = torch.softmax(toy.policy.actions, dim=1)
    assert probabilities[0, 0] > 0.95 and probabilities[1, 1] > 0.95


def test_the_value_head_is_trained_alone_while_it_warms_up(make_toy):
    toy = make_toy(value_warmup_updates=1)
    learn(toy, 1)
    assert not toy.policy.actions.any() and not toy.policy.thoughts.any()
    assert toy.policy.value_head.all()


def test_decisions_of_small_advantage_are_left_out_of_the_update(make_toy):
    toy = make_toy(min_advantage=0.5)
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    samples = collect(player, TrainingSchedule(toy.config), toy.config, 1.0).samples
    contexts = [int(sample.input.image[0, 0, 0] > 0) for sample in samples]  # as the toy policy tells them apart
    assert set(contexts) == {0, 1}
    samples = [replace(sample, advantage=-0.4 if context else 0.6) for sample, context in zip(samples, contexts)]
    row = Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
    assert row['learned_share'] == pytest.approx(contexts.count(0) / len(contexts))
    assert toy.policy.actions[0].any() and not toy.policy.actions[1].any()


def test_an_update_without_any_telling_decision_moves_the_value_head_only(make_toy):
    toy = make_toy(min_advantage=10.0)
    row = learn(toy, 2)[1]
    assert row['learned_share'] == 1.0
    assert not toy.policy.actions.any() and toy.policy.value_head.all()


def test_the_guard_teaches_the_true_thought_and_leaves_the_action_to_the_reward(make_toy):
    toy = make_toy(guard_coef=1.0, learning_rate=0.1)
    samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config, 1.0
                      ).samples
    first = next(i for i, sample in enumerate(samples) if not sample.input.image.any())
    right = replace(samples[first].decision, token_ids=np.array([1, 2]))
    samples = [replace(sample, advantage=0.0, correction=right if i == first else None)
               for i, sample in enumerate(samples)]
    row = Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
    assert row['guard_loss'] > 0.0
    thoughts = torch.softmax(toy.policy.thoughts, dim=1)
    assert thoughts[0, 1] > 0.55 and thoughts[1, 1] == 0.5
    assert not toy.policy.actions.any()


def test_an_annealed_guard_has_gone_at_the_end(make_toy):
    toy = make_toy(guard_coef=1.0, guard_anneal=True)
    samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config, 1.0
                      ).samples
    samples = [replace(sample, advantage=0.0, correction=sample.decision) for sample in samples]
    Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=1.0)
    assert not toy.policy.thoughts.any()


def test_an_update_stops_at_its_target_kl(make_toy):
    toy = make_toy(target_kl=1e-4, learning_rate=0.5)
    row = learn(toy, 1)[0]
    assert row['stopped_early'] == 1.0
    assert row['optimiser_steps'] < toy.config.epochs * 2


def test_without_a_target_every_minibatch_of_every_epoch_makes_a_step(make_toy):
    row = learn(make_toy(), 1)[0]
    assert row['optimiser_steps'] == 4 * round(row['decisions'] / 16)
    assert row['logprob_error'] == pytest.approx(0.0, abs=1e-6)


def test_learning_rates_follow_the_schedule(make_toy):
    toy = make_toy(lr_schedule='cosine', lr_final_fraction=0.1, learning_rate=1.0, value_learning_rate=0.5)
    ppo = Learner(toy.policy, toy.config, 0)
    assert ppo.learning_rates(0.0) == pytest.approx((1.0, 0.5))
    assert ppo.learning_rates(0.5) == pytest.approx((0.55, 0.275))
    assert ppo.learning_rates(1.0) == pytest.approx((0.1, 0.05))
