"""panda-gym's PickAndPlace as who wants pictures would run it: what the simulated cell is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim_worlds.bullet import silenced
from vlm_agent_ros.errors import UserError

_HOVER_M = 0.1
_NEAR_M = 0.012
_CLOSE_S = 0.4
_STEP_M = 0.05  # displacement of the tool that an action of 1 asks for


class PandaGymWorld:
    """One environment ``PandaPickAndPlace-v3`` with TinyRenderer, and a scripted pick and place in it.

    The time limit of 50 steps is lifted; everything else is as it comes.

    Args:
        size: Width and height of its pictures, pixels.

    Raises:
        UserError: panda-gym is not installed.
    """

    def __init__(self, size: int) -> None:
        try:
            with silenced():
                import panda_gym  # registers its environments
        except ImportError as error:
            raise UserError(f'panda-gym is missing ({error}): `pip install panda-gym`, or leave out the part '
                            '`world`') from error
        import gymnasium

        assert panda_gym.ENV_IDS
        with silenced():
            self._env = gymnasium.make('PandaPickAndPlace-v3', render_mode='rgb_array', renderer='Tiny',
                                       render_width=size, render_height=size).unwrapped
        self.step_s = float(self._env.metadata['render_fps']) ** -1

    def close(self) -> None:
        """Give the physics server back."""
        self._env.close()

    def film(self, seed: int) -> Iterator[np.ndarray]:
        """Pictures (size, size, 3) uint8 of episodes without end, one after every control step."""
        while True:
            for _ in self.motion(seed, 80):
                yield self.picture()
            seed += 1

    def episode(self, seed: int, turns: int, seconds: float) -> list[np.ndarray]:
        """Play so many turns, each of which ends with a picture, in so many simulated seconds altogether.

        Returns:
            The pictures, and before them the one of the start.
        """
        steps = max(round(seconds / self.step_s), turns)
        shown = {round(steps * (turn + 1) / turns) for turn in range(turns)}
        pictures = []
        for number, _ in enumerate(self.motion(seed, steps)):
            if number == 0 or number in shown:
                pictures.append(self.picture())
        return pictures

    def picture(self) -> np.ndarray:
        """(size, size, 3) uint8."""
        picture = self._env.render()
        assert isinstance(picture, np.ndarray)
        return picture

    def motion(self, seed: int, steps: int) -> Iterator[dict[str, np.ndarray]]:
        """Observations of a scripted pick and place: the first one, and one after every control step."""
        observation, _ = self._env.reset(seed=seed)
        yield observation
        held = 0
        for _ in range(steps):
            tool, cube = observation['observation'][:3], observation['achieved_goal']
            above = np.hypot(*(tool - cube)[:2]) > _NEAR_M
            closing = held > 0 or (not above and tool[2] - cube[2] < _NEAR_M)
            held += closing
            target = cube + np.array([0.0, 0.0, _HOVER_M if above else 0.0])
            if held * self.step_s > _CLOSE_S:
                target = observation['desired_goal']
            action = np.append(np.clip((target - tool) / _STEP_M, -1.0, 1.0), -1.0 if closing else 1.0)
            observation = self._env.step(action.astype(np.float32))[0]
            yield observation
