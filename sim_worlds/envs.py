"""The tasks as Gymnasium environments: the action is the text that a policy would write."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vlm_agent_ros.actions import ActionError, SkillLanguage
from vlm_agent_ros.motion import MotionError, SkillPlanner
from vlm_agent_ros.types import EpisodeRequest, Observation

from .tasks import TASKS
from .world import CellWorld

_TEXT = ''.join(chr(code) for code in range(32, 127))
_MAX_TEXT = 256


class CellEnv(gymnasium.Env[dict[str, Any], str]):
    """One task of a simulated cell.

    Observation: a Dict of ``image`` (height, width, 3) uint8 rgb8, ``joint_positions`` (joints,) float64 in rad and m
    (arm, then gripper), and ``text``, the instruction. Action: a text of the skill language such as ``pick 07 35``; a
    text outside it, or one that the arm cannot carry out, is a turn in which it stays where it is, counted in
    ``info['illegal']`` and ``info['unreachable']``. ``info`` also has the KPI terms and ``success``.

    Args:
        task: Name of the task.
        world: Name or path of a world file.
        render_mode: ``rgb_array`` or None.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 1}  # noqa: RUF012 - declared by gymnasium.Env

    def __init__(self, task: str = 'place', world: str = 'panda_table', render_mode: str | None = None) -> None:
        self.task, self.render_mode = task, render_mode
        self._world = CellWorld(world)
        cell = self._world.cell
        self._language, self._planner = SkillLanguage(cell.grid), SkillPlanner(cell)
        shape = (cell.camera.height, cell.camera.width, 3)
        # Measured joints may overshoot their limits a little, so the limits are no bounds of the observation.
        joints = len(cell.robot.joints)
        self.observation_space = spaces.Dict({
            'image': spaces.Box(0, 255, shape, np.uint8),
            'joint_positions': spaces.Box(-2 * np.pi, 2 * np.pi, (joints,), np.float64),
            'text': spaces.Text(_MAX_TEXT, charset=_TEXT),
        })
        self.action_space = spaces.Text(_MAX_TEXT, charset=_TEXT)
        self._observation: Observation | None = None

    @property
    def world(self) -> CellWorld:
        """The world behind the environment, e.g. for ``sim_worlds.expert.demonstrate(env.world.truth())``."""
        return self._world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the episode of a seed; without one, of a seed drawn from the environment's generator."""
        super().reset(seed=seed)
        episode = seed if seed is not None else int(self.np_random.integers(2**31))
        self._observation = self._world.reset(EpisodeRequest(episode, self.task))
        return self._dict(self._observation), {'seed': episode}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Carry out one turn."""
        if self._observation is None:
            raise gymnasium.error.ResetNeeded('call reset() before step()')
        info: dict[str, Any] = {'illegal': False, 'unreachable': False}
        measured = self._observation.joint_names, self._observation.joint_positions
        try:
            trajectory = self._planner.plan(self._language.parse(action), *measured)
        except (ActionError, MotionError) as error:
            info['illegal' if isinstance(error, ActionError) else 'unreachable'] = True
            trajectory = self._planner.hold(*measured)
        self._observation, outcome = self._world.execute(trajectory)
        info |= {'success': outcome.success, 'kpi': outcome.kpi}
        return self._dict(self._observation), outcome.reward, outcome.terminated, outcome.truncated, info

    def render(self) -> np.ndarray | None:
        """The last image, (height, width, 3) uint8, where ``render_mode`` is ``rgb_array``."""
        if self.render_mode is None or self._observation is None:
            return None
        return self._observation.image

    def close(self) -> None:
        """Give the physics server back."""
        self._world.close()

    @staticmethod
    def _dict(observation: Observation) -> dict[str, Any]:
        return {'image': observation.image, 'joint_positions': observation.joint_positions, 'text': observation.task}


def env_id(task: str) -> str:
    """Gymnasium id of a task's environment, e.g. ``vlm_agent_ros/Place-v0``."""
    return f'vlm_agent_ros/{task.capitalize()}-v0'


def register() -> None:
    """Make every task known to ``gymnasium.make``; ``import sim_worlds.envs`` does it."""
    for task in TASKS:
        if env_id(task) not in gymnasium.registry:
            gymnasium.register(env_id(task), entry_point='sim_worlds.envs:CellEnv', kwargs={'task': task})


register()
