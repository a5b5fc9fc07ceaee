"""``vlm-agent cell-check``: parts by name, and a last line with exactly the figures that were asked for."""

import json
import sys
from contextlib import contextmanager
from types import ModuleType

import pytest

from training.cell_check import command
from training.cell_check.check_setup import CheckSetup
from training.cli import main

KEYS = ['fuzzed', 'unsafe', 'gate_ms_p50', 'gate_ms_p99', 'stop_ms_p99', 'kill_trials', 'kill_ok', 'replay_identical',
        'bringup_success', 'sim_success', 'rolled_back']


@pytest.fixture
def part(monkeypatch):
    """A part that only tells how it was called."""
    module = ModuleType('training.cell_check.stop')
    module.setups = []

    def run(setup):
        module.setups.append(setup)
        return {'stop_ms_p99': 12.5, 'stop_ms_p50': 3.0}

    module.run = run
    monkeypatch.setitem(sys.modules, 'training.cell_check.stop', module)
    return module


def test_the_last_line_has_every_figure_and_null_for_parts_that_were_not_run(part, tmp_path, capsys):
    assert main(['cell-check', '--parts', 'stop', '--seed', '7', '--quick', '--out', str(tmp_path / 'check')]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert list(result) == KEYS
    assert {key: value for key, value in result.items() if value is not None} == {'stop_ms_p99': 12.5}
    assert 'stop_ms_p50 3' in captured.err
    assert json.loads((tmp_path / 'check' / 'cell_check.json').read_text()) == result
    (setup,) = part.setups
    assert (setup.seed, setup.quick, setup.cell.endswith('panda_table.yaml')) == (7, True, True)


@pytest.mark.parametrize(('options', 'told'), [
    (['--parts', 'luck'], 'luck'), (['--world', 'mars'], 'mars'), (['--checkpoint', '/nowhere'], '/nowhere'),
    (['--out', '/proc/check'], '/proc/check'),
])
def test_bad_input_is_told_before_anything_is_started(part, capsys, options, told):
    assert main(['cell-check', '--parts', 'stop', *options]) == 2
    assert told in capsys.readouterr().err
    assert part.setups == []


def test_a_folder_that_holds_a_check_is_not_overwritten(part, tmp_path, capsys):
    (tmp_path / 'cell_check.json').write_text('{}')
    assert main(['cell-check', '--parts', 'stop', '--out', str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert part.setups == []


def test_every_figure_belongs_to_one_part():
    assert [key for keys in command.PARTS.values() for key in keys] == KEYS


def test_fuzz_computes_beside_the_parts_that_wait_and_not_beside_those_that_measure_latencies(monkeypatch, tmp_path):
    seen = []
    for name in command.PARTS:
        module = ModuleType(f'training.cell_check.{name}')
        module.run = lambda setup, name=name: seen.append(name) or {}
        monkeypatch.setitem(sys.modules, module.__name__, module)

    @contextmanager
    def begun(setup):
        seen.append('fuzz begins')
        yield lambda: seen.append('fuzz ends') or {}
        seen.append('fuzz closed')

    sys.modules['training.cell_check.fuzz'].begun = begun
    command.run_parts(['fuzz', 'rollback', 'stop', 'kill', 'latency'], CheckSetup(0, True, tmp_path))
    assert seen == ['latency', 'stop', 'fuzz begins', 'kill', 'rollback', 'fuzz ends', 'fuzz closed']
    seen.clear()
    command.run_parts(['fuzz'], CheckSetup(0, True, tmp_path))
    assert seen == ['fuzz begins', 'fuzz ends', 'fuzz closed']
