"""Comparisons pair the same episodes or refuse, count them rightly, and call equal what is equal."""

import copy
import json

import numpy as np
import pytest

from training.cli import main
from training.evaluation.compare_page import render_comparison
from training.evaluation.comparison import check_paired, check_same_worlds, compare
from training.evaluation.evaluate import Suite
from training.evaluation.evaluator import plan_of
from training.evaluation.statistics import wilson_interval
from training.reports.films import Film, Frame, encode_png
from vlm_agent_ros.checkpoint import load_policy, save_checkpoint
from vlm_agent_ros.errors import UserError

EVIL = '<script>alert("1")</script>'


def evaluation(successes, world='w', lost=()):
    """A result as `vlm-agent evaluate` writes it, one episode per entry of ``successes``."""
    episodes = [{'seed': seed, 'instruction': EVIL, 'success': bool(success), 'return': float(success), 'turns': 2.0}
                for seed, success in enumerate(successes) if seed not in lost]
    n = len(episodes)
    solved = sum(episode['success'] for episode in episodes)
    return {'checkpoint': EVIL, 'temperature': 0.0, 'suites': [
        {'task': 'place', 'world': world, 'split': '', 'success': solved / n, 'n': n,
         'ci95': list(wilson_interval(solved, n)), 'return': solved / n,
         'turns': 2.0, 'lost_seeds': list(lost), 'episodes': episodes}]}


def test_a_pair_is_counted_tested_and_signed_as_second_less_first():
    a, b = evaluation([1, 1, 0, 0, 0, 0, 0, 0]), evaluation([1, 0, 1, 1, 1, 1, 1, 0])
    pair = compare({'A': a, 'B': b})['suites'][0]['pairs'][0]
    assert [pair[key] for key in ('n', 'both', 'only_a', 'only_b', 'neither')] == [8, 1, 1, 5, 1]
    assert pair['seeds_only_a'] == [1] and pair['seeds_only_b'] == [2, 3, 4, 5, 6]
    assert pair['success']['difference'] == pytest.approx(0.5) == pair['return']['difference']
    assert pair['success']['p'] == pytest.approx(2 * (1 + 6) / 64) == pair['success']['p_holm']
    assert pair['turns'] == {'a': 2.0, 'b': 2.0, 'difference': 0.0, 'ci95': [0.0, 0.0], 'p': 1.0, 'p_holm': 1.0}


def test_several_pairs_are_corrected_together():
    a, b = evaluation([1] * 10), evaluation([0] * 10)
    pairs = compare({'A': a, 'B': b, 'C': a})['suites'][0]['pairs']
    assert [(pair['a'], pair['b']) for pair in pairs] == [('A', 'B'), ('A', 'C'), ('B', 'C')]
    assert [pair['success']['p_holm'] for pair in pairs] == pytest.approx([6 / 1024, 1.0, 6 / 1024])


def test_an_episode_that_a_broken_world_lost_leaves_its_pair_out():
    whole, broken = evaluation([1, 1, 0]), evaluation([1, 1, 0], lost=(1,))
    check_paired([('a', plan_of(whole)), ('b', plan_of(broken))])
    assert compare({'A': whole, 'B': broken})['suites'][0]['pairs'][0]['n'] == 2
    with pytest.raises(UserError, match='A and B have no finished episode of place in w in common: evaluate them anew'):
        compare({'A': broken, 'B': evaluation([1, 1, 0], lost=(0, 2))})


@pytest.mark.parametrize(('other', 'said'), [
    (evaluation([1, 0, 1, 1]), 'different seeds'), (evaluation([1, 0, 1], world='v'), 'tasks and worlds'),
])
def test_what_was_not_made_on_the_same_episodes_is_refused(other, said):
    with pytest.raises(UserError, match=said) as error:
        check_paired([('mine.json', plan_of(evaluation([1, 1, 0]))), ('theirs.json', plan_of(other))])
    assert 'mine.json' in str(error.value) and 'theirs.json' in str(error.value)


def test_results_from_before_and_after_a_change_of_the_world_file_are_refused():
    place = Suite('place', 'w')
    check_same_worlds([('a', {place: 'x'}), ('older', {place: ''}), ('b', {place: 'x'})])
    with pytest.raises(UserError, match='a and b were not evaluated in the same w:'):
        check_same_worlds([('a', {place: 'x'}), ('older', {place: ''}), ('b', {place: 'y'})])


def test_the_page_escapes_and_shows_the_episodes_that_differ():
    frame = Frame(encode_png(np.zeros((4, 4, 3), np.uint8)), EVIL, EVIL, EVIL)
    comparison = compare({'A': {'source': EVIL, **evaluation([1, 0, 1])},
                          'B': {'source': EVIL, **evaluation([1, 1, 1])}})
    films = {(label, str(Suite('place', 'w')), seed): Film(EVIL, True, (frame,)) for label in 'AB' for seed in range(3)}
    page = render_comparison(comparison, films)
    assert '<script' not in page and page.count('class="film"') == 2 and '(p = 1.000)' in page
    assert 'B succeeds where A fails: 1 of 1' in page and 'A succeeds where' not in page


@pytest.fixture
def results(tmp_path):
    def write(**contents):
        for name, content in contents.items():
            (tmp_path / f'{name}.json').write_text(json.dumps(content))
        return [str(tmp_path / f'{name}.json') for name in contents]

    return write


def test_results_are_compared_from_their_files(results, tmp_path, capsys):
    files = results(a=evaluation([1] * 12), b=evaluation([0] * 12))
    assert main(['compare', *files, '--out', str(tmp_path / 'out')]) == 0
    assert '100.0% → 0.0%' in capsys.readouterr().out
    content = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    assert content['suites'][0]['pairs'][0]['success']['p'] == pytest.approx(2 / 2**12)
    assert 'A succeeds more often than B</b> (p &lt; 0.001)' in (tmp_path / 'out' / 'compare.html').read_text()


def test_what_cannot_be_compared_ends_in_one_sentence(results, tmp_path, capsys):
    broken = copy.deepcopy(evaluation([1]))
    del broken['suites'][0]['episodes'][0]['success']
    a, b, c = results(a=evaluation([1, 0]), b=evaluation([1, 0, 1]), c=broken)
    out = tmp_path / 'out'
    for arguments, said in (([a], '2 to 26'), ([a, b], 'seeds'), ([a, c], 'c.json is no result'),
                            ([a, '/nowhere.json'], '/nowhere.json'), ([a, a, '--temperature', '1'], '--temperature'),
                            ([a, a, '--task', 'pick'], '--task'), ([a, a, '--episodes', '0'], '--episodes'),
                            (['--transport', 'in-process', 'tiny_vlm', '/no/where'], '/no/where'),
                            (['--transport', 'in-process', 'tiny_vlm', 'tiny_vlm', '--task', 'juggle'], 'juggle')):
        assert main(['compare', *arguments, '--out', str(out)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count('\n') == 1 and not out.exists()


def test_a_model_is_not_played_in_another_environment_than_that_of_the_results(results, tmp_path, capsys):
    line = ['--env', 'gymnasium', '--env-id', 'vlm_agent_ros/NumberLine-v0', '--import', 'sim_worlds.games',
            '--actions', '+', '-']
    cell, cards, game = evaluation([1, 0], world='panda_table'), evaluation([1]), evaluation([1])
    cards['suites'][0] |= {'task': 'vlm_agent_ros/TwoCards-v0', 'world': 'gymnasium'}
    game['suites'][0] |= {'task': 'vlm_agent_ros/NumberLine-v0', 'world': 'gymnasium'}
    a, b, c = results(a=cell, b=cards, c=game)
    for source, options, said in ((a, line, 'NumberLine-v0 is not what the result is of, place in panda_table'),
                                  (b, line, 'NumberLine-v0 is not what the result is of, vlm_agent_ros/TwoCards-v0'),
                                  (c, [], '--env gymnasium --env-id vlm_agent_ros/NumberLine-v0')):
        assert main(['compare', source, 'tiny_vlm_actions', *options, '--out', str(tmp_path / 'out')]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_a_model_that_cannot_be_played_is_refused_before_the_others_are(tmp_path, vlm_folder, capsys):
    save_checkpoint(tmp_path / 'mine', load_policy(str(vlm_folder)), step=1,
                    documents={'train_config': {'world': 'shifted'}})
    line = ['--env', 'gymnasium', '--env-id', 'vlm_agent_ros/NumberLine-v0', '--import', 'sim_worlds.games',
            '--actions', '+', '-']
    for sources, said in ((['tiny_vlm_actions', 'expert', *line], 'the expert of a Gymnasium environment'),
                          (['tiny_vlm', str(tmp_path / 'mine'), '--split', 'unseen-cell', '--transport', 'in-process'],
                           'mine was trained in shifted')):
        assert main(['compare', *sources, '--episodes', '1', '--out', str(tmp_path / 'out')]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_a_result_is_not_overwritten_by_that_of_another_model(results, tmp_path, capsys):
    mine, = results(B=evaluation([1, 0], world='panda_table'))
    before = (tmp_path / 'B.json').read_text()
    assert main(['compare', mine, 'expert', '--out', str(tmp_path)]) == 2
    assert 'B.json would be overwritten' in capsys.readouterr().err
    assert (tmp_path / 'B.json').read_text() == before


@pytest.mark.parametrize('option', [['--unconstrained'], ['--worlds', '3'], ['--env', 'cell'],
                                    ['--illegal-rule', 'first_match'], ['--transport', 'in-process']])
def test_options_of_playing_are_refused_where_nothing_is_played(results, tmp_path, capsys, option):
    a, = results(a=evaluation([1, 0]))
    assert main(['compare', a, a, *option, '--out', str(tmp_path / 'out')]) == 2
    assert f'{option[0]} was given, but nothing is played' in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_played(results, tmp_path, capsys):
    a, = results(a=evaluation([1, 0], world='panda_table'))
    for sources in ([a, a], ['expert', a, '--transport', 'in-process']):
        assert main(['compare', *sources, '--out', a]) == 2
        error = capsys.readouterr().err
        assert f'{a}/compare.json cannot be written' in error and error.count('\n') == 1


@pytest.mark.parametrize('change', [
    {'ci95': None}, {'ci95': [0.5]}, {'n': None}, {'return': float('nan')}, {'turns': 'two'},
    {'episodes': [{'seed': 0, 'success': 'false', 'return': 1.0, 'turns': 2.0}]},
    {'episodes': [{'seed': 0, 'success': True, 'return': float('nan'), 'turns': 2.0}]}])
def test_a_result_that_says_no_numbers_is_refused_before_anything_is_written(results, tmp_path, capsys, change):
    broken = evaluation([1])
    broken['suites'][0].update(change)
    nothing = {**evaluation([1]), 'suites': []}
    a, b, c = results(a=evaluation([1]), b=broken, c=nothing)
    for other in (b, c):
        assert main(['compare', a, other, '--out', str(tmp_path / 'out')]) == 2
        assert f'{other} is no result of an evaluation' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_the_same_model_twice_differs_in_nothing(brief_model, tmp_path):
    out = tmp_path / 'out'
    assert main(['compare', str(brief_model), str(brief_model), '--transport', 'in-process', '--task', 'place', 'pick',
                 '--episodes', '3', '--worlds', '3', '--out', str(out)]) == 0
    content = json.loads((out / 'compare.json').read_text())
    assert [(suite['task'], suite['world']) for suite in content['suites']] == [
        ('place', 'panda_table'), ('pick', 'panda_table')]
    for suite in content['suites']:
        pair, = suite['pairs']
        assert pair['n'] == 3 and pair['only_a'] == pair['only_b'] == 0
        assert all(pair[measure]['p'] == 1.0 and pair[measure]['difference'] == 0.0
                   for measure in ('success', 'return', 'turns'))
    # What was evaluated is there to be compared again.
    assert main(['compare', str(out / 'A.json'), str(out / 'B.json'), '--out', str(tmp_path / 'again')]) == 0
