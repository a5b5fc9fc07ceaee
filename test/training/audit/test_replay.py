"""A log is decided again to the same texts and log-probabilities, and anything else is told."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from test.audit.bench import image_entry, report_entries, text_entry, write_log
from training.audit.replay import repeat_all
from training.cli import main
from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.checkpoint import weights_digest
from vlm_agent_ros.config import find_config
from vlm_agent_ros.nodes.decider import Decider, DeciderSettings
from vlm_agent_ros.types import Observation

S = 10**9


@pytest.fixture(scope='module')
def model(brief_model, vlm_folder, tmp_path_factory):
    """Folder with a models file ``model.yaml`` and weights of its own."""
    folder = tmp_path_factory.mktemp('replay')
    shutil.copytree(vlm_folder, folder / 'base')
    (folder / 'model.yaml').write_text(brief_model.read_text().replace(str(vlm_folder), str(folder / 'base')))
    return folder


@pytest.fixture(scope='module')
def log(model, cell, tmp_path_factory):
    """Six decisions of the agent's own decider, sampled and greedy, as audit_node would have logged them."""
    rng, entries = np.random.default_rng(0), []
    for temperature in (1.0, 0.0):
        decider = Decider(DeciderSettings('panda_table', str(model / 'model.yaml'), temperature, seed=3, threads=1))
        for i in range(3):
            stamp = round((1 + i + 10 * (1 + temperature)) * S)
            image = rng.integers(0, 256, (cell.camera.height, cell.camera.width, 3), dtype=np.uint8)
            task = f'pick the {i}th cube'
            observation = Observation(image, cell.robot.joints, np.array([*cell.robot.home, 0.04]), task, stamp)
            entries += [image_entry(image, stamp), text_entry(task, stamp + 1),
                        *report_entries(decider.decide(observation, 'red cube held' * i).report(30.0), stamp + 2)]
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    return write_log(tmp_path_factory.mktemp('log') / 'audit_000001.mcap', entries, text)


def replay(*arguments):
    return main(['replay', *map(str, arguments)])


def test_every_decision_is_the_same_with_the_checkpoint_that_decided(log, model, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(model)  # where model.yaml is
    assert replay(log, '--out', tmp_path / 'result.json') == 0
    result = json.loads((tmp_path / 'result.json').read_text())
    assert (result['decisions'], result['identical'], result['identical_share']) == (6, 6, 1.0)
    assert '6 of 6 decisions are identical' in capsys.readouterr().out


def test_a_decision_that_differs_is_told_with_both_sides(log, model, monkeypatch, tmp_path, capsys):
    """The image of another moment under the same stamp."""
    decision = next(AuditLog(log).decisions())
    grey = np.full_like(decision.image, 128)
    report = report_entries_of(decision)
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    other = write_log(tmp_path / 'other.mcap', [image_entry(grey, decision.image_stamp_ns), *report], text)
    monkeypatch.chdir(model)
    assert replay(other, '--out', tmp_path / 'result.json') == 1
    (differing,) = json.loads((tmp_path / 'result.json').read_text())['differing']
    assert 'logprob' in differing['differs']
    assert differing['logged']['logprob'] != differing['repeated']['logprob']
    assert str(decision.image_stamp_ns)[:8] in capsys.readouterr().out


def test_a_log_that_tells_the_digest_of_the_weights_alone_is_repeated(log, model, monkeypatch, tmp_path):
    decision = next(AuditLog(log).decisions())
    told = replace(decision, checkpoint_sha256=weights_digest(str(model / 'model.yaml')))
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    older = write_log(tmp_path / 'older.mcap', [image_entry(decision.image, decision.image_stamp_ns),
                                                *report_entries_of(told)], text)
    monkeypatch.chdir(model)
    assert replay(older) == 0


def report_entries_of(decision):
    """What was told of a logged decision, once more."""
    from vlm_agent_ros.cot import CotReport, Origin

    origin = Origin(decision.image_stamp_ns, decision.state, decision.previous, decision.temperature, decision.seed,
                    decision.threads, decision.prompt_sha256, decision.checkpoint_sha256)
    return report_entries(CotReport(decision.task, decision.thought, decision.action, decision.text, decision.logprob,
                                    decision.value, 1.0, decision.checkpoint, 1.0, origin=origin), decision.time_ns)


def test_other_weights_are_refused_unless_they_are_meant(log, model, monkeypatch, tmp_path, capsys):
    shutil.copytree(model / 'base', tmp_path / 'base')
    (tmp_path / 'model.yaml').write_text((model / 'model.yaml').read_text().replace(str(model), str(tmp_path)))
    weights = load_file(tmp_path / 'base' / 'model.safetensors')
    save_file({name: tensor + 0.1 * torch.ones_like(tensor) for name, tensor in weights.items()},
              tmp_path / 'base' / 'model.safetensors', {'format': 'pt'})
    monkeypatch.chdir(tmp_path)
    assert replay(log) == 2
    told = capsys.readouterr().err
    assert 'decided by model.yaml with other weights' in told
    assert '--checkpoint model.yaml' in told
    assert replay(log, '--checkpoint', 'model.yaml', '--limit', 2) == 1
    assert 'of 2 decisions are identical' in capsys.readouterr().out


def test_decisions_that_could_not_be_repeated_are_counted_with_the_reason(log, model, monkeypatch, tmp_path, capsys):
    first, *others = AuditLog(log).decisions()
    entries = [image_entry(first.image, first.image_stamp_ns), *report_entries_of(first)]
    for decision in others[:2]:
        entries += report_entries_of(decision)
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    torn = write_log(tmp_path / 'torn.mcap', entries, text)
    monkeypatch.chdir(model)
    assert replay(torn, '--out', tmp_path / 'result.json') == 0
    assert json.loads((tmp_path / 'result.json').read_text())['left_out'] == {
        'whose image was dropped, lost or damaged': 2}
    told = capsys.readouterr().out
    assert '1 of 1 decisions are identical' in told
    assert '2 were not repeated, whose image was' in told


def test_another_prompt_is_refused(log, model, monkeypatch, tmp_path, capsys):
    (tmp_path / 'model.yaml').write_text((model / 'model.yaml').read_text().replace('gripper:', 'hand:'))
    monkeypatch.chdir(tmp_path)
    assert replay(log) == 2
    assert 'another prompt' in capsys.readouterr().err


def test_a_checkpoint_that_is_not_here_is_asked_for(log, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert replay(log) == 2
    assert 'give its path with --checkpoint' in capsys.readouterr().err


def test_a_log_without_decisions_is_refused(tmp_path, capsys):
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    assert replay(write_log(tmp_path / 'a.mcap', [text_entry('pick', 1)], text)) == 2
    assert 'holds no decision' in capsys.readouterr().err


def test_the_limit_is_kept(log, model):
    assert len(list(repeat_all(AuditLog(log), str(model / 'model.yaml'), 1e-3, limit=4))) == 4
