"""Who plays what, in which order, and what is made of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from training.rl.rollout import TrainingSchedule, collect
from training.worlds.commands import CellCommander
from training.worlds.episodes import Player
from vlm_agent_ros.actions import SkillLanguage


def play(toy, updates=1):
    schedule = TrainingSchedule(toy.config)
    player = Player(toy.policy, toy.worlds, toy.commander_of, unit=toy.config.group_size)
    return [collect(player, schedule, toy.config, 1.0) for _ in range(updates)], schedule, player


def actions(rollout):
    return [sample.decision.action for sample in rollout.samples]


def test_an_update_has_its_number_of_decisions_and_only_whole_episodes(make_toy):
    episodes = []
    toy = make_toy(decisions_per_update=32)
    schedule = TrainingSchedule(toy.config)
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    rollout = collect(player, schedule, toy.config, 1.0, episodes.append)
    assert 32 <= len(rollout.samples) <= 32 + 2 * toy.config.worlds
    assert all(e.outcomes[-1].terminated or e.outcomes[-1].truncated for e in episodes)
    assert sum(len(e.turns) for e in episodes) == len(rollout.samples)


def test_the_policy_is_told_what_it_said_one_turn_before_and_nothing_at_the_first(make_toy, monkeypatch):
    told = []
    observe = CellCommander.observe
    monkeypatch.setattr(CellCommander, 'observe', lambda self, observation, previous='': (
        told.append(previous), observe(self, observation, previous))[1])
    episodes = []
    toy = make_toy(worlds=1)
    collect(Player(toy.policy, toy.worlds, toy.commander_of), TrainingSchedule(toy.config), toy.config, 1.0,
            episodes.append)
    said = [memory for episode in episodes for memory in ('', *(turn.decision.memory for turn in episode.turns))]
    assert told[:len(said)] == said and any(said)


def test_the_next_update_goes_on_with_new_episodes(make_toy):
    toy = make_toy()
    _, schedule, _ = play(toy, 2)
    assert len(set(toy.worlds.seeds)) == len(toy.worlds.seeds) == sum(schedule.opened)


def test_a_schedule_continued_from_its_counters_gives_the_same_update(make_toy):
    unbroken, resumed = make_toy(), make_toy()
    rollouts, _, _ = play(unbroken, 2)
    _, schedule, _ = play(resumed, 1)
    player = Player(resumed.policy, resumed.worlds, resumed.commander_of)
    again = collect(player, TrainingSchedule(resumed.config, schedule.opened), resumed.config, 1.0)
    assert actions(again) == actions(rollouts[1])
    assert [s.advantage for s in again.samples] == [s.advantage for s in rollouts[1].samples]


def test_decisions_do_not_depend_on_the_number_of_worlds_that_share_a_batch(make_toy):
    def by_world(**overrides):
        toy = make_toy(**overrides)
        episodes = []
        player = Player(toy.policy, toy.worlds, toy.commander_of, half_batches=toy.config.half_batches)
        collect(player, TrainingSchedule(toy.config), toy.config, 1.0, episodes.append)
        return {(e.world, e.slot.index): [t.decision.action for t in e.turns] for e in episodes}

    halves, whole = by_world(half_batches=True), by_world(half_batches=False)
    assert all(halves[key] == whole[key] for key in halves.keys() & whole.keys())
    assert len(halves.keys() & whole.keys()) > 8


def test_every_world_of_a_group_plays_every_seed_of_its_group(make_toy):
    toy = make_toy(worlds=6, group_size=3, baseline='group')
    play(toy, 2)
    seeds, counts = np.unique(toy.worlds.seeds, return_counts=True)
    assert len(seeds) > 4 and (counts == 3).all()


def test_a_world_that_breaks_down_loses_its_episode_and_plays_the_next(make_toy):
    toy = make_toy(breaks_at=7)
    (rollout,), _, player = play(toy)
    assert player.lost == 1 and 'its process ended' in player.losses[0]
    assert len(rollout.samples) >= 32


def test_a_group_that_lost_an_episode_compares_the_others(make_toy):
    toy = make_toy(worlds=4, group_size=2, baseline='group', breaks_at=9, normalise_advantages=False)
    (rollout,), _, player = play(toy)
    assert player.lost == 1
    assert np.isfinite([s.advantage for s in rollout.samples]).all()


def test_truncated_episodes_bootstrap_and_terminated_ones_do_not(make_toy):
    toy = make_toy(normalise_advantages=False, gae_lambda=1.0, gamma=0.5)
    toy.policy.value_head.data.fill_(8.0)
    episodes = []
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    rollout = collect(player, TrainingSchedule(toy.config), toy.config, 1.0, episodes.append)
    targets = iter(s.value_target for s in rollout.samples)
    for episode in episodes:
        first = next(targets)
        if len(episode.turns) == 2:
            next(targets)
            assert first == pytest.approx(0.25 * 8.0 if episode.truncated else 0.5)
        else:
            assert first == pytest.approx(1.0)
    assert {episode.truncated for episode in episodes} == {True, False}


def test_an_illegal_output_costs_its_penalty(make_toy):
    toy = make_toy(illegal_penalty=1.0, normalise_advantages=False, gamma=0.0)
    decide = toy.policy.decide
    toy.policy.decide = lambda *a, **k: [d.__class__(**{**vars(d), 'legal': False}) for d in decide(*a, **k)]
    (rollout,), _, _ = play(toy)
    assert rollout.metrics['illegal'] == 1.0 and rollout.metrics['success'] == 0.0
    assert {s.value_target for s in rollout.samples} == {-1.0}


def test_the_first_legal_action_in_an_illegal_output_counts_where_the_rule_says_so(make_toy):
    toy = make_toy()
    decision = toy.policy.decide([toy.commander_of('').observe(_observation())], temperature=1.0, seeds=[0])[0]
    spoilt = decision.__class__(**{**vars(decision), 'legal': False, 'action': '', 'text': 'well, go right now'})
    agent, rules = toy.commander_of('').agent, toy.commander_of('').rules
    lost = CellCommander(agent, rules).command(spoilt, _observation(), 0)
    assert lost.rejection == 'illegal' and lost.move.positions[0, 0] == -1.0, 'stays: no motion may be an answer'
    found = CellCommander(agent, rules, 'first_match').command(spoilt, _observation(), 0)
    assert found.move.positions[0, 0] == 1.0


def _observation():
    from vlm_agent_ros.types import Observation

    return Observation(np.zeros((4, 4, 3), dtype=np.uint8), ('joint',), np.zeros(1), 'task', 0)


@pytest.mark.parametrize(('action', 'marker'), [
    *((f'{skill} 23 11', (23.5 / 48, 11.5 / 48)) for skill in ('pick', 'place', 'stack')),
    ('push 23 11 left', (23.5 / 48, 11.5 / 48)), ('done', None), ('pick it up', None)])
def test_films_mark_the_cell_of_every_skill_that_has_one(cell, action, marker):
    agent = SimpleNamespace(cell=cell, language=SkillLanguage(cell.grid))
    assert CellCommander(agent, rules=None).marker(action) == marker
