"""An ablation is checked whole before it starts, continues after whatever ended it, and counts right."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from training.cli import main, parse_arguments
from training.config import as_mapping
from training.evaluation.ablation_cell import _evaluate_arguments, is_evaluated, train_arguments
from training.evaluation.ablation_grid import load_ablation
from training.evaluation.ablation_page import render_ablation, render_markdown
from training.evaluation.ablation_results import band, collect, decisions_to, trailing_mean
from training.rl.run_folder import claimed
from vlm_agent_ros.checkpoint import load_policy, save_checkpoint
from vlm_agent_ros.config import find_config

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(600)  # several whole processes, on machines that do other things too


def rows(*successes, episodes=10):
    return [{'decisions_total': 100 * (i + 1), 'success': s, 'episodes': episodes} for i, s in enumerate(successes)]


def test_a_target_is_reached_when_a_whole_window_shows_it():
    curve = rows(0.2, 1.0, 0.7, 0.8, 0.9)
    assert decisions_to(curve, 0.8, 1) == 200
    assert decisions_to(curve, 0.8, 2) == 300  # (1.0 + 0.7) / 2
    assert decisions_to(curve, 0.8, 3) == 400  # (1.0 + 0.7 + 0.8) / 3
    assert decisions_to(curve, 0.95, 2) is None
    assert decisions_to(curve, 0.1, 5) == 500 and decisions_to(curve, 0.1, 6) is None
    assert decisions_to([], 0.5, 1) is None


def test_updates_weigh_by_their_episodes():
    curve = [*rows(1.0, episodes=30), {'decisions_total': 200, 'success': 0.0, 'episodes': 10},
             {'decisions_total': 250}]
    assert trailing_mean(curve, 'success', 2) == [(200, 0.75)]


def test_a_band_covers_what_all_seeds_have_in_common():
    assert band([[(0, 0.0), (100, 1.0)], [(50, 0.0), (150, 0.0)]]) == {
        'decisions': [50, 100], 'mean': [0.25, 0.5], 'low': [0.0, 0.0], 'high': [0.5, 1.0]}
    assert band([[(0, 0.0), (1, 1.0)], []])['decisions'] == []
    assert band([[(0, 0.0)], [(5, 0.0)]])['decisions'] == []


def write_grid(folder, **content):
    path = folder / 'grid.yaml'
    path.write_text(yaml.safe_dump({'base': {'transport': 'in-process'}, **content}, sort_keys=False))
    return str(path)


def test_variants_are_trained_at_every_point_of_the_grid_with_every_seed(tmp_path):
    path = write_grid(tmp_path, grid={'clip': [0.1, 0.2]}, variants={'plain': {}, 'guard': {'guard_coef': 0.5}},
                      seeds=[3, 4])
    ablation = load_ablation(path, str(tmp_path))
    assert list(ablation.variants) == ['plain,clip=0.1', 'plain,clip=0.2', 'guard,clip=0.1', 'guard,clip=0.2']
    last = ablation.cells[-1]
    assert len(ablation.cells) == 8 and last.folder == tmp_path / 'grid' / 'guard,clip=0.2' / 'seed4'
    assert (last.config.clip, last.config.guard_coef, last.config.seed, last.config.eval_episodes) == (0.2, 0.5, 4, 0)


def test_the_shipped_grids_are_valid(tmp_path, monkeypatch):
    (tmp_path / 'runs').mkdir()  # with what thoughts.yaml says is made first
    (tmp_path / 'runs' / 'tasks_none').symlink_to(ROOT / 'models' / 'tiny_vlm_tasks')
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / 'config' / 'training' / 'ablations').glob('*.yaml'):
        assert main(['ablate', path.stem, '--dry-run', '--runs-dir', 'new']) == 0
    assert [path.name for path in tmp_path.iterdir()] == ['runs']


@pytest.mark.parametrize(('content', 'said'), [
    ({}, 'neither grid nor variants'),
    ({'grid': {'clipp': [1]}}, "'clipp'"),
    ({'grid': {'clip': [0.1, 7]}}, 'clip is 7'),
    ({'grid': {'clip': 0.1}}, 'clip must be a list'),
    ({'grid': {'clip': []}}, 'grid.clip has no values'),
    ({'grid': {'seed': [1, 2]}}, 'seed cannot be varied'),
    ({'variants': {'mine': {'run_name': 'x'}}}, 'variants.mine: run_name cannot be varied'),
    ({'variants': {'mine': {'clip': 0.1}}, 'grid': {'clip': [0.1]}}, 'clip is set by grid and by variants.mine'),
    ({'variants': {'a b': {'clip': 0.1}, 'a/b': {'clip': 0.2}}}, 'two variants are named a-b'),
    ({'grid': {'clip': [0.1]}, 'seeds': [1, 1]}, 'seeds'),
    ({'grid': {'clip': [0.1]}, 'base': {'gamma': 3}}, 'base: gamma is 3'),
    ({'grid': {'clip': [0.1]}, 'base': 'nothing'}, "'nothing'"),
    ({'grid': {'clip': [0.1]}, 'base': 3}, 'base must be'),
    ({'variants': {'one': None}}, 'variants.one must be a mapping'),
    ({'grid': {'clip': [0.1]}, 'target': 2}, 'target is 2'),
    ({'grid': {'group_size': [1, 3]}}, 'multiple of group_size'),
    ({'grid': {'task': ['place', 'juggle']}}, "'juggle'"),
    ({'grid': {'clip': [0.1]}, 'evaluate': {'worlds': ['mars']}}, "'mars'"),
    ({'grid': {'model': ['tiny_vlm', '/no/where']}}, '/no/where'),
    ({'grid': {'clip': [0.1]}, 'evaluate': {'splits': ['hidden']}}, 'grid.yaml: evaluate.splits: no split named'),
    ({'grid': {'clip': [0.1]}, 'evaluate': {'tasks': ['pick', 'pick']}}, 'evaluate.tasks names one of them twice'),
    ({'grid': {'clip': [0.1]}, 'evaluate': {'splits': ['unseen-cell']}}, 'are trained in'),
    ({'grid': {'world': ['panda_table', 'shifted']}, 'base': {'transport': 'in-process', 'world': 'panda_table'},
      'evaluate': {'splits': ['unseen-cell'], 'worlds': ['shifted']}}, 'are trained in shifted'),
    ({'grid': {'clip': [0.1]}, 'base': {'transport': 'in-process', 'world': 'shifted', 'own_world': 'panda_table'},
      'evaluate': {'splits': ['unseen-cell'], 'worlds': ['panda_table']}}, 'are trained in panda_table'),
    ({'grid': {'clip': [0.1]}, 'base': {'transport': 'in-process', 'world': 'shifted', 'own_world': ''},
      'evaluate': {'splits': ['unseen-cell'], 'worlds': [str(find_config('worlds', 'shifted'))]}}, 'are trained in'),
    ({'grid': {'clip': [0.1]}, 'evaluate': {'splits': ['', 'seen']}}, 'evaluate.splits names no split'),
    ({'grid': {'env_id': ['vlm_agent_ros/NumberLine-v0', 'vlm_agent_ros/TwoCards-v0']}, 'base': {
        'env': 'gymnasium', 'env_id': 'vlm_agent_ros/NumberLine-v0', 'import': 'sim_worlds.games',
        'actions': ['+', '-']}}, 'env_id cannot be varied'),
])
def test_a_bad_grid_is_refused_in_one_sentence_before_anything_starts(content, said, tmp_path, capsys):
    path = write_grid(tmp_path, **content)
    assert main(['ablate', path, '--runs-dir', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out.json')]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count('\n') == 1 and captured.out == ''
    assert list(tmp_path.iterdir()) == [tmp_path / 'grid.yaml']


def test_a_model_that_was_trained_in_the_cell_that_shall_be_unseen_is_refused_before_anything_starts(
        vlm_folder, tmp_path, capsys):
    save_checkpoint(tmp_path / 'before', load_policy(str(vlm_folder)), step=1,
                    documents={'train_config': {'world': 'shifted'}})
    base = {'transport': 'in-process', 'world': 'panda_table', 'own_world': '', 'model': str(tmp_path / 'before')}
    path = write_grid(tmp_path, base=base, grid={'clip': [0.1]},
                      evaluate={'splits': ['unseen-cell'], 'worlds': ['shifted']})
    assert main(['ablate', path, '--runs-dir', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out.json')]) == 2
    assert 'before was trained in shifted' in capsys.readouterr().err and not (tmp_path / 'runs').exists()


def test_an_ablation_that_another_process_is_at_is_left_alone(tmp_path, capsys):
    path = write_grid(tmp_path, base={'transport': 'in-process'}, grid={'clip': [0.1]})
    with claimed(tmp_path / 'runs' / 'grid'):
        assert main(['ablate', path, '--runs-dir', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out.json')]) == 2
    assert 'another process is at the ablation' in capsys.readouterr().err and not (tmp_path / 'out.json').exists()


@pytest.mark.parametrize(('name', 'said'), [('out.md', 'out.md must end in .json'), ('', 'is a directory'),
                                            ('grid.yaml/out.json', 'cannot be written')])
def test_a_place_for_the_result_that_will_not_do_is_refused_before_anything_starts(name, said, tmp_path, capsys):
    """Beside out.md the table would be out.md as well."""
    path, runs = write_grid(tmp_path, grid={'clip': [0.1]}), tmp_path / 'runs'
    (tmp_path / 'folder.json').mkdir()
    out = tmp_path / (name or 'folder.json')
    assert main(['ablate', path, '--runs-dir', str(runs), '--out', str(out)]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1] and not runs.exists()


def test_the_prompt_of_a_model_that_tells_its_own_holds_for_the_evaluation_as_well(tmp_path):
    base = {'env': 'gymnasium', 'env_id': 'vlm_agent_ros/NumberLine-v0', 'import': 'sim_worlds.games',
            'actions': ['+', '-'], 'guard_coef': 0.0}
    for prompt, given in (('', None), ('--- {task}', '--- {task}')):
        path = write_grid(tmp_path, base={**base, 'prompt': prompt}, grid={'clip': [0.1]})
        ablation = load_ablation(path, str(tmp_path / repr(given)))
        cell, = (cell for cell in ablation.cells if cell.config.seed == 0)
        cell.folder.mkdir(parents=True)
        (cell.folder / 'training.yaml').write_text(yaml.safe_dump(as_mapping(cell.config)))
        args = parse_arguments(_evaluate_arguments(cell.folder, ablation.evaluate))
        assert getattr(args, 'prompt', None) == given


def test_a_run_begins_once_and_goes_on_from_then_on(tmp_path):
    assert train_arguments(tmp_path) == ['train', '--config', str(tmp_path / 'training.yaml')]
    (tmp_path / 'config.json').touch()
    assert train_arguments(tmp_path) == ['train', '--resume', str(tmp_path)]


@pytest.fixture(scope='module')
def small_grid(brief_model, tmp_path_factory):
    """Two variants of two seeds, each a handful of decisions."""
    return write_grid(tmp_path_factory.mktemp('ablation'), grid={'guard_coef': [0.0, 0.5]}, seeds=[0, 1], target=0.0,
                      evaluate={'episodes': 2}, base={
                          'transport': 'in-process', 'model': str(brief_model), 'world': 'panda_table', 'worlds': 2,
                          'decisions_per_update': 2, 'decisions': 4, 'epochs': 1, 'best_window': 1,
                          'checkpoint_every': 1})


@pytest.fixture(scope='module')
def ablated(small_grid):
    """Folder of an ablation that was killed after its first run, continued, and stopped nowhere else."""
    folder = Path(small_grid).parent
    command = [sys.executable, '-m', 'training', 'ablate', small_grid, '--runs-dir', str(folder / 'runs'), '--out',
               str(folder / 'out.json')]
    first = folder / 'runs' / 'grid' / 'guard_coef=0.0' / 'seed0'
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (first / 'evaluation.json').exists():
        time.sleep(0.05)
    finished = (first / 'evaluation.json').stat().st_mtime_ns
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and 'the same command continues' in said
    assert main([*command[3:], '--jobs', '2']) == 0
    assert (first / 'evaluation.json').stat().st_mtime_ns == finished
    return folder


def test_an_ablation_continues_after_a_signal_without_repeating_what_is_finished(ablated):
    runs = ablated / 'runs' / 'grid'
    assert sorted(str(p.parent.relative_to(runs)) for p in runs.glob('*/*/summary.json')) == [
        f'guard_coef={value}/seed{seed}' for value in ('0.0', '0.5') for seed in (0, 1)]
    assert (runs / 'guard_coef=0.0' / 'seed0' / 'log.txt').read_text().count('place in panda_table') == 1


def test_its_result_holds_every_seed_its_spread_and_what_it_was_made_with(ablated):
    results = json.loads((ablated / 'out.json').read_text())
    assert [variant['name'] for variant in results['variants']] == ['guard_coef=0.0', 'guard_coef=0.5']
    for variant in results['variants']:
        suite, = variant['suites']
        assert variant['seeds'] == [0, 1] and suite['pooled']['n'] == 4 and suite['over_seeds']['n'] == 2
        assert variant['decisions_to_target']['reached'] == 2  # a target of 0 is reached at once
        assert all(run['decisions'] >= 4 for run in variant['runs'])
    assert results['lost'] == [] and 'torch' in results['versions'][0] and results['machines'][0]['cores']
    table = ablated.joinpath('out.md').read_text()
    assert table.count('\n| guard_coef=') == 2 and 'torch' in table
    assert '<svg' in ablated.joinpath('out.html').read_text()


def test_a_changed_grid_does_not_go_on_with_the_runs_of_the_old_one(ablated, small_grid, tmp_path, capsys):
    content = yaml.safe_load(Path(small_grid).read_text())
    content['base']['learning_rate'] = 0.123
    path = write_grid(tmp_path, **content)
    assert main(['ablate', path, '--runs-dir', str(ablated / 'runs'), '--out', str(tmp_path / 'x.json')]) == 2
    assert 'learning_rate' in capsys.readouterr().err.splitlines()[-1]


def test_runs_of_before_a_change_of_the_world_file_are_not_mixed_with_those_of_after_it(
        ablated, small_grid, tmp_path, capsys):
    path = ablated / 'runs' / 'grid' / 'guard_coef=0.0' / 'seed1' / 'evaluation.json'
    kept = path.read_text()
    digest = json.loads(kept)['suites'][0]['world_sha256']
    path.write_text(kept.replace(digest, '0' * 64))  # as it was measured in a world file that said something else
    out = tmp_path / 'out.json'
    assert main(['ablate', small_grid, '--runs-dir', str(ablated / 'runs'), '--out', str(out)]) == 2
    path.write_text(kept)
    assert 'seed1 holds a run of before the world file' in capsys.readouterr().err and not out.exists()


def test_an_ablation_in_a_gymnasium_environment_measures_as_it_trains(brief_model, tmp_path):
    base = {'env': 'gymnasium', 'env_id': 'vlm_agent_ros/NumberLine-v0', 'import': 'sim_worlds.games',
            'actions': ['+', '-'], 'prompt': '{task}', 'model': str(brief_model), 'worlds': 2, 'decisions': 4,
            'decisions_per_update': 4, 'epochs': 1, 'half_batches': False, 'constrained': False}
    path = write_grid(tmp_path, base=base, grid={'illegal_rule': ['auto', 'first_match']}, seeds=[0],
                      evaluate={'episodes': 2})
    assert main(['ablate', path, '--runs-dir', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out.json'),
                 '--jobs', '2']) == 0
    measured = [json.loads(file.read_text()) for file in sorted(tmp_path.glob('runs/grid/*/seed0/evaluation.json'))]
    assert [(result['illegal_rule'], result['constrained']) for result in measured] == [
        ('auto', False), ('first_match', False)]


def test_runs_that_were_measured_in_another_order_are_told_by_their_suite(small_grid, tmp_path):
    """A grid whose tasks have changed places since is the same grid."""
    content = {**yaml.safe_load(Path(small_grid).read_text()), 'seeds': [0]}
    content['evaluate'] = {'tasks': ['place', 'pick'], 'episodes': 1}
    ablation = load_ablation(write_grid(tmp_path, **content), str(tmp_path))
    for cell, order in zip(ablation.cells, (('pick', 'place'), ('place', 'pick'))):
        cell.folder.mkdir(parents=True)
        (cell.folder / 'summary.json').write_text(json.dumps({
            'decisions': 4, 'wall_s': 1.0, 'stopped': '', 'versions': {}, 'machine': {}}))
        (cell.folder / 'evaluation.json').write_text(json.dumps({'temperature': 0.0, 'suites': [
            {'task': task, 'world': 'panda_table', 'split': '', 'success': float(task == 'pick'), 'n': 1,
             'ci95': [0.0, 1.0], 'lost_seeds': [], 'episodes': [
                 {'seed': 500_000_000, 'success': task == 'pick', 'return': 0.0, 'turns': 1}]} for task in order]}))
        assert is_evaluated(cell.folder, ablation.evaluate)
    for variant in collect(ablation, {})['variants']:
        for suites in (variant['suites'], variant['runs'][0]['suites']):
            assert [suite['task'] for suite in suites] == ['place', 'pick']


def test_a_run_that_fails_is_left_out_and_told(ablated, small_grid, tmp_path, capsys):
    checkpoints = ablated / 'runs' / 'grid' / 'guard_coef=0.5' / 'seed1' / 'checkpoints'
    evaluation = checkpoints.with_name('evaluation.json')
    kept = evaluation.read_text()
    evaluation.unlink()
    os.rename(checkpoints, tmp_path / 'checkpoints')
    out = tmp_path / 'out.json'
    assert main(['ablate', small_grid, '--runs-dir', str(ablated / 'runs'), '--out', str(out)]) == 2
    os.rename(tmp_path / 'checkpoints', checkpoints)
    evaluation.write_text(kept)
    assert '1 of 4 runs were lost' in capsys.readouterr().err.splitlines()[-1]
    results = json.loads(out.read_text())
    lost, = results['lost']
    assert (lost['variant'], lost['seed']) == ('guard_coef=0.5', 1) and 'does not exist' in lost['reason']
    assert [variant['seeds'] for variant in results['variants']] == [[0, 1], [0]]
    assert 'Lost: guard_coef=0.5 seed 1' in render_markdown(results)
    assert 'Lost: guard_coef=0.5 seed 1' in render_ablation(results)
