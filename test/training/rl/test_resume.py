"""A run that is killed at any moment goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.cli import main
from vlm_agent_ros.config import load_yaml

TIMES = ('_s', 'per_second', 'mib')
RUN = ['--algorithm', 'turn_ppo', '--group-size', '2', '--eval-episodes', '1', '--decisions', '32', '--epochs', '1',
       '--update-threads', '1', '--checkpoint-every', '1', '--keep-checkpoints', '2', '--select', 'best',
       '--best-window', '1', '--eval-every', '2']
# A server that has everything imported forks each run in a moment; the run is a process of its own all the same.
PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(['training.rl.trainer', 'training.rl.train', 'transformers', 'peft'])


@pytest.fixture(scope='module')
def unbroken(flags, tmp_path_factory):
    """Folder of a run that nothing interrupted."""
    runs = tmp_path_factory.mktemp('runs')
    start([*flags, *RUN, '--runs-dir', str(runs), '--run-name', 'whole']).join(300)
    return runs / 'whole'


def start(arguments: list[str]) -> multiprocessing.Process:
    process = PROCESSES.Process(target=main, args=(arguments,))
    process.start()
    return process


def kill_when(process: multiprocessing.Process, moment: Callable[[], bool]) -> bool:
    """SIGKILL a process at a moment; False if it ended before."""
    while process.is_alive() and not moment():
        time.sleep(0.0005)
    was_alive = process.is_alive()
    process.kill()
    process.join()
    return was_alive


def rows(folder: Path) -> list[dict[str, object]]:
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.endswith(TIMES)} for line in lines]


def counters(folder: Path) -> dict[str, object]:
    state = json.loads((folder / 'checkpoints' / 'latest' / 'run_state.json').read_text())
    evaluations = {name: {key: value for key, value in result.items() if key not in ('latency_ms', 'wall_s')}
                   for name, result in state.pop('evaluations').items()}
    held_out = [{**result, 'wall_s': 0.0} for result in state.pop('held_out')]
    return {**{key: value for key, value in state.items() if not key.endswith('_s')}, 'evaluations': evaluations,
            'held_out': held_out}


def steps(folder: Path) -> list[int]:
    """Steps of the returns as TensorBoard shows them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars('rollout/return')]


def assert_same_run(folder: Path, unbroken: Path) -> None:
    assert rows(folder) == rows(unbroken)
    assert counters(folder) == counters(unbroken)
    for link in ('latest', 'best'):
        ours, theirs = (run / 'checkpoints' / link for run in (folder, unbroken))
        assert ours.resolve().name == theirs.resolve().name
        for name in ('adapter_model', 'value_head', 'optimizer'):
            assert (ours / f'{name}.safetensors').read_bytes() == (theirs / f'{name}.safetensors').read_bytes()
    assert steps(folder) == [row['decisions_total'] for row in rows(unbroken)]
    before, after = (json.loads((run / 'summary.json').read_text())['after'] for run in (folder, unbroken))
    assert before['return'] == after['return']
    assert not list(folder.glob('.*')) and not list((folder / 'checkpoints').glob('.*'))


def test_a_run_killed_again_and_again_becomes_the_unbroken_run(unbroken, flags, tmp_path):
    folder = tmp_path / 'killed'
    checkpoints = folder / 'checkpoints'
    last = json.loads((unbroken / 'metrics.jsonl').read_text().splitlines()[-1])
    assert [result['update'] for result in counters(unbroken)['held_out']][:2] == [2, 4]
    assert len(rows(unbroken)) >= 4 and all(row['gradient_norm'] > 0.0 for row in rows(unbroken))

    def row_written() -> bool:
        return (folder / 'metrics.jsonl').exists() and (folder / 'metrics.jsonl').read_text().count('\n') == 1

    def writing(files: int) -> Callable[[], bool]:
        """A checkpoint is being written, and so many of its files are there."""
        return lambda: any(len(list(path.iterdir())) >= files for path in checkpoints.glob('.step_*.tmp'))

    def within_an_update() -> Callable[[], bool]:
        """A random time after the next checkpoint."""
        newest = max((path.name for path in checkpoints.glob('step_*')), default='')
        delay, deadline = random.uniform(0.0, last['rollout_s'] + last['update_s']), float('inf')

        def moment() -> bool:
            nonlocal deadline
            if deadline == float('inf') and any(path.name > newest for path in checkpoints.glob('step_*')):
                deadline = time.monotonic() + delay
            return time.monotonic() > deadline

        return moment

    command = [*flags, *RUN, '--runs-dir', str(tmp_path), '--run-name', 'killed']
    resume = ['train', '--resume', str(folder)]
    moments = [  # made for a process that was just started
        lambda: (folder / 'config.json').exists, lambda: row_written, lambda: writing(1), within_an_update,
        lambda: writing(4), within_an_update, lambda: (folder / 'summary.json').exists]
    killed = [kill_when(start(resume if i else command), moment()) for i, moment in enumerate(moments)]
    assert sum(killed) >= 4
    start(resume).join(300)
    assert_same_run(folder, unbroken)


@pytest.fixture
def copy(unbroken, tmp_path):
    return Path(shutil.copytree(unbroken, tmp_path / 'copy', symlinks=True))


@pytest.mark.parametrize('by', ['', 'checkpoints/latest'])
def test_a_run_whose_newest_checkpoint_is_half_written_goes_on_from_the_one_before(unbroken, copy, capsys, by):
    newest = (copy / 'checkpoints' / 'latest').resolve()
    weights = newest / 'adapter_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(['train', '--resume', str(copy / by)]) == 0
    assert f'{weights} is corrupt' in capsys.readouterr().err
    assert_same_run(copy, unbroken)


def test_a_checkpoint_that_is_named_is_not_replaced_by_another(copy, capsys):
    newest = (copy / 'checkpoints' / 'latest').resolve()
    (newest / 'value_head.safetensors').write_bytes(b'')
    assert main(['train', '--resume', str(newest)]) == 2
    assert 'value_head.safetensors is corrupt' in capsys.readouterr().err


def test_a_run_is_never_started_again_over_checkpoints_that_cannot_be_read(copy, capsys):
    for manifest in copy.glob('checkpoints/step_*/manifest.json'):
        manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    kept = sorted(copy.rglob('*'))
    assert main(['train', '--resume', str(copy)]) == 2
    assert 'none of the checkpoints' in (said := capsys.readouterr().err.splitlines()[-1]) and 'schema 2' in said
    assert sorted(copy.rglob('*')) == kept


@pytest.mark.parametrize(('flag', 'said'), [
    (['--algorithm', 'grpo'], 'a run with algorithm turn_ppo, it cannot go on with grpo'),
    (['--no-cot'], 'a run with cot True, it cannot go on with False: leave --no-cot out'),
    (['--worlds', '4'], 'a run with worlds 2'),
    (['--task', 'pick'], 'a run with task place'), (['--world', 'shifted'], 'a run with world panda_table'),
    (['--seed', '9'], 'it cannot go on with 9'),
    (['--model', 'tiny_vlm'], 'the weights in'), (['--model', 'PROMPT'], 'the prompt template differs'),
    (['--model', 'ALPHA'], 'the models file says LoRA rank 4, alpha 3.0'),
    (['--model', 'LONGER'], 'was written with decoding.max_'), (['--model', 'OWN'], 'goes on from its own weights'),
])
def test_a_run_does_not_go_on_as_another(copy, capsys, tmp_path, flag, said):
    changes = {'PROMPT': {'prompt': {'template': '{task} {state}'}}, 'ALPHA': {'lora': {'rank': 4, 'alpha': 3.0}},
               'LONGER': {'decoding': {'max_thought_chars': 7, 'max_new_tokens': 64}}}
    flag = [str(model_with(copy, tmp_path, changes[part])) if part in changes else part for part in flag]
    flag = [str(copy / 'checkpoints' / 'latest') if part == 'OWN' else part for part in flag]
    before = (copy / 'metrics.jsonl').read_bytes()
    assert main(['train', '--resume', str(copy), *flag]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert (copy / 'metrics.jsonl').read_bytes() == before


def model_with(run: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """The run's models file with something else in it."""
    model = load_yaml(Path(json.loads((run / 'config.json').read_text())['model']))
    (folder / 'model.yaml').write_text(yaml.safe_dump({**model, **changes}))
    return folder / 'model.yaml'


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    (tmp_path / 'checkpoints').mkdir()
    assert main(['train', '--resume', str(tmp_path)]) == 2
    assert 'holds no checkpoint that is whole' in capsys.readouterr().err


@pytest.mark.parametrize('content', [{'architectures': ['LlavaForConditionalGeneration'], 'dtype': 'float32'},
                                     {'task': 'place', 'rejected_reward': -1.0}])
def test_a_folder_of_something_else_than_a_training_run_is_named(tmp_path, capsys, content):
    (tmp_path / 'config.json').write_text(json.dumps(content))  # of a model, or of what learned from a cell's log
    assert main(['train', '--resume', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f'{tmp_path} holds no run that could go on' in error and '--model' in error
