"""Runs of `vlm-agent train` with workers on a Ray cluster of this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.cli import main
from training.cluster import connection
from training.cluster.identity import difference, identity
from training.cluster.players import ClusterPlayers
from training.config import TrainConfig, load_train_config
from training.rl.learner import Learner
from training.rl.rollout import TrainingSchedule
from training.rl.train import environment_of, policy_of
from vlm_agent_ros.errors import UserError

pytest.importorskip('ray')
ray = connection._import_ray(local=True)
ROOT = Path(__file__).resolve().parents[3]
GAME = {'env': 'gymnasium', 'env_id': 'vlm_agent_ros/NumberLine-v0', 'import': 'sim_worlds.games', 'worlds': 4,
        'actions': ['+', '-'], 'prompt': 'move blue to red', 'temperature': 1.0, 'temperature_final': 1.0,
        'decisions_per_update': 12, 'decisions': 40, 'cot': False, 'max_wall_minutes': 0, 'learning_rate': 0.01,
        'eval_episodes': 2, 'value_warmup_updates': 0, 'epochs': 1, 'checkpoint_every': 1, 'update_threads': 1}
DIFFERENT = ('_s', 'per_second', 'mib')
OWN = ('staleness', 'workers_lost', 'importance', 'truncated')


@pytest.fixture(scope='session')
def game(brief_model, tmp_path_factory):
    """Training file of a short run of a random VLM in a game."""
    path = tmp_path_factory.mktemp('game') / 'game.yaml'
    path.write_text(json.dumps({**GAME, 'model': str(brief_model)}))
    return path


class Workers:
    """One cluster and two workers for all tests of this process: each costs seconds of processor time to start."""

    def __init__(self, game, module):
        self.ray, self.version = module, -1
        self.config = load_train_config(str(game), {'workers': 2})
        self.first = ClusterPlayers(self.config, policy_of(self.config, environment_of(self.config)), module)

    def lend_to(self, players):
        """Give started workers to another run; it has to count on where the weights before it ended."""
        players._workers, players._version = self.first._workers, self.version + 1000
        self.version = players._version
        return players


@pytest.fixture(scope='module')
def started(game):
    config = load_train_config(str(game), {'workers': 2})
    with connection.connected(config, policy_of(config, environment_of(config))) as module:
        workers = Workers(game, module)
        with workers.first:
            yield workers


@pytest.fixture
def cluster(started, monkeypatch):
    """Runs find two started workers on a running cluster."""
    monkeypatch.setattr(ClusterPlayers, '__enter__', lambda players: started.lend_to(players))
    monkeypatch.setattr(ClusterPlayers, '__exit__', lambda *error: None)
    return started


def train(game, folder, *flags):
    return main(['train', '--config', str(game), '--runs-dir', str(folder.parent), '--run-name', folder.name, *flags])


def rows(folder):
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.endswith(DIFFERENT)} for line in lines]


def assert_same_run(folder, other):
    """Equal but for rounding: workers decide in smaller batches."""
    assert len(rows(folder)) == len(rows(other)) >= 2
    for ours, theirs in zip(rows(folder), rows(other)):
        ours = {key: value for key, value in ours.items() if key not in OWN}
        assert ours == pytest.approx({key: theirs[key] for key in ours}, abs=2e-3)
    before, after = (json.loads((run / 'summary.json').read_text()) for run in (folder, other))
    for name in ('before', 'after'):
        assert before[name]['return'] == pytest.approx(after[name]['return'], abs=1e-6)


@pytest.fixture(scope='session')
def in_process(game, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'one'
    assert train(game, folder) == 0
    return folder


def test_two_workers_in_step_are_the_run_of_one_process(cluster, game, in_process, tmp_path):
    assert train(game, tmp_path / 'two', '--workers', '2') == 0
    assert_same_run(tmp_path / 'two', in_process)
    assert all(row['staleness'] == 0 == row['workers_lost'] for row in rows(tmp_path / 'two'))


def test_an_interrupted_run_with_workers_goes_on_exactly(cluster, game, in_process, tmp_path, monkeypatch, capsys):
    update = Learner.update

    def interrupted(learner, samples, **arguments):
        if arguments['number'] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return update(learner, samples, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, 'update', interrupted)
        assert train(game, tmp_path / 'cut', '--workers', '2') == 130
    assert 'stopped after update 1' in capsys.readouterr().err
    assert main(['train', '--resume', str(tmp_path / 'cut')]) == 0
    assert_same_run(tmp_path / 'cut', in_process)


@pytest.fixture
def players(cluster, game):
    """The two workers, for whatever a test wants of them."""
    config = load_train_config(str(game), {'workers': 2, 'max_staleness': 2, 'decisions': 1000})
    return cluster.lend_to(ClusterPlayers(config, policy_of(config, environment_of(config)), cluster.ray))


def learn(players, schedule):
    """A rollout, and another policy after it."""
    episodes = list(players.play(schedule, temperature=1.0))
    with torch.no_grad():
        for parameter in players.policy.parameters():
            parameter.add_(0.01)
    return [episode.slot.key for episode in episodes]


def test_workers_play_ahead_no_further_than_they_may_and_a_killed_one_is_replaced(players):
    schedule = TrainingSchedule(players.config)
    stale, lost, played = [], 0, []
    for number in range(5):
        if number == 2:
            players._ray.kill(players._workers[1])
        played += learn(players, schedule)
        assert len(players._pending) == 2  # rollouts that were asked for ahead, and no more
        stale.append(players.figures['staleness'])
        lost += players.figures['workers_lost']
    assert stale[0] == 0 and max(stale) <= 2 and max(stale) > 0 and lost == 1
    # No episode is missing, and none is there twice.
    assert sorted((world, index) for _, world, index in played) == [
        (world, index) for world in range(4) for index in range(schedule.opened[world])]


def test_a_replacement_that_is_lost_before_it_has_begun_is_replaced_as_well(players, monkeypatch):
    made, doomed = players._made, []

    def made_and_killed():
        worker = made()
        if not doomed:
            doomed.append(worker)
            players._ray.kill(worker)
        return worker
    monkeypatch.setattr(players, '_made', made_and_killed)
    schedule = TrainingSchedule(players.config)
    players._ray.kill(players._workers[1])
    learn(players, schedule)
    assert doomed and players.figures['workers_lost'] == 2


def test_a_worker_that_dies_again_and_again_ends_the_run_with_a_sentence(players, monkeypatch):
    class Doomed:
        def begin(self, *arguments):
            return ''

        def offer(self, *arguments):
            pass

        def play(self, *arguments):
            os._exit(1)

    def made():
        options = players._ray.remote(num_cpus=0, concurrency_groups={'weights': 1, 'rollouts': 1})
        return options(Doomed).remote()

    monkeypatch.setattr(players, '_made', made)
    players._workers = [made(), players._workers[1]]
    with pytest.raises(UserError, match='worker 0 was lost 3 times in a row'):
        list(players.play(TrainingSchedule(players.config), temperature=1.0))


def test_other_code_or_libraries_on_a_worker_are_refused(players, monkeypatch):
    monkeypatch.setattr('training.cluster.players.identity', lambda: {**identity(), 'sources': 'x', 'peft': '0.1'})
    with pytest.raises(UserError, match=r'worker 1 runs other code .*peft .* instead of 0\.1, the sources'):
        players._require_begun(1, players._begin(1))
    assert difference(identity(), identity()) == ''


def test_a_worker_with_another_model_under_the_same_name_is_refused(players, tmp_path):
    base = players.policy.config.base_path
    weights = shutil.copytree(base, tmp_path / 'base') / 'model.safetensors'
    state = load_file(weights)
    save_file({name: tensor + 0.01 for name, tensor in state.items()}, weights, metadata={'format': 'pt'})
    models = tmp_path / 'model.yaml'
    models.write_text(Path(players.config.model).read_text().replace(str(base), str(weights.parent)))
    players.config = replace(players.config, model=str(models))
    with pytest.raises(UserError, match=r"worker 1: another base model than the learner's.*copy"):
        players._require_begun(1, players._begin(1))


def test_an_error_in_a_worker_is_told_as_here(players):
    players.config = replace(players.config, model='nothing')
    with pytest.raises(UserError, match=r'worker 1: .*nothing'):
        players._require_begun(1, players._begin(1))


@pytest.fixture
def alone(monkeypatch):
    """Runs see no cluster, and leave the one of the other tests alone."""
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)
    monkeypatch.setattr(ray, 'shutdown', lambda: None)


@pytest.mark.parametrize(('flags', 'said'), [
    (['--ray', 'auto'], 'workers is 0'), (['--max-staleness', '1'], 'workers is 0'),
    (['--workers', '5'], 'there are 4 groups'), (['--workers', '2', '--ray', 'nowhere'], "ray is 'nowhere'"),
    (['--workers', '2', '--max-staleness', '1', '--group-size', '2', '--dynamic-sampling', '2'], 'dynamic_sampling'),
])
def test_settings_that_do_not_fit_are_refused(alone, game, tmp_path, capsys, flags, said):
    assert train(game, tmp_path / 'x', *flags) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize('listener', ['nobody', 'silent', 'other'])
def test_a_cluster_that_is_not_there_is_refused_soon(alone, game, tmp_path, capsys, monkeypatch, listener):
    monkeypatch.setattr(connection, '_PATIENCE_S', 0.5)
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        if listener != 'nobody':
            server.listen()
        if listener == 'other':
            threading.Thread(target=lambda: server.accept()[0].sendall(b'SSH-2.0-OpenSSH'), daemon=True).start()
        started = time.monotonic()
        address = f'127.0.0.1:{server.getsockname()[1]}'
        for name in (address,) if listener == 'other' else (address, f'ray://{address}'):
            with pytest.raises(UserError, match=f'there is no Ray cluster at {name}'):
                connection._require_answer(name)
        assert time.monotonic() - started < 5.0
        if listener == 'nobody':
            assert train(game, tmp_path / 'x', '--workers', '2', '--ray', address) == 2
            assert f'no Ray cluster at {address}' in capsys.readouterr().err


def test_ray_that_answers_is_not_refused(started):
    connection._require_answer(started.ray.get_runtime_context().gcs_address)


def test_weights_larger_than_an_object_store_are_refused(cluster, game, tmp_path, monkeypatch, capsys):
    connection.check_room(50, {'a': 100.0, 'b': 1e9})
    with pytest.raises(UserError, match='object store of node a'):
        connection.check_room(51, {'a': 100.0, 'b': 1e9})
    monkeypatch.setattr(connection, 'trained_bytes', lambda policy: 2**40)
    assert train(game, tmp_path / 'x', '--workers', '2') == 2
    assert '--object-store-memory' in capsys.readouterr().err


def test_more_workers_than_processors_or_gpus_are_refused():
    with pytest.raises(UserError, match='CPUs, but the Ray cluster has 4'):
        connection.check_resources(TrainConfig(workers=8), {'CPU': 4.0})
    with pytest.raises(UserError, match='set worker_gpus'):
        connection.check_resources(TrainConfig(workers=4, worker_gpus=0.5), {'CPU': 8.0, 'GPU': 1.0})


def test_without_ray_the_extra_is_named(game, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert train(game, tmp_path / 'x', '--workers', '2') == 2
    assert 'pip install vlm_agent_ros[cluster]' in capsys.readouterr().err


@pytest.mark.timeout(400)  # two processes import everything anew, on cores that other tests keep busy
def test_an_interrupt_leaves_a_checkpoint_and_no_process(game, tmp_path):
    command = [sys.executable, '-m', 'training', 'train', '--config', str(game), '--workers', '1', '--max-staleness',
               '1', '--eval-episodes', '0', '--decisions', '100000', '--runs-dir', str(tmp_path), '--run-name', 'x']
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           start_new_session=True)
    try:
        deadline = time.monotonic() + 250
        while not (tmp_path / 'x' / 'checkpoints' / 'latest').exists() and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        children = psutil.Process(run.pid).children(recursive=True)
        assert any('raylet' in child.name() for child in children)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process
        _, said = run.communicate(timeout=100)
    finally:
        run.kill()
    assert run.returncode == 130 and said.count('\n') == 1 and 'vlm-agent: stopped after update' in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive and not list(Path(tmp_path).glob('**/*.tmp'))
    shutil.rmtree(tmp_path / 'x')
