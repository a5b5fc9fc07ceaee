"""``pick``: take the cube of a colour from the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import Item
from .base import Goal, SceneState, Task, horizontal_distance, indices

_LIFTED_M = 0.10


class Pick(Task):
    """The cube of the named colour shall be in the gripper, at least 10 cm over the table."""

    name = 'pick'
    instructions = ('pick up the {} cube', 'pick the {} cube', 'grasp the {} cube', 'take the {} cube',
                    'lift the {} cube')

    def draw_goal(self, items: Sequence[Item], rng: np.random.Generator) -> Goal:
        """Any of the cubes."""
        target = int(rng.choice(indices(items, 'cube')))
        return Goal(self.instructions[rng.integers(len(self.instructions))].format(items[target].colour), target)

    def success(self, goal: Goal, items: Sequence[Item], state: SceneState) -> bool:
        """The right cube is held and lifted."""
        return state.held == goal.target and bool(state.positions[goal.target, 2] > state.table_z + _LIFTED_M)

    def potential(self, goal: Goal, items: Sequence[Item], state: SceneState) -> float:
        """1 while the right cube is held."""
        return 1.0 if state.held == goal.target else 0.0

    def miss_distance(self, goal: Goal, before: SceneState, after: SceneState, touch: np.ndarray | None) -> float:
        """From where the tool touched down to the cube."""
        return np.inf if touch is None else horizontal_distance(touch, before.positions[goal.target])
