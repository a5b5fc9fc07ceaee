"""Workers together play exactly the episodes of one process, in its order, each knowing only its own worlds."""

import pytest

from training.cluster.share import ListSchedule, ShareSchedule, in_order, shares
from training.rl.rollout import TrainingSchedule
from training.worlds.episodes import Player

CASES = [  # worlds, group size, workers, decisions per update, halves
    (8, 1, 2, 33, True), (8, 2, 3, 40, True), (6, 1, 6, 7, True), (7, 1, 3, 25, True), (10, 2, 2, 3, True),
    (9, 3, 2, 50, False), (5, 1, 4, 64, True), (12, 4, 3, 30, True)]


def key(episode):
    return episode.world, episode.slot, [(t.decision.text, t.decision.token_logprobs.tolist()) for t in episode.turns]


def one_process(toy, updates):
    schedule = TrainingSchedule(toy.config)
    player = Player(toy.policy, toy.worlds, toy.commander_of, half_batches=toy.config.half_batches,
                    unit=toy.config.group_size)
    found = []
    for _ in range(updates):
        schedule = TrainingSchedule(toy.config, schedule.opened)
        found.append([key(e) for e in player.play(schedule, temperature=1.0)])
    return found, schedule.opened


def workers(make_toy, config_of, updates):
    config = config_of().config
    opened, found = [0] * config.groups, []
    parts = shares(config)
    players = []
    for share in parts:
        toy = make_toy(len(share.worlds))
        players.append(Player(toy.policy, toy.worlds, toy.commander_of, half_batches=config.half_batches,
                              first=share.first))
    for _ in range(updates):
        episodes, after = [], list(opened)
        for share, player in zip(parts, players):
            schedule = ShareSchedule(config, share, opened)
            for episode in player.play(schedule, temperature=1.0):
                episode.world = share.worlds[episode.world]
                episodes.append(episode)
            for group in share.groups:
                after[group] = schedule.opened[group]
        opened = after
        found.append([key(e) for e in in_order(config, episodes)])
    return found, opened


@pytest.mark.parametrize(('worlds', 'group', 'count', 'decisions', 'halves'), CASES)
def test_workers_play_the_episodes_of_one_process_in_its_order(make_toy, worlds, group, count, decisions, halves):
    def toy():
        return make_toy(worlds, group_size=group, workers=count, decisions_per_update=decisions, half_batches=halves)

    expected, opened = one_process(toy(), 3)
    assert workers(make_toy, toy, 3) == (expected, opened)
    assert sum(map(len, expected)) > 5


@pytest.mark.parametrize(('worlds', 'group', 'count', 'decisions', 'halves'), CASES)
def test_every_world_belongs_to_one_worker_and_groups_stay_whole(make_toy, worlds, group, count, decisions, halves):
    config = make_toy(worlds, group_size=group, workers=count, half_batches=halves).config
    parts = shares(config)
    assert sorted(world for share in parts for world in share.worlds) == list(range(worlds))
    assert all(share.worlds and len(share.worlds) == group * len(share.groups) for share in parts)
    sizes = [len(share.groups) for share in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_list_of_episodes_is_played_once_each(make_toy):
    toy = make_toy(3)
    slots = [TrainingSchedule(toy.config, [n] * 3).next(0, 0) for n in range(7)]
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    seeds = [e.slot.request.seed for e in player.play(ListSchedule(slots), temperature=1.0)]
    assert sorted(seeds) == sorted(slot.request.seed for slot in slots)
