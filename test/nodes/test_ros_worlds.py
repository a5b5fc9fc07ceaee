"""Worlds through ROS give to the bit what they give in process, and a dead one is noticed, named and restarted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from training.worlds.cell_worlds import InProcessWorlds
from training.worlds.pool import WorldError
from training.worlds.ros_worlds import MAX_FAILURES, RosWorlds
from vlm_agent_ros.actions import Pick, Place
from vlm_agent_ros.config import find_config
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import MotionError
from vlm_agent_ros.nodes.shared_memory import remove_stale_segments
from vlm_agent_ros.types import EpisodeRequest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def open_worlds(domain_id, tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain_id))
    pools = []

    def open_worlds(count, **options):
        pools.append(RosWorlds(count, logs=tmp_path / 'logs', **options))
        return pools[-1]

    yield open_worlds
    for pool in pools:
        pool.close()


def pid(pool, index):
    return pool._processes[index]._process.pid


def assert_same(ours, theirs):
    (observation, outcome), (expected, expected_outcome) = ours, theirs
    assert observation.image.dtype == expected.image.dtype
    assert np.array_equal(observation.image, expected.image)
    assert observation.joint_names == expected.joint_names
    assert observation.joint_positions.tobytes() == expected.joint_positions.tobytes()
    assert (observation.task, observation.stamp_ns) == (expected.task, expected.stamp_ns)
    assert outcome == expected_outcome
    assert outcome is None or repr(outcome) == repr(expected_outcome)


def test_same_seed_and_actions_give_the_same_bits_in_process_and_through_ros(open_worlds, planner):
    ros, in_process = open_worlds(2), InProcessWorlds(2)
    rng = np.random.default_rng(0)
    for episode, (tasks, world, split) in enumerate((
            (('pick', 'place'), '', ''), (('pick', 'place'), '', 'unseen-wording'), (('pick', 'place'), 'shifted', ''),
            (('inspect', 'stack'), 'shifted', 'unseen-combination'))):
        requests = {i: EpisodeRequest(2**40 + 10 * episode + i, tasks[i], world, split) for i in range(2)}
        answers = []
        for pool in (ros, in_process):
            pool.reset(requests)
            answers.append(pool.collect([0, 1]))
        for turn in range(3):
            for i in range(2):
                assert_same(answers[0][i], answers[1][i])
            commands = {i: plan(planner, answers[1][i][0], turn, rng) for i in range(2)}
            answers = []
            for pool in (ros, in_process):
                pool.execute(commands)
                answers.append(pool.collect([0, 1]))
        for i in range(2):
            assert_same(answers[0][i], answers[1][i])
            assert answers[0][i][1].episode == episode
    in_process.close()


def test_a_world_file_may_lie_in_a_folder_of_any_name(open_worlds, tmp_path):
    path = tmp_path / 'mein Ordner #1: grün' / 'welt.yaml'
    path.parent.mkdir()
    shutil.copy(find_config('worlds', 'panda_table'), path)
    pool = open_worlds(1, world=str(path))
    pool.reset({0: EpisodeRequest(2**40, 'place')})
    assert pool.collect([0])[0][0].task


def plan(planner, observation, turn, rng):
    """A random pick or place, and now and then no motion at all."""
    column, row = map(int, rng.integers(14, 34, 2))
    command = Place(column, row) if turn % 2 else Pick(column, row)
    try:
        return planner.plan(command, observation.joint_names, observation.joint_positions)
    except MotionError:
        return None


def test_killed_world_is_noticed_at_once_named_and_restarted(open_worlds):
    pool = open_worlds(2)
    requests = {i: EpisodeRequest(i, 'pick') for i in range(2)}
    pool.reset(requests)
    pool.collect([0, 1])
    old = pid(pool, 1)
    os.kill(old, signal.SIGKILL)
    pool.execute({0: None, 1: None})
    started = time.monotonic()
    with pytest.raises(WorldError, match='world_1 was killed by SIGKILL') as error:
        pool.collect([0, 1])
    assert time.monotonic() - started < 2.0
    assert error.value.index == 1
    assert pool.collect([0])[0][1].turn == 1  # what the others did is not lost
    pool.reset({1: requests[1]})
    observation, outcome = pool.collect([1])[1]
    assert (observation.joint_names, outcome) == (pool._links[1]._cell.robot.joints, None)
    assert pid(pool, 1) != old


def test_hung_world_is_killed_and_named_and_given_up_after_several_failures(open_worlds):
    pool = open_worlds(1, turn_timeout_s=1.0, start_timeout_s=60.0)
    request = EpisodeRequest(0, 'pick')
    for failure in range(1, MAX_FAILURES + 1):
        pool.reset({0: request})
        pool.collect([0])
        os.kill(pid(pool, 0), signal.SIGSTOP)
        pool.execute({0: None})
        with pytest.raises(UserError if failure == MAX_FAILURES else WorldError, match='world_0 did not answer'):
            pool.collect([0])
    os.kill(pid(pool, 0), signal.SIGCONT)


def test_the_time_in_which_nobody_waits_for_a_world_is_not_held_against_it(open_worlds):
    pool = open_worlds(1, turn_timeout_s=1.5, start_timeout_s=60.0)
    pool.reset({0: EpisodeRequest(0, 'pick')})
    pool.collect([0])
    pool.execute({0: None})
    time.sleep(2.0)  # the policy decides for others
    assert pool.collect([0])[0][1] is not None


def test_impossible_episode_is_one_sentence(open_worlds):
    pool = open_worlds(1)
    pool.reset({0: EpisodeRequest(0, 'levitate')})
    with pytest.raises(UserError, match='world_0 refuses the episode: no task named'):
        pool.collect([0])
    with pytest.raises(UserError, match='no worlds file named'):
        pool.reset({0: EpisodeRequest(0, 'pick', 'mars')})


def test_a_world_that_another_trainer_commands_as_well_is_not_learned_from(graph, open_worlds):
    graph.start('sim_worlds.world_node', '-r', '__ns:=/cell', lock_step=True)
    pools = [open_worlds(0, attach=['/cell']) for _ in range(2)]
    for seed, pool in enumerate(pools):
        pool.reset({0: EpisodeRequest(seed, 'pick')})
        pool.collect([0])
    pools[0].execute({0: None})
    with pytest.raises(UserError, match='cell tells of turn 1 of seed 1, but was asked for turn 1 of seed 0'):
        pools[0].collect([0])


def test_attached_worlds_are_used_and_left_running(graph, open_worlds):
    process = graph.start('sim_worlds.world_node', '-r', '__ns:=/cell', lock_step=True)
    pool = open_worlds(0, attach=['/cell'])
    pool.reset({0: EpisodeRequest(3, 'place')})
    observation, _ = pool.collect([0])[0]
    in_process = InProcessWorlds(1)
    in_process.reset({0: EpisodeRequest(3, 'place')})
    assert_same((observation, None), in_process.collect([0])[0])
    pool.close()
    assert process.poll() is None


def test_attached_world_that_dies_and_comes_back_is_noticed(graph, open_worlds):
    process = graph.start('sim_worlds.world_node', '-r', '__ns:=/cell', lock_step=True)
    pool = open_worlds(0, attach=['/cell'])
    pool.reset({0: EpisodeRequest(3, 'place')})
    pool.collect([0])
    process.send_signal(signal.SIGSTOP)
    pool.execute({0: None})
    process.kill()
    graph.start('sim_worlds.world_node', '-r', '__ns:=/cell', lock_step=True)
    with pytest.raises(WorldError, match='cell was restarted'):
        pool.collect([0])
    pool.reset({0: EpisodeRequest(3, 'place')})
    assert pool.collect([0])[0][1] is None


def test_no_world_process_outlives_the_pool(open_worlds):
    pool = open_worlds(1)
    pool.reset({0: EpisodeRequest(0, 'pick')})
    pool.collect([0])
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5.0
    assert pool._processes[0]._process.poll() is not None


def test_no_world_process_outlives_a_killed_trainer(domain_id, tmp_path):
    script = ('from pathlib import Path; import time; from training.worlds.ros_worlds import RosWorlds\n'
              'from vlm_agent_ros.types import EpisodeRequest\n'
              f'pool = RosWorlds(1, logs=Path({str(tmp_path)!r})); pool.reset({{0: EpisodeRequest(0, "pick")}})\n'
              'pool.collect([0]); print(pool._processes[0]._process.pid, flush=True); time.sleep(60)')
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'PYTHONPATH': str(ROOT)}
    with subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, env=environment) as trainer:
        world = int(trainer.stdout.readline())
        trainer.kill()
    deadline = time.monotonic() + 5.0
    while is_running(world):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.1)  # what is younger may belong to a process that is starting
    remove_stale_segments()


def is_running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False
