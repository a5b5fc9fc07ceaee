"""The learner's updates: what is trained when, and a toy problem that every algorithm learns to optimality."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.rl.algorithms import Correction
from training.rl.correction_memory import CorrectionMemory
from training.rl.learner import Learner, _Statistics
from training.rl.rollout import TrainingSchedule, collect
from training.worlds.episodes import Player
from vlm_agent_ros.errors import UserError

GROUPS = {'group_size': 4, 'worlds': 8}


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
    {}, {'ratio_level': 'token'}, {'baseline': 'group', **GROUPS}, {'kl_coef': 0.01}, {'algorithm': 'turn_ppo'},
    {'algorithm': 'turn_ppo', 'kl_coef': 0.01, 'value_warmup_updates': 2}, {'algorithm': 'grpo', **GROUPS},
    {'algorithm': 'gigpo', **GROUPS}, {'algorithm': 'gigpo', 'clip_high': 0.3, 'dynamic_sampling': 2.0, **GROUPS},
], ids=['decision', 'token', 'group', 'kl', 'turn', 'turn-kl-warmup', 'grpo', 'gigpo', 'gigpo-dynamic'])
def test_a_two_state_problem_is_learnt_to_optimality(make_toy, overrides):
    toy = make_toy(**{'decisions_per_update': 64, 'minibatch_size': 32, **overrides})
    learn(toy, 40)
    probabilities = torch.softmax(toy.policy.actions, dim=1)
    assert probabilities[0, 0] > 0.95 and probabilities[1, 1] > 0.95


def test_the_value_head_is_trained_alone_while_it_warms_up(make_toy):
    toy = make_toy(value_warmup_updates=1)
    learn(toy, 1)
    assert not toy.policy.actions.any() and not toy.policy.thoughts.any()
    assert toy.policy.value_head.all()


def test_without_a_critic_the_value_head_rests_and_warm_up_is_skipped(make_toy):
    toy = make_toy(algorithm='grpo', value_warmup_updates=1, **GROUPS)
    row = learn(toy, 1)[0]
    assert toy.policy.actions.any() and not toy.policy.value_head.any()
    assert not {'value_loss', 'explained_variance'} & row.keys()


def test_an_update_without_decisions_changes_nothing(make_toy):
    for algorithm in ('ppo', 'grpo'):
        toy = make_toy(algorithm=algorithm, **GROUPS)
        row = Learner(toy.policy, toy.config, 0).update([], number=3, temperature=1.0, progress=0.0)
        assert row['learned_share'] == 0.0 and not toy.policy.actions.any()


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


def corrected_in_first_context(toy):
    """A rollout of which the reward says nothing, and the guard that the thought has to be another in one decision."""
    samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config, 1.0
                      ).samples
    first = next(i for i, sample in enumerate(samples) if not sample.input.image.any())
    right = replace(samples[first].decision, token_ids=np.array([1, 2]))
    return [replace(sample, advantage=0.0, correction=Correction(right, right.thought_mask) if i == first else None)
            for i, sample in enumerate(samples)]


def test_the_guard_teaches_the_tokens_that_a_correction_names_and_no_other(make_toy):
    toy = make_toy(guard_coef=1.0, learning_rate=0.1)
    samples = corrected_in_first_context(toy)
    row = Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
    assert row['guard_loss'] > 0.0
    thoughts = torch.softmax(toy.policy.thoughts, dim=1)
    assert thoughts[0, 1] > 0.55 and thoughts[1, 1] == 0.5
    assert not toy.policy.actions.any()


def test_the_guard_teaches_also_where_no_decision_is_worth_learning_from(make_toy):
    toy = make_toy(guard_coef=1.0, min_advantage=10.0, learning_rate=0.1)
    samples = corrected_in_first_context(toy)
    Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
    assert toy.policy.thoughts[0].any() and not toy.policy.thoughts[1].any() and not toy.policy.actions.any()
    assert toy.policy.value_head.all()


def test_without_the_weight_of_the_reward_the_guard_alone_teaches(make_toy):
    toy = make_toy(guard_coef=1.0, policy_coef=0.0, learning_rate=0.1)
    samples = [replace(sample, advantage=1.0) for sample in corrected_in_first_context(toy)]
    Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
    assert toy.policy.thoughts[0].any() and not toy.policy.thoughts[1].any() and not toy.policy.actions.any()
    assert toy.policy.value_head.all()


def test_corrections_of_earlier_updates_are_learned_from_again(make_toy):
    after = []
    for replay in (0.0, 0.5):
        toy = make_toy(guard_coef=1.0, guard_replay=replay, learning_rate=0.05, value_warmup_updates=0)
        samples = corrected_in_first_context(toy)
        learner = Learner(toy.policy, toy.config, 0)
        learner.update(samples, number=0, temperature=1.0, progress=0.0)
        uncorrected = [replace(sample, correction=None) for sample in samples]
        row = learner.update(uncorrected, number=1, temperature=1.0, progress=0.0)
        assert ('guard_loss' in row) == bool(replay)
        after.append(torch.softmax(toy.policy.thoughts, dim=1).detach())
    assert after[1][0, 1] > after[0][0, 1] > 0.5 and after[1][1, 1] == after[0][1, 1] == 0.5


def test_replay_goes_through_the_newest_corrections_before_it_repeats_any(make_toy):
    toy = make_toy(guard_coef=1.0)
    corrected = next(s for s in corrected_in_first_context(toy) if s.correction)
    memory = CorrectionMemory(5)
    assert memory.draw(3, seed=0) == []
    memory.add([replace(corrected, input=replace(corrected.input, prompt=str(number))) for number in range(8)])
    assert [sample.input.prompt for sample in memory.samples] == ['3', '4', '5', '6', '7']
    drawn = [sample.input.prompt for sample in memory.draw(12, seed=1)]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == ['3', '4', '5', '6', '7'] and len(set(drawn[10:])) == 2
    assert drawn == [sample.input.prompt for sample in memory.draw(12, seed=1)]
    assert drawn != [sample.input.prompt for sample in memory.draw(12, seed=2)]


def test_an_annealed_guard_has_gone_at_the_end(make_toy):
    toy = make_toy(guard_coef=1.0, guard_anneal=True)
    samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config, 1.0
                      ).samples
    samples = [replace(sample, advantage=0.0, correction=Correction(sample.decision, sample.decision.thought_mask))
               for sample in samples]
    Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=1.0)
    assert not toy.policy.thoughts.any()


def test_an_update_stops_at_its_target_kl(make_toy):
    toy = make_toy(target_kl=1e-4, learning_rate=0.5)
    row = learn(toy, 1)[0]
    assert row['stopped_early'] == 1.0
    assert row['optimiser_steps'] < toy.config.epochs * 2


def test_the_kl_of_an_update_is_that_of_all_that_is_written_however_little_thoughts_weigh(make_toy):
    found = []
    for weight in (0.0, 0.3, 1.0):
        toy = make_toy(thought_weight=weight, learning_rate=0.0)
        samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config,
                          1.0).samples
        with torch.no_grad():
            toy.policy.thoughts += torch.tensor([0.0, 1.0])
        row = Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
        found.append(row['approx_kl'])
    assert found == pytest.approx([found[0]] * 3) and found[0] > 0.05


def test_what_is_clipped_is_counted_by_token_where_tokens_have_ratios_of_their_own(make_toy):
    found = {}
    levels = {'decision': {}, 'token': {'ratio_level': 'token'}, 'turn': {'algorithm': 'turn_ppo'}}
    for name, overrides in levels.items():
        toy = make_toy(learning_rate=0.0, value_learning_rate=0.0, clip=0.4, thought_weight=1.0, **overrides)
        samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config,
                          1.0).samples
        with torch.no_grad():  # ratios of 1.24 and 0.76, and of two tokens 1.54, 0.94 and 0.58
            toy.policy.thoughts += torch.tensor([0.0, 0.5])
            toy.policy.actions += torch.tensor([0.0, 0.5])
        row = Learner(toy.policy, toy.config, 0).update(samples, number=1, temperature=1.0, progress=0.0)
        found[name] = row['clip_fraction']
    assert found['decision'] > 0.2 and found['token'] == found['turn'] == 0.0


def test_without_a_target_every_minibatch_of_every_epoch_makes_a_step(make_toy):
    row = learn(make_toy(), 1)[0]
    assert row['optimiser_steps'] == 4 * round(row['decisions'] / 16)
    assert row['logprob_error'] == pytest.approx(0.0, abs=1e-6)


def test_no_number_is_waited_for_before_the_update_has_ended_unless_it_may_stop_it(make_toy, monkeypatch):
    toy = make_toy(guard_coef=1.0, kl_coef=0.01)
    samples = collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config, 1.0
                      ).samples
    samples = [replace(s, correction=Correction(s.decision, s.decision.thought_mask)) for s in samples]
    learner, reads = Learner(toy.policy, toy.config, 0), []
    monkeypatch.setattr(learner.optimizer, 'step', lambda: None)  # reads Adam's own counters, which the CPU holds
    for name in ('item', '__float__', '__bool__', 'tolist', 'numpy'):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *given, own=own, name=name: (reads.append(name), own(*given))[1])
    means = _Statistics.means
    monkeypatch.setattr(_Statistics, 'means', lambda statistics: (reads.append('end'), means(statistics))[1])
    row = learner.update(samples, number=1, temperature=1.0, progress=0.0)
    assert all(type(value) in (int, float) for value in row.values()) and row['gradient_norm'] > 0.0
    assert {'guard_loss', 'reference_kl', 'value_loss', 'approx_kl'} <= row.keys()
    assert reads[0] == 'end' and '__float__' in reads


def test_learning_rates_follow_the_schedule(make_toy):
    toy = make_toy(lr_schedule='cosine', lr_final_fraction=0.1, learning_rate=1.0, value_learning_rate=0.5)
    ppo = Learner(toy.policy, toy.config, 0)
    assert ppo.learning_rates(0.0) == pytest.approx((1.0, 0.5))
    assert ppo.learning_rates(0.5) == pytest.approx((0.55, 0.275))
    assert ppo.learning_rates(1.0) == pytest.approx((0.1, 0.05))


def test_an_update_whose_episodes_were_all_lost_ends_in_a_sentence(make_toy):
    toy = make_toy(worlds=1, decisions_per_update=1, breaks_at=2)  # the reset is answered, the turn is not
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    with pytest.raises(UserError, match='every episode of this update was lost'):
        collect(player, TrainingSchedule(toy.config), toy.config, 1.0)


@pytest.mark.parametrize('algorithm', ['ppo', 'turn_ppo'])
def test_what_earned_less_than_expected_has_no_gain_however_little_the_others_earned(make_toy, algorithm):
    toy = make_toy(algorithm=algorithm, gamma=0.0)
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    with torch.no_grad():
        toy.policy.value_head.fill_(2.0)  # more than can be earned
    samples = collect(player, TrainingSchedule(toy.config), toy.config, 1.0).samples
    assert any(sample.advantage > 0.0 for sample in samples)
    assert all(sample.gain < 0.0 for sample in samples)


@pytest.mark.parametrize('algorithm', ['ppo', 'turn_ppo'])
def test_what_earned_no_more_than_the_others_has_no_gain_however_little_was_expected(make_toy, algorithm):
    toy = make_toy(algorithm=algorithm, gamma=0.0)
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    with torch.no_grad():
        toy.policy.value_head.fill_(-100.0)  # as where rewards are larger than a value head learns to say
    samples = collect(player, TrainingSchedule(toy.config), toy.config, 1.0).samples
    best = max(sample.value_target for sample in samples)
    assert {sample.gain > 0.0 for sample in samples} == {True, False}
    assert all((sample.gain > 0.0) == (sample.value_target == best) for sample in samples)


@pytest.mark.parametrize('spoilt', [{'advantage': float('inf')}, {'advantage': float('nan')},
                                    {'value_target': float('inf')}])
def test_a_gradient_or_a_loss_that_is_no_number_is_told(make_toy, spoilt):
    toy = make_toy()
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    samples = collect(player, TrainingSchedule(toy.config), toy.config, 1.0).samples
    learner = Learner(toy.policy, toy.config, 0)
    with pytest.raises(UserError, match='no finite number'):
        learner.update([replace(sample, **spoilt) for sample in samples], number=0, temperature=1.0, progress=0.0)
