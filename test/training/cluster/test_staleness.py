"""Stale decisions are weighed by how likely the present policy makes them; the clip range is around the present one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.rl.algorithms import Sample
from training.rl.algorithms.turn_ppo import TokenSample
from training.rl.learner import Learner
from training.rl.rollout import TrainingSchedule, collect
from training.rl.staleness import corrected, importance_weights
from training.worlds.episodes import Player


def test_the_weight_is_the_ratio_of_the_whole_decision_with_thoughts_by_their_share():
    proximal = torch.tensor([[-1.0, -0.5, 0.0], [-2.0, -1.0, -1.0]])
    behaviour = torch.tensor([[-1.4, -0.7, 0.0], [-1.0, -1.0, -1.0]])
    weights = torch.tensor([[0.5, 1.0, 0.0], [0.5, 1.0, 1.0]])
    expected = [math.exp(0.5 * 0.4 + 0.2), math.exp(-0.5)]
    assert importance_weights(proximal, behaviour, weights).tolist() == pytest.approx(expected)


def samples_of(toy):
    player = Player(toy.policy, toy.worlds, toy.commander_of, unit=toy.config.group_size)
    return collect(player, TrainingSchedule(toy.config), toy.config, 1.0).samples


@pytest.mark.parametrize('algorithm', ['ppo', 'turn_ppo'])
def test_decisions_of_the_present_policy_are_left_as_they_are(make_toy, algorithm):
    toy = make_toy(algorithm=algorithm)
    samples = samples_of(toy)
    after, figures = corrected(samples, toy.policy, toy.config, 1.0)
    assert figures['importance'] == pytest.approx(1.0, abs=1e-6) and figures['truncated'] == 0.0
    assert [s.advantage for s in after] == pytest.approx([s.advantage for s in samples])
    for a, b in zip(after, samples):
        np.testing.assert_allclose(a.decision.token_logprobs, b.decision.token_logprobs, atol=1e-6)


def test_credit_of_stale_decisions_is_weighed_and_their_log_probs_are_those_of_the_present_policy(make_toy):
    toy = make_toy(max_importance=1.2, thought_weight=0.3, algorithm='turn_ppo')
    samples = samples_of(toy)
    with torch.no_grad():
        toy.policy.thoughts[:, 0] += 0.8
        toy.policy.actions[:, 1] += 0.4
    after, figures = corrected(samples, toy.policy, toy.config, 1.0)
    truncated = 0
    for old, new in zip(samples, after):
        now = toy.policy.evaluate([old.input], [old.decision], 1.0).logprobs.detach().numpy()[0]
        np.testing.assert_allclose(new.decision.token_logprobs, now, atol=1e-6)
        change = now - old.decision.token_logprobs
        weight = math.exp(0.3 * change[0] + change[1])
        truncated += weight > 1.2
        assert new.advantage == pytest.approx(min(weight, 1.2) * old.advantage, rel=1e-5)
        assert isinstance(new, TokenSample)
        np.testing.assert_allclose(new.token_advantages, min(weight, 1.2) * old.token_advantages, rtol=1e-5)
        np.testing.assert_array_equal(new.token_targets, old.token_targets)
    assert 0 < truncated < len(samples) and figures['truncated'] == pytest.approx(truncated / len(samples))


def test_the_first_step_on_stale_decisions_follows_the_gradient_of_the_importance_weighted_return(make_toy):
    toy = make_toy(max_importance=100.0, thought_weight=1.0, epochs=1, minibatch_size=1000, value_coef=0.0,
                   normalise_advantages=False, max_grad_norm=0.0)
    samples = samples_of(toy)
    with torch.no_grad():
        toy.policy.actions[:, 1] += 0.7
    result = toy.policy.evaluate([s.input for s in samples], [s.decision for s in samples], 1.0)
    old = torch.tensor(np.array([s.decision.token_logprobs for s in samples]))
    advantages = torch.tensor([s.advantage for s in samples], dtype=torch.float32)
    (expected,) = torch.autograd.grad(-((result.logprobs - old).sum(1).exp() * advantages).mean(), toy.policy.actions)

    learner = Learner(toy.policy, toy.config, 0)
    found = {}
    learner.optimizer.step = lambda: found.update(gradient=toy.policy.actions.grad.clone())
    learner.update(corrected(samples, toy.policy, toy.config, 1.0)[0], number=0, temperature=1.0, progress=0.0)
    torch.testing.assert_close(found['gradient'], expected)


def test_a_reweighted_sample_keeps_everything_else(make_toy):
    sample = samples_of(make_toy())[0]
    assert isinstance(sample, Sample)
    assert replace(sample.reweighted(0.5, sample.decision), advantage=sample.advantage) == sample
