"""``vlm-agent keygen`` and ``export``: from a checkpoint to a bundle that a cell takes, with what its form costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.cli import main
from training.release.measure import measured, table
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.checkpoint import load_policy, open_checkpoint, save_checkpoint
from vlm_agent_ros.release.trust import Trust, TrustedKeys


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert main(['keygen', '--out', str(tmp_path / 'line3')]) == 0
    return tmp_path / 'line3.pem'


def test_a_measured_bundle_says_what_its_form_costs_and_is_trusted(tmp_path, key, capsys):
    out = tmp_path / 'bundle'
    assert main(['export', 'tiny_vlm', '--out', str(out), '--key', str(key), '--dtype', 'int8', '--task', 'pick',
                 '--measure', '1']) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ('original', 'bundle', 'success', 'MiB', 'ms'))
    figures = open_checkpoint(out).fields['measured']
    assert figures['episodes'] == figures['original']['episodes'] == figures['bundle']['episodes'] == 1
    assert figures['bundle']['latency_ms'] > 0.0
    assert figures['bundle']['peak_memory_mib'] > 100.0  # PyTorch alone takes more
    cell = load_cell('panda_table')
    trust = TrustedKeys(Trust(('line3.pub.pem',)), str(tmp_path / 'cell.yaml'))
    load_policy(str(out), camera=cell.camera, trust=trust)


def test_what_was_not_measured_is_said_to_be_not(tmp_path, key, capsys):
    out = tmp_path / 'bundle'
    assert main(['export', 'tiny_vlm', '--out', str(out), '--key', str(key), '--adapter', '--measure', '0']) == 0
    assert 'not measured' in capsys.readouterr().out
    assert open_checkpoint(out).fields['measured'] is None


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--cell', 'nowhere'], 'nowhere'), (['--measure', '-1'], '--measure'), (['--world', 'nowhere'], 'nowhere'),
    (['--task', 'juggle'], 'juggle'), (['--adapter', '--dtype', 'int8', '--measure', '0'], '--adapter'),
])
def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(tmp_path, key, capsys, arguments, told):
    capsys.readouterr()
    assert main(['export', 'tiny_vlm', '--out', str(tmp_path / 'bundle'), '--key', str(key), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in error
    assert not (tmp_path / 'bundle').exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, key, capsys):
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'chapter.txt').write_text('years of work')
    assert main(['export', 'tiny_vlm', '--out', str(tmp_path / 'thesis'), '--key', str(key)]) == 2
    assert 'is no bundle' in capsys.readouterr().err
    assert (tmp_path / 'thesis' / 'chapter.txt').exists()


def test_a_checkpoint_is_not_replaced_by_a_bundle_of_it_nor_that_of_a_run_by_any(tmp_path, key, capsys):
    bundle, run = tmp_path / 'bundle', tmp_path / 'run'
    assert main(['export', 'tiny_vlm', '--out', str(bundle), '--key', str(key), '--measure', '0']) == 0
    save_checkpoint(run, load_policy('tiny_vlm'), step=1, documents={'train_config': {}})
    (tmp_path / 'best').symlink_to(run)
    for source, out, said in ((bundle, bundle, 'is the checkpoint that is exported'),
                              (tmp_path / 'best', run, 'is the checkpoint that is exported'),
                              (bundle, tmp_path / 'best', 'is no bundle')):
        before = (out / 'manifest.json').read_bytes()
        assert main(['export', str(source), '--out', str(out), '--key', str(key), '--measure', '0']) == 2
        assert said in capsys.readouterr().err and (out / 'manifest.json').read_bytes() == before


def test_the_loss_is_the_difference_to_the_original(tmp_path):
    from training.release.measure import Trial

    original = {'success': 0.9, 'ci95': (0.7, 1.0), 'episodes': 20, 'latency_ms': 100.0, 'peak_memory_mib': 500.0}
    bundle = {**original, 'success': 0.8, 'latency_ms': 80.0, 'size_mib': 2.5}
    found = json.loads(json.dumps(measured(original, bundle, Trial('place', 'panda_table', 20))))
    assert found['difference'] == {'success': -0.1, 'latency_ms': -20.0, 'peak_memory_mib': 0.0}
    assert '90.0 % (70.0 to 100.0, n = 20)' in table(original, bundle)
