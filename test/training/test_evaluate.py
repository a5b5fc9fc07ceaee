"""Evaluation: intervals, determinism, and episodes that a broken world lost."""

import dataclasses
import json

import pytest

from training.cli import main
from training.episodes import Player
from training.evaluate import evaluate, wilson_interval
from training.seeds import evaluation_seeds


@pytest.mark.parametrize(('successes', 'n', 'low', 'high'), [
    (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (81, 263, 0.25526, 0.36618), (170, 200, 0.79387, 0.89291),
])
def test_the_interval_has_known_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_nothing_is_known_without_episodes():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def run(toy, **settings):
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    return evaluate(player, 'toy', 'toy', evaluation_seeds(30), **settings)


def comparable(result):
    return dataclasses.replace(result, latency_ms=0.0, wall_s=0.0)


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_the_result_depends_on_policy_and_seeds_only(make_toy, temperature):
    few, many = make_toy(worlds=2), make_toy(worlds=5)
    few.policy.actions.data[0, 0] = many.policy.actions.data[0, 0] = 1.0
    first, second = run(few, temperature=temperature), run(many, temperature=temperature)
    assert sorted(few.worlds.seeds) == sorted(many.worlds.seeds) == evaluation_seeds(30)
    assert comparable(first) == comparable(second)


def test_an_episode_that_a_broken_world_lost_is_tried_again(make_toy):
    whole, broken = run(make_toy()), run(make_toy(breaks_at=11))
    assert broken.n == 30 and broken.lost == 0
    assert comparable(broken) == comparable(whole)


def test_examples_keep_their_images_and_hold_both_ends(make_toy):
    result = run(make_toy(), temperature=1.0)
    assert {example.success for example in result.examples} == {True, False}
    assert all(turn.input.image.size for example in result.examples for turn in example.turns)
    assert result.to_json()['ci95'] == list(result.ci95)


def test_the_scripted_expert_is_evaluated_like_a_policy(capsys):
    assert main(['evaluate', '--checkpoint', 'expert', '--task', 'inspect', '--split', 'unseen-cell',
                 '--episodes', '2']) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result['success'], result['n'], result['grounded'], result['refused']) == (1.0, 2, 1.0, 0.0)
    assert (result['world'], result['split'], result['first_seed']) == ('shifted', 'unseen-cell', 500_000_000)
    assert result['kpi/defect_passed'] == 0.0 and result['versions']['pybullet']
