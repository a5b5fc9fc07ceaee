"""Every environment keeps Gymnasium's contract and gives the same episode for the same seed, in any process."""

import hashlib
import subprocess
import sys

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from sim_worlds.envs import CellEnv, env_id
from sim_worlds.expert import demonstrate
from sim_worlds.tasks import TASKS


def play(task: str, seed: int) -> str:
    """Digest of everything that an expert's episode shows, after another episode has been played before it."""
    env = CellEnv(task)
    env.reset(seed=seed + 1)
    env.step(demonstrate(env.world.truth()).action)
    observation, _ = env.reset(seed=seed)
    digest = hashlib.sha256(observation['image'].tobytes() + observation['joint_positions'].tobytes())
    done = False
    while not done:
        observation, reward, terminated, truncated, info = env.step(demonstrate(env.world.truth()).action)
        digest.update(observation['image'].tobytes() + observation['joint_positions'].tobytes())
        digest.update(repr((reward, terminated, truncated, info)).encode())
        done = terminated or truncated
    env.close()
    return digest.hexdigest()


@pytest.mark.parametrize('task', TASKS)
def test_environment_passes_gymnasiums_checker(task):
    env = gymnasium.make(env_id(task), render_mode='rgb_array')
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize('task', TASKS)
def test_same_seed_and_actions_give_the_same_bits_in_two_processes(task):
    code = f'from test.sim_worlds.test_envs import play; print("digest", play({task!r}, 5))'
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert f'digest {play(task, 5)}' in other


def test_text_outside_the_language_is_a_turn_without_motion():
    env = CellEnv('place')
    before, _ = env.reset(seed=3)
    after, _, terminated, truncated, info = env.step('fly to the moon')
    assert info['illegal'] and not terminated and not truncated
    assert info['kpi']['cycle_time'] == 0.0
    assert abs(after['joint_positions'] - before['joint_positions']).max() < 1e-3
    env.close()


def test_episode_is_truncated_at_the_turn_limit():
    env = CellEnv('pick')
    env.reset(seed=3)
    ends = [env.step('done')[2:4] for _ in range(env.world.config.turn_limit)]
    assert ends == [(False, False)] * (len(ends) - 1) + [(False, True)]
    env.close()


def test_step_before_reset_is_refused():
    env = CellEnv('pick')
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step('done')
    env.close()
