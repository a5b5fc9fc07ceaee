"""A GPU that is too small ends a run in one sentence with the setting to change, and the last update is saved."""

import json

import pytest
import torch

from training.cli import main
from training.device_memory import with_memory_advice
from training.rl.learner import Learner
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy


def exhausted(*arguments, **settings):
    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB')


@pytest.mark.parametrize(('method', 'told'), [('evaluate', 'micro_batch_size'), ('decide', 'max_new_tokens')])
def test_the_last_finished_update_is_saved_and_can_be_gone_on_from(flags, tmp_path, monkeypatch, capsys, method, told):
    step = Learner._step

    def last_step(learner, *arguments, **options):
        step(learner, *arguments, **options)
        monkeypatch.setattr(Policy, method, exhausted)

    monkeypatch.setattr(Learner, '_step', last_step)  # in the first update, or in the rollout after it
    command = [*flags, '--eval-episodes', '0', '--epochs', '2', '--decisions', '16', '--runs-dir', str(tmp_path)]
    assert main([*command, '--run-name', 'x']) == 2
    monkeypatch.undo()
    message = capsys.readouterr().err.splitlines()[-1]
    assert 'ran out of memory' in message and told in message and 'Tried' not in message
    checkpoint = message.split('--resume ')[1].rstrip('`')
    done = {'evaluate': 0, 'decide': 1}[method]
    assert f'continue after update {done}' in message and checkpoint.endswith(f'step_{done:06d}')

    assert main(['train', '--resume', checkpoint, '--micro-batch-size', '2', '--decisions', '8']) == 0
    assert json.loads((tmp_path / 'x' / 'summary.json').read_text())['decisions'] >= 8


def test_what_failed_is_released_before_anything_is_saved():
    alive = []

    class Activations:
        def __del__(self):
            alive.remove(self.name)

    def fail():
        kept = Activations()
        kept.name = 'activations'
        alive.append(kept.name)
        exhausted()

    with pytest.raises(UserError, match='set micro_batch_size lower') as caught:
        with_memory_advice(fail, 'in an update', 'set micro_batch_size lower')
    assert not alive and caught.value.__context__ is None


def test_other_errors_pass_and_memory_of_the_cpu_counts_too():
    def fail(words):
        raise RuntimeError(words)

    with pytest.raises(RuntimeError, match='shapes'):
        with_memory_advice(lambda: fail('shapes do not match'), 'in an update', 'x')
    scripted = 'The following operation failed in the TorchScript interpreter.\nRuntimeError: CUDA out of memory. Tried'
    for words in ("DefaultCPUAllocator: can't allocate memory", scripted, 'CUBLAS_STATUS_ALLOC_FAILED when calling'):
        with pytest.raises(UserError, match=r'in an update .*(memory|ALLOC)'):
            with_memory_advice(lambda words=words: fail(words), 'in an update', 'x')
