"""Evaluation: intervals, determinism, and episodes that a broken world lost."""

import dataclasses
import json

import pytest

from training.cli import main
from training.evaluation.evaluate import Suite, evaluate
from training.evaluation.evaluator import check_cell_is_unseen
from training.seeds import evaluation_seeds
from training.worlds.episodes import Player
from vlm_agent_ros.checkpoint import load_policy, save_checkpoint
from vlm_agent_ros.config import resource_root
from vlm_agent_ros.errors import UserError


def run(toy, episodes=30, **settings):
    player = Player(toy.policy, toy.worlds, toy.commander_of)
    return evaluate(player, Suite('toy', 'toy'), evaluation_seeds(episodes), **settings)


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
    assert broken.n == 30 and broken.lost == ()
    assert comparable(broken) == comparable(whole)


def test_examples_keep_their_images_and_hold_both_ends(make_toy):
    result = run(make_toy(), temperature=1.0)
    assert {example.success for example in result.examples} == {True, False}
    assert all(turn.input.image.size for example in result.examples for turn in example.turns)
    assert result.to_json()['ci95'] == list(result.ci95)


def test_every_episode_is_told_by_its_seed_and_adds_up_to_the_figures_of_all(make_toy):
    result = run(make_toy(), temperature=1.0)
    episodes = result.to_paired_json()['episodes']
    assert [episode['seed'] for episode in episodes] == evaluation_seeds(30)
    for name in ('success', 'return', 'turns'):
        assert sum(episode[name] for episode in episodes) / 30 == pytest.approx(result.to_json()[name])
    assert 'episodes' not in result.to_json()


def test_the_cell_that_a_checkpoint_was_trained_in_is_no_unseen_one(tmp_path, vlm_folder):
    policy = load_policy(str(vlm_folder))
    plan = [Suite('place', 'shifted', 'unseen-cell'), Suite('place', 'panda_table', 'seen')]
    for world in ('shifted', 'panda_table'):
        save_checkpoint(tmp_path / world, policy, step=1, documents={'train_config': {'world': world}})
    save_checkpoint(tmp_path / 'exported', policy, step=1)
    for name in ('panda_table', 'exported'):
        check_cell_is_unseen(str(tmp_path / name), plan)
    check_cell_is_unseen('tiny_vlm', plan)
    save_checkpoint(tmp_path / 'later', policy, step=1, documents={'train_config': {
        'world': 'panda_table', 'model': str(tmp_path / 'shifted')}})
    save_checkpoint(tmp_path / 'made_in', policy, step=1, documents={'train_config': {
        'world': 'panda_table', 'own_world': 'shifted'}})
    for name in ('shifted', 'later', 'made_in'):
        with pytest.raises(UserError, match='was trained in shifted, which is no unseen cell to it: name another'):
            check_cell_is_unseen(str(tmp_path / name), plan)


def test_a_checkpoint_that_has_learned_from_a_cells_log_knows_that_cell_alone(tmp_path, vlm_folder):
    save_checkpoint(tmp_path / 'learned', load_policy(str(vlm_folder)), step=1, documents={'train_config': {
        'world': '', 'own_world': '', 'cell': 'panda_table'}})
    check_cell_is_unseen(str(tmp_path / 'learned'), [Suite('place', 'shifted', 'unseen-cell')])
    with pytest.raises(UserError, match='was trained in panda_table, which is no unseen cell'):
        check_cell_is_unseen(str(tmp_path / 'learned'), [Suite('place', 'panda_table', 'unseen-cell')])


def test_a_world_that_a_checkpoint_was_trained_in_is_none_unseen_by_its_path(tmp_path, vlm_folder):
    policy, path = load_policy(str(vlm_folder)), str(resource_root() / 'config' / 'worlds' / 'shifted.yaml')
    for name, trained, asked in (('name', 'shifted', path), ('path', path, 'shifted')):
        save_checkpoint(tmp_path / name, policy, step=1, documents={'train_config': {
            'world': trained, 'own_world': '/another/machine.yaml'}})
        with pytest.raises(UserError, match='which is no unseen cell to it'):
            check_cell_is_unseen(str(tmp_path / name), [Suite('place', asked, 'unseen-cell')])


def test_running_worlds_are_not_named_where_worlds_are_played_in_process(capsys):
    assert main(['evaluate', '--transport', 'in-process', '--attach', '/world_0']) == 2
    assert '--attach names running ROS worlds' in capsys.readouterr().err


def test_seeds_that_no_world_could_play_are_named(make_toy):
    toy = make_toy(worlds=1)
    toy.worlds.breaks_always_at = evaluation_seeds(30)[4]
    result = run(toy)
    assert result.n == 29 and result.lost == (toy.worlds.breaks_always_at,)
    assert result.to_paired_json()['lost_seeds'] == [toy.worlds.breaks_always_at]


def test_an_evaluation_whose_episodes_were_all_lost_gives_no_figure(make_toy):
    toy = make_toy(worlds=1)
    toy.worlds.breaks_always_at = evaluation_seeds(1)[0]
    with pytest.raises(UserError, match='every episode of toy in toy was lost'):
        run(toy, episodes=1)


def test_the_scripted_expert_is_evaluated_like_a_policy(capsys):
    assert main(['evaluate', '--checkpoint', 'expert', '--task', 'inspect', '--split', 'unseen-cell',
                 '--episodes', '2']) == 0
    content = json.loads(capsys.readouterr().out)
    result, = content['suites']
    assert (result['success'], result['n'], result['grounded'], result['refused']) == (1.0, 2, 1.0, 0.0)
    assert (result['world'], result['split'], result['episodes'][0]['seed']) == ('shifted', 'unseen-cell', 500_000_000)
    assert result['kpi/defect_passed'] == 0.0
    assert content['versions']['pybullet'] and content['transport'] == 'in_process'
