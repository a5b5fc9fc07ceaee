"""Whole runs of `vlm-agent train`: what they leave behind, and that an interrupt costs nothing but time."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from training.cli import main
from training.evaluation.evaluate import EvaluationResult, Suite
from training.rl.algorithms import Correction
from training.rl.learner import Learner
from training.rl.trainer import Trainer
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import PolicyInput

TIMES = ('_s', 'per_second', 'mib')


@pytest.fixture(scope='session')
def finished(flags, tmp_path_factory):
    """Folder of a run that nothing interrupted."""
    runs = tmp_path_factory.mktemp('runs')
    assert main([*flags, '--eval-episodes', '2', '--runs-dir', str(runs), '--run-name', 'whole']) == 0
    return runs / 'whole'


def rows(folder: Path):
    """metrics.jsonl without what depends on the clock."""
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.endswith(TIMES)} for line in lines]


def weights(folder: Path) -> bytes:
    return (folder / 'checkpoints' / 'latest' / 'adapter_model.safetensors').read_bytes()


def test_a_run_leaves_summary_metrics_events_report_and_checkpoint(finished):
    summary = json.loads((finished / 'summary.json').read_text())
    assert summary['transport'] == 'in_process' and summary['task'] == 'place' and summary['own_cell'] is None
    for evaluation in (summary['before'], summary['after']):
        assert evaluation['n'] == 2 and 0.0 <= evaluation['ci95'][0] <= evaluation['success'] <= evaluation['ci95'][1]
    assert summary['decisions'] >= 10 and summary['worlds'] == 2 and summary['wall_s'] > 0
    assert 'torch' in summary['versions'] and summary['config']['learning_rate'] == 0.01
    updates = rows(finished)
    assert [row['update'] for row in updates] == list(range(1, len(updates) + 1)) and len(updates) >= 2
    assert all(row['logprob_error'] < 1e-4 for row in updates)
    assert list(finished.glob('events.out.tfevents.*'))
    assert (finished / 'report.html').read_text().count('class="film"') == 2
    assert (finished / 'checkpoints' / 'latest').resolve().name == f'step_{len(updates):06d}'


def test_an_interrupted_update_is_made_again_as_if_nothing_had_happened(finished, flags, tmp_path, monkeypatch, capsys):
    steps = []
    step = Learner._step

    def interrupted(ppo, *arguments, **options):
        step(ppo, *arguments, **options)
        steps.append(1)
        if len(steps) == ppo.config.epochs + 2:  # in the middle of the second update
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, '_step', interrupted)
    assert main([*flags, '--eval-episodes', '2', '--runs-dir', str(tmp_path), '--run-name', 'broken']) == 130
    monkeypatch.undo()
    message = capsys.readouterr().err.splitlines()[-1]
    checkpoint = message.split('--resume ')[1].rstrip('`')
    assert message.startswith('vlm-agent: stopped after update 1') and checkpoint.endswith('step_000001')

    assert main(['train', '--resume', checkpoint]) == 0
    assert rows(tmp_path / 'broken') == rows(finished)
    assert weights(tmp_path / 'broken') == weights(finished)
    before, after = (json.loads((run / 'summary.json').read_text()) for run in (tmp_path / 'broken', finished))
    assert before['after']['return'] == after['after']['return']


@pytest.mark.parametrize('named', [False, True])
def test_what_a_resume_has_changed_holds_though_it_ended_before_its_first_checkpoint(finished, tmp_path, monkeypatch,
                                                                                  named):
    folder = shutil.copytree(finished, tmp_path / 'changed', symlinks=True)
    step = (folder / 'checkpoints' / 'latest').resolve()
    more = str(json.loads((folder / 'summary.json').read_text())['decisions'] + 1)

    def interrupted(learner, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, 'update', interrupted)
        assert main(['train', '--resume', str(folder), '--decisions', more, '--eval-episodes', '0']) == 130
    assert main(['train', '--resume', str(step if named else folder)]) == 0
    summary = json.loads((folder / 'summary.json').read_text())
    assert summary['decisions'] >= int(more) and summary['after'] is None
    assert main(['train', '--resume', str(step), '--eval-episodes', '0']) == 0  # of before the change
    assert json.loads((folder / 'summary.json').read_text())['updates'] == len(rows(finished))


def test_what_an_interrupted_update_remembered_is_forgotten(flags, tmp_path, monkeypatch):
    def taught(turns, policy, every=False):  # the random VLM writes nothing that could be corrected
        right = policy.written(format_output('cube', 'pick 03 04'))
        return [Correction(right, right.thought_mask) for _ in turns]

    def interrupted(learner, *arguments, **options):
        again.append(options.get('value_head') is False)
        step(learner, *arguments, **options)
        if again[-2:] == [True, True] and False in again[again.index(True):]:  # the second update learns again
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr('training.rl.rollout.corrections', taught)
    command = [*flags, '--eval-episodes', '0', '--runs-dir', str(tmp_path), '--guard-coef', '1', '--guard-replay', '2',
               '--minibatch-size', '2', '--run-name']
    assert main([*command, 'whole']) == 0
    step, again = Learner._step, []
    with monkeypatch.context() as patch:
        patch.setattr(Learner, '_step', interrupted)
        assert main([*command, 'broken']) == 130
    assert main(['train', '--resume', str(tmp_path / 'broken')]) == 0
    assert rows(tmp_path / 'broken') == rows(tmp_path / 'whole')
    assert weights(tmp_path / 'broken') == weights(tmp_path / 'whole')


def test_a_disk_that_is_full_ends_in_one_sentence_and_leaves_no_half_checkpoint(flags, tmp_path, monkeypatch, capsys):
    def full(path):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('vlm_agent_ros.bundle.sync', full)
    short = ['--eval-episodes', '0', '--decisions', '1', '--runs-dir', str(tmp_path), '--run-name', 'x']
    assert main([*flags, *short]) == 2
    assert 'No space left on device' in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / 'x' / 'checkpoints').iterdir()) == []


def test_thoughts_that_ignore_the_scene_raise_an_alarm_everywhere_a_user_looks(flags, tmp_path, capsys):
    command = [*flags, '--eval-episodes', '0', '--decisions', '5', '--runs-dir', str(tmp_path)]
    assert main([*command, '--run-name', 'loud', '--collapse-alarm', '0']) == 0
    assert 'warning: in update 1' in capsys.readouterr().out
    assert [row['collapse_alarm'] for row in rows(tmp_path / 'loud')] == [1]
    assert json.loads((tmp_path / 'loud' / 'summary.json').read_text())['collapsed_updates'] == [1]
    assert 'Thought collapse in 1 of 1 updates' in (tmp_path / 'loud' / 'report.html').read_text()
    assert main([*command, '--run-name', 'quiet', '--collapse-alarm', '1']) == 0
    assert 'warning' not in capsys.readouterr().out
    assert [row['collapse_alarm'] for row in rows(tmp_path / 'quiet')] == [0]


@pytest.mark.parametrize(('earned', 'told'), [(100.5, '1e+02'), (4e-7, '4e-07'), (1.2, ''), (0.0, '')])
def test_rewards_of_an_order_that_no_value_is_learned_in_are_told(earned, told):
    said = []
    Trainer._check_rewards(SimpleNamespace(progress=SimpleNamespace(say=said.append)), earned)
    assert [told in line for line in said] == ([True] if told else [])


def test_a_run_too_short_to_have_a_best_checkpoint_says_so(flags, tmp_path, capsys):
    command = [*flags, '--eval-episodes', '0', '--decisions', '5', '--runs-dir', str(tmp_path), '--select']
    assert main([*command, 'best', '--run-name', 'best']) == 0
    assert 'fewer than best_window (5) updates' in capsys.readouterr().out
    assert main([*command, 'last', '--run-name', 'last']) == 0
    assert 'best_window' not in capsys.readouterr().out


def test_a_run_without_chain_of_thought_writes_none_and_its_checkpoint_remembers(flags, tmp_path, capsys):
    assert main([*flags, '--no-cot', '--collapse-alarm', '0', '--guard-coef', '1', '--eval-episodes', '0',
                 '--decisions', '5', '--runs-dir', str(tmp_path), '--run-name', 'mute']) == 0
    assert [row['thought_tokens'] for row in rows(tmp_path / 'mute')] == [0.0]
    output = capsys.readouterr().out
    assert 'thought collapse' not in output and 'collapse_alarm has no effect while cot is off' in output
    assert 'guard_loss' not in rows(tmp_path / 'mute')[0]
    policy = load_policy(str(tmp_path / 'mute' / 'checkpoints' / 'latest'))
    seen = PolicyInput(np.zeros((32, 32, 3), np.uint8), 'task: x')
    assert policy.decide([seen], temperature=1.0, seeds=[0])[0].thought == ''


def test_a_run_ends_at_its_wall_time_and_says_so(flags, tmp_path):
    assert main([*flags, '--eval-episodes', '0', '--max-wall-minutes', '0.0001', '--runs-dir', str(tmp_path),
                 '--run-name', 'short']) == 0
    summary = json.loads((tmp_path / 'short' / 'summary.json').read_text())
    assert summary['updates'] == 1 and 'max_wall_minutes' in summary['stopped']


def test_a_run_ends_at_the_held_out_success_that_is_asked_for_and_stays_ended(flags, tmp_path, monkeypatch):
    asked = []

    def evaluated(trainer, name, task, world):
        asked.append((name, trainer.state.update))
        success = 0.9 if trainer.state.update >= 2 else 0.8
        return EvaluationResult(Suite(task, world), success, 10, (0.5, 1.0), {}, 1.0, 1.0, 0.0)

    monkeypatch.setattr(Trainer, '_evaluate', evaluated)
    options = ['--eval-every', '1', '--stop-at-success', '0.85', '--decisions', '1000']
    assert main([*flags, *options, '--runs-dir', str(tmp_path), '--run-name', 'good']) == 0
    summary = json.loads((tmp_path / 'good' / 'summary.json').read_text())
    assert asked == [('before', 0), ('held_out', 1), ('held_out', 2), ('after', 2)]
    assert [(result['update'], result['success']) for result in summary['held_out']] == [(1, 0.8), (2, 0.9)]
    assert summary['updates'] == 2 and 'stop_at_success' in summary['stopped']
    assert main(['train', '--resume', str(tmp_path / 'good')]) == 0
    assert json.loads((tmp_path / 'good' / 'summary.json').read_text())['updates'] == 2


def test_evaluations_during_training_do_not_change_it(finished, flags, tmp_path):
    assert main([*flags, '--eval-episodes', '2', '--eval-every', '1', '--runs-dir', str(tmp_path),
                 '--run-name', 'watched']) == 0
    assert rows(tmp_path / 'watched') == rows(finished)
    assert weights(tmp_path / 'watched') == weights(finished)


def test_a_success_to_stop_at_without_evaluations_is_refused(flags, tmp_path, capsys):
    assert main([*flags, '--stop-at-success', '0.9', '--runs-dir', str(tmp_path)]) == 2
    assert 'eval_every' in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten(finished, flags, capsys):
    assert main([*flags, '--runs-dir', str(finished.parent), '--run-name', 'whole']) == 2
    assert '--resume' in capsys.readouterr().err
