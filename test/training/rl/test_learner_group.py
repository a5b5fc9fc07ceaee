"""A learner of several processes makes the updates that one process makes."""

import copy
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from training.cli import main
from training.rl.algorithms import Correction
from training.rl.learner import Learner
from training.rl.learner_group import LearnerGroup
from training.rl.rollout import TrainingSchedule, collect
from training.worlds.episodes import Player

SIZE = 3
GAME = {'env': 'gymnasium', 'env_id': 'vlm_agent_ros/NumberLine-v0', 'import': 'sim_worlds.games', 'worlds': 4,
        'actions': ['+', '-'], 'prompt': 'move blue to red', 'decisions_per_update': 16, 'decisions': 80, 'cot': False,
        'max_wall_minutes': 0, 'learning_rate': 0.01, 'eval_episodes': 0, 'checkpoint_every': 1, 'update_threads': 1,
        'algorithm': 'turn_ppo', 'value_warmup_updates': 1, 'kl_coef': 0.05, 'epochs': 2, 'minibatch_size': 8,
        'micro_batch_size': 3}


class Threads:
    """What processes share, for threads."""

    def __init__(self):
        self.barrier, self.slots, self.said = threading.Barrier(SIZE, timeout=20), [None] * SIZE, queue.Queue()

    def all(self, rank, value):
        self.slots[rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found


class ThreadGroup(LearnerGroup):
    def __init__(self, rank, threads):
        super().__init__(rank, SIZE, torch.device('cpu'))
        self._threads = threads

    def add(self, tensors):
        for tensor in tensors:
            tensor.copy_(sum(self._threads.all(self.rank, tensor.clone())))

    def gather(self, message):
        return self._threads.all(self.rank, message)

    def tell(self, message):
        self._threads.all(0, message)

    def hear(self):
        return self._threads.all(self.rank, None)[0]


@pytest.mark.parametrize('overrides', [
    {}, {'algorithm': 'turn_ppo', 'value_warmup_updates': 2}, {'kl_coef': 0.1}, {'target_kl': 1e-3},
    {'algorithm': 'grpo', 'group_size': 4, 'worlds': 8}, {'guard_replay': 1.5},
], ids=['ppo', 'turn', 'kl', 'target', 'grpo', 'replay'])
def test_shares_of_every_minibatch_add_up_to_the_update_of_one_process(make_toy, overrides):
    toy = make_toy(guard_coef=0.7, decisions_per_update=48, minibatch_size=24, micro_batch_size=5, **overrides)
    samples = collect(Player(toy.policy, toy.worlds, toy.commander_of, unit=toy.config.group_size),
                      TrainingSchedule(toy.config), toy.config, 1.0).samples
    right = Correction(replace(samples[0].decision, token_ids=np.array([1, 2])), samples[0].decision.thought_mask)
    samples = [replace(s, correction=right if i % 3 else None, advantage=s.advantage if i % 2 else 0.0)
               for i, s in enumerate(samples)]
    toy.config = replace(toy.config, min_advantage=0.01)
    alone, policies, threads = copy.deepcopy(toy.policy), [copy.deepcopy(toy.policy) for _ in range(SIZE)], Threads()
    with torch.no_grad():
        policies[1].actions.add_(1.0)  # the first process tells the others where it stands

    def updates(learner):
        return [learner.update(samples, number=number, temperature=1.0, progress=0.1 * number) for number in (4, 5)]

    expected = updates(Learner(alone, toy.config, 0))
    learners = [Learner(policy, toy.config, 0, group=ThreadGroup(i, threads)) for i, policy in enumerate(policies)]
    followers = [threading.Thread(target=learner.follow) for learner in learners[1:]]
    for follower in followers:
        follower.start()
    found = updates(learners[0])
    learners[0].group.tell(None)
    for follower in followers:
        follower.join(20.0)
        assert not follower.is_alive()
    for ours, theirs in zip(found, expected):
        del ours['logprob_error'], theirs['logprob_error']  # of the first pass of each process
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    for policy in policies:
        for ours, theirs in zip(policy.parameters(), alone.parameters()):
            assert torch.allclose(ours, theirs, atol=1e-5)


# What the command does, then the names of threads that it leaves behind.
AND_THREADS = """
import sys
from pathlib import Path
from training.cli import main
code = main(sys.argv[1:])
print('left:', *[path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')])
sys.exit(code)
"""


def launch(*command, program=('-m', 'training')):
    """Two processes; ``accelerate launch`` starts them so on a machine with GPUs."""
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--local-addr', '127.0.0.1',
         '--nproc-per-node', '2', *program, *command], env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def game(brief_model, tmp_path):
    path = tmp_path / 'game.yaml'
    path.write_text(json.dumps({**GAME, 'model': str(brief_model), 'runs_dir': str(tmp_path)}))
    return str(path)


def rows(folder):
    path = folder / 'metrics.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_of_two_processes_is_the_run_of_one(game, tmp_path):
    assert main(['train', '--config', game, '--run-name', 'one']) == 0
    program = tmp_path / 'and_threads.py'
    program.write_text(AND_THREADS)
    with launch('train', '--config', game, '--run-name', 'two', program=[str(program)]) as run:
        output, errors = run.communicate(timeout=150)
    assert run.returncode == 0, errors
    assert output.count('left:') == 2
    assert 'gloo' not in output  # one that ends after the interpreter can end in SIGABRT
    assert output.count('report.html') == 1  # only the first process talks to the user
    assert len(rows(tmp_path / 'one')) == len(rows(tmp_path / 'two')) >= 2
    for one, two in zip(rows(tmp_path / 'one'), rows(tmp_path / 'two')):
        kept = [key for key in one if not key.endswith(('_s', 'per_second', 'mib'))]
        assert {key: one[key] for key in kept} == pytest.approx({key: two[key] for key in kept}, abs=1e-3)


def test_a_run_that_loses_a_process_of_its_learner_ends_with_a_checkpoint(game, tmp_path):
    with launch('train', '--config', game, '--run-name', 'cut', '--decisions', '100000') as run:
        deadline = time.monotonic() + 100.0
        while not rows(tmp_path / 'cut') and time.monotonic() < deadline:
            time.sleep(0.1)
        ranks = {child.environ().get('RANK'): child for child in psutil.Process(run.pid).children(recursive=True)}
        ranks['1'].kill()
        _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert f'train --resume {tmp_path / "cut"}' in errors
    assert list((tmp_path / 'cut' / 'checkpoints').iterdir())
