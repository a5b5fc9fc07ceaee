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


def test_text_outside_the_language_is_a_turn_in_which_the_arm_stays():
    env = CellEnv('place')
    before, _ = env.reset(seed=3)
    after, _, terminated, truncated, info = env.step('fly to the moon')
    assert info['illegal'] and not terminated and not truncated
    assert info['kpi']['cycle_time'] < 0.2
    assert abs(after['joint_positions'] - before['joint_positions']).max() < 1e-3
    env.close()


@pytest.mark.parametrize(('action', 'why'), [('fly to the moon', 'illegal'), ('pick 00 00', 'unreachable')])
def test_an_inspection_goes_on_after_what_cannot_be_carried_out_and_ends_with_done(action, why):
    env = CellEnv('inspect')
    seed = next(s for s in range(40) if env.reset(seed=s) and not env.world.truth().goal.assignments)
    env.reset(seed=seed)
    _, _, terminated, truncated, info = env.step(action)
    assert info[why] and not terminated and not truncated and not info['success'] and info['kpi']['precision'] == 0.0
    _, _, terminated, _, info = env.step('done')
    assert terminated and info['success'] and info['kpi']['precision'] == 1.0
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
