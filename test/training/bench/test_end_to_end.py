"""Seconds to 85 % are those of the first evaluation that is good enough, or none."""

import pytest

from training.bench import end_to_end
from training.bench.bench_setup import BenchSetup
from training.bench.end_to_end import summarise
from vlm_agent_ros.errors import UserError


def state(*successes):
    looks = [{'update': 4 * (i + 1), 'decisions': 800 * (i + 1), 'wall_s': 60.0 * (i + 1), 'success': success,
              'n': 100, 'ci95': [success - 0.07, success + 0.07]} for i, success in enumerate(successes)]
    return {'evaluations': {'before': {'success': 0.4, 'n': 100, 'ci95': [0.3, 0.5], 'wall_s': 9.0}}, 'held_out': looks,
            'phases_s': {'start': 5.0, 'before': 9.0, 'held_out': 16.0, 'rollout': 60.0}, 'decisions': 1600}


def test_seconds_are_those_of_the_evaluation_that_was_good_enough():
    figures = summarise(state(0.7, 0.86), ended=True)
    assert (figures['seconds_to_85'], figures['success'], figures['n'], figures['reason']) == (120.0, 0.86, 100, '')
    assert figures['training_seconds_to_85'] == 120.0 - 9.0 - 16.0


@pytest.mark.parametrize(('successes', 'ended', 'said'), [
    ((0.7, 0.84), False, 'not reached in 360 s'), ((0.7, 0.84), True, 'all decisions'), ((), False, 'not reached')])
def test_a_success_that_is_not_reached_is_said_with_what_was(successes, ended, said):
    figures = summarise(state(*successes), ended)
    assert figures['seconds_to_85'] is None and figures['success'] == (0.84 if successes else 0.4)
    assert said in figures['reason']


def test_a_machine_too_slow_for_one_evaluation_is_told_so():
    with pytest.raises(UserError, match='first evaluation'):
        summarise({**state(), 'evaluations': {}}, ended=False)


@pytest.mark.parametrize(('device', 'seen'), [('cpu', ''), ('auto', '3'), ('cuda', '3')])
def test_the_job_sees_a_gpu_only_where_the_device_is_one(tmp_path, monkeypatch, device, seen):
    def start(command, environment, log):
        assert environment['CUDA_VISIBLE_DEVICES'] == seen
        raise InterruptedError

    monkeypatch.setattr(end_to_end, 'NodeProcess', start)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    with pytest.raises(InterruptedError):
        end_to_end.run(BenchSetup(seed=0, repeats=1, quick=True, folder=tmp_path, device=device))
