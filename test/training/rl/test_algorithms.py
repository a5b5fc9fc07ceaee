"""What each algorithm makes of the same few episodes, against values computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.config import TrainConfig
from training.rl.algorithms import Batch, make_algorithm
from training.rl.rollout import TrainingSchedule, collect, telling_groups
from training.worlds.commands import Command
from training.worlds.episodes import Episode, Player, Slot, Turn
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Decision, PolicyInput
from vlm_agent_ros.types import EpisodeRequest, Outcome


def episode(rewards, *, values=(0.0, 0.0, 0.0), images=(0, 1, 2), index=0, truncated=False, success=False, illegal=()):
    """An episode whose decisions have a thought token and an action token."""
    turns = []
    for i, reward in enumerate(rewards):
        last = i == len(rewards) - 1
        decision = Decision('', '', '', True, np.array([0, 2]), np.zeros(2, np.float32), np.array([True, False]),
                            values[i])
        turns.append(Turn(PolicyInput(np.full((2, 2, 3), images[i], np.uint8), f'turn {min(i, 1)}'), decision,
                          Command(None, 'illegal' if i in illegal else ''), 0.0,
                          Outcome(reward, last and not truncated, last and truncated, success, 0, i + 1, index)))
    return Episode(0, Slot(EpisodeRequest(index, 'x'), (0,), 0, index), turns=turns, final=turns[-1].input)


class Values:
    """A policy that says 2 of a final observation, and 1.5 before every second token."""

    def values(self, inputs):
        return np.full(len(inputs), 2.0, np.float32)

    def evaluate(self, inputs, decisions, temperature, token_values):
        return SimpleNamespace(values=torch.tensor([[d.value, 1.5] for d in decisions]))


def advantages(episodes, **overrides):
    settings = {'gamma': 0.9, 'gae_lambda': 0.5, 'normalise_advantages': False, **overrides}
    samples = make_algorithm(TrainConfig(**settings)).samples(episodes, Values())
    return [sample.advantage for sample in samples], samples


def test_ppo_has_one_advantage_per_decision_by_gae_and_bootstraps_where_an_episode_was_cut():
    found, samples = advantages([episode([1.0, 0.0], values=(0.5, 1.0), truncated=True)])
    assert found == pytest.approx([1.76, 0.8])  # as in test_gae.py
    assert [s.value_target for s in samples] == pytest.approx([2.26, 1.8])


def test_ppo_may_compare_with_the_group_and_falls_back_on_the_value_where_there_is_none():
    episodes = [episode([0.0, 1.0]), episode([0.5])]
    found, _ = advantages(episodes, baseline='group', group_size=2, worlds=2)
    assert found == pytest.approx([0.9 - 0.5, 1.0, 0.5 - 0.9])  # the second turn stands alone: GAE, 1 - 0


def test_turn_ppo_gives_the_worth_of_a_turn_to_its_tokens():
    found, samples = advantages([episode([1.0, 0.0], values=(0.5, 1.0), truncated=True)], algorithm='turn_ppo',
                                token_gamma=0.8, token_gae_lambda=0.5)
    assert found == pytest.approx([1.76, 0.8])
    # The first as in test_gae.py. The second is worth 1.8: δ = 0.8·1.5 - 1 = 0.2 and 1.8 - 1.5 = 0.3
    np.testing.assert_allclose([s.token_advantages for s in samples], [[1.004, 0.76], [0.2 + 0.4 * 0.3, 0.3]])
    np.testing.assert_allclose([s.token_targets for s in samples], [[1.504, 2.26], [1.32, 1.8]])


def test_turn_ppo_trains_every_tokens_value_and_each_token_by_its_own_advantage():
    algorithm = make_algorithm(TrainConfig(algorithm='turn_ppo', clip=0.2, value_clip=0.0, normalise_advantages=False))
    samples = algorithm.samples([episode([1.0], values=(0.5,))], Values())
    ratio = torch.tensor([[1.1, 1.5]]).log()
    result = SimpleNamespace(logprobs=ratio, values=torch.tensor([[0.0, 1.0]]), mask=torch.ones(1, 2, dtype=torch.bool))
    policy, value = algorithm.loss(Batch(samples, result, torch.zeros(1, 2), torch.tensor([[0.5, 1.0]])))
    # Advantages 1 - 0.5 and 1 - 1.5, a target of 1 for both; the negative one is not clipped.
    assert policy.item() == pytest.approx(-(0.5 * 1.1 * 0.5 + 1.5 * -0.5))
    assert value.item() == pytest.approx((0.5 * 1.0 + 0.0) / 2)


def test_grpo_gives_every_decision_the_normalised_return_of_its_episode():
    episodes = [episode([0.5, 0.5]), episode([0.0]), episode([3.0], index=1), episode([3.0], index=1)]
    found, samples = advantages(episodes, algorithm='grpo', group_size=2, worlds=2)
    assert found == pytest.approx([1.0, 1.0, -1.0, 0.0, 0.0], abs=1e-5)
    batch = Batch(samples[:1], SimpleNamespace(logprobs=torch.tensor([[0.1, 0.0]])), torch.zeros(1, 2),
                  torch.tensor([[0.3, 1.0]]))
    policy, value = make_algorithm(TrainConfig(algorithm='grpo', group_size=2)).loss(batch)
    assert policy.item() == pytest.approx(-np.exp(0.03), abs=1e-5) and value is None


def test_an_illegal_output_costs_its_penalty_in_every_algorithm():
    for name in ('grpo', 'gigpo'):
        found, _ = advantages([episode([1.0], illegal=[0]), episode([1.0])], algorithm=name, group_size=2, worlds=2,
                              illegal_penalty=0.5)
        assert found[0] < 0.0 < found[1]


@pytest.mark.parametrize(('anchor', 'second'), [('observation', [0.0, 0.0]), ('prompt', [1.0, -1.0])])
def test_gigpo_adds_what_a_decision_earned_from_a_state_that_others_met_too(anchor, second):
    # Both returns are 1, but the first came later: from the first state on 0.9 against 1, from the second 1 against 0.
    episodes = [episode([0.0, 1.0], images=(0, 1)), episode([1.0, 0.0], images=(0, 2))]
    found, _ = advantages(episodes, algorithm='gigpo', anchor=anchor, step_weight=0.5, group_size=2, worlds=2)
    np.testing.assert_allclose(found, [-0.5, 0.5 * second[0], 0.5, 0.5 * second[1]], atol=1e-4)


def test_gigpo_compares_repeated_states_within_one_episode_but_never_across_seeds():
    episodes = [episode([0.0, 0.0, 1.0], images=(0, 5, 5)), episode([1.0], index=1, images=(0,))]
    found, _ = advantages(episodes, algorithm='gigpo', group_size=2, worlds=2)
    np.testing.assert_allclose(found, [0.0, -1.0, 1.0, 0.0], atol=1e-4)  # 0.9 and 1 from the same picture on


def test_only_groups_that_neither_all_solve_nor_all_fail_are_telling():
    solved = [episode([1.0], success=True, index=i) for i in range(3)]
    failed = [episode([0.0], index=i) for i in (1, 2)]
    mixed = telling_groups([solved[0], solved[1], failed[0], solved[0], failed[1], failed[1]])
    assert mixed == [solved[1], failed[0]]


def test_dynamic_sampling_fills_the_update_up_and_counts_what_it_played(make_toy):
    toy = make_toy(dynamic_sampling=3.0, algorithm='grpo', group_size=2, worlds=4)
    rollout = collect(Player(toy.policy, toy.worlds, toy.commander_of, unit=2), TrainingSchedule(toy.config),
                      toy.config, 1.0)
    assert rollout.decisions > len(rollout.samples) >= 32
    assert rollout.metrics['kept_share'] == len(rollout.samples) / rollout.decisions
    assert rollout.metrics['decisions'] == rollout.decisions


def test_dynamic_sampling_ends_with_its_budget_where_every_group_is_solved(make_toy):
    toy = make_toy(dynamic_sampling=3.0, algorithm='grpo', group_size=2, worlds=4)
    with torch.no_grad():
        toy.policy.actions += 50.0 * torch.eye(2)
    rollout = collect(Player(toy.policy, toy.worlds, toy.commander_of, unit=2), TrainingSchedule(toy.config),
                      toy.config, 1.0)
    assert rollout.samples == [] and rollout.metrics['kept_share'] == 0.0
    assert 3 * 32 <= rollout.decisions <= 3 * 32 + 4


@pytest.mark.parametrize(('overrides', 'message'), [
    ({'algorithm': 'grpo'}, 'grpo.*group_size'), ({'dynamic_sampling': 2.0}, 'dynamic_sampling.*group_size'),
    ({'cot': False, 'constrained': False}, 'cot.*constrained')])
def test_settings_that_contradict_each_other_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**overrides)
