"""``vlm-agent bench``: parts measured at different times make one result, and nothing is lost."""

import json
from types import SimpleNamespace

import pytest

from training import cli
from training.bench import command
from training.bench.bench_setup import PartResult


@pytest.fixture
def part(monkeypatch):
    """A part that measures what the test says."""
    measured = SimpleNamespace(found=PartResult({'speedup': 4.0}, [('speedup', '4.0', '4')]))
    monkeypatch.setattr(command, 'part_named', lambda name: lambda setup: measured.found)
    return measured


def bench(folder, *parts):
    command.run(cli.parse_arguments(['bench', '--out', str(folder), '--parts', *parts]))
    return json.loads((folder / 'results.json').read_text())


def test_a_part_measured_anew_leaves_the_others_as_they_were(tmp_path, part, capsys):
    bench(tmp_path, 'update', 'world')
    part.found = PartResult({'speedup': 5.0}, [('speedup', '5.0', '4')])
    results = bench(tmp_path, 'update')
    assert (results['update']['speedup'], results['world']['speedup']) == (5.0, 4.0)
    assert (tmp_path / 'results.md').read_text().count('| 5.0 | 4 |') == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {'update': {'speedup': 5.0}}  # what this run has measured


def test_figures_that_mean_little_are_marked(tmp_path, part):
    bench(tmp_path, 'update', '--quick')
    assert '| update (--quick: means little) |' in (tmp_path / 'results.md').read_text()
    part.found = PartResult({'seconds_to_85': 5.0}, [('main job', '5.0', '4')], repeats=1)
    assert bench(tmp_path, 'end_to_end')['end_to_end']['repeats'] == 1


@pytest.mark.parametrize(('options', 'told'), [
    (['--repeats', '0'], '--repeats is 0'), (['--device', 'warp'], 'warp'), (['--seed', '-1'], '--seed is -1'),
    (['--parts', 'engine'], 'engine')])
def test_bad_option_is_one_sentence(tmp_path, capsys, options, told):
    assert cli.main(['bench', '--out', str(tmp_path), *options]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('device', 'name', 'told'), [
    ('cuda', 'cluster', 'have no GPU'), ('auto', 'cluster', 'have no GPU'), ('cuda:1', 'end_to_end', 'first GPU')])
def test_a_device_that_a_part_cannot_use_is_refused_before_anything_is_measured(tmp_path, part, capsys, monkeypatch,
                                                                                device, name, told):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert cli.main(['bench', '--out', str(tmp_path), '--parts', 'update', name, '--device', device]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1 and not list(tmp_path.iterdir())


def test_foreign_results_are_left_alone(tmp_path, capsys):
    (tmp_path / 'results.json').write_text('not json')
    assert cli.main(['bench', '--out', str(tmp_path), '--parts', 'world']) == 2
    assert 'move it away' in capsys.readouterr().err
    assert (tmp_path / 'results.json').read_text() == 'not json'
