"""``pick``: take the cube of a colour from the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import Item
from .base import Assignment, Goal, SceneState, Task, colour_pair, indices

_LIFTED_M = 0.10


class Pick(Task):
    """The cube of the named colour shall be in the gripper, at least 10 cm over the table."""

    name = 'pick'
    instructions = ('pick up the {} cube', 'pick the {} cube', 'grasp the {} cube', 'take the {} cube',
                    'lift the {} cube')
    held_out_instructions = ('grab the {} cube', 'get hold of the {} cube')
    default_split = ''  # what was measured on a seed before there were splits stays comparable

    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """Any of the cubes."""
        target = int(rng.choice(indices(items, 'cube')))
        return Goal(wordings[rng.integers(len(wordings))].format(items[target].colour), (Assignment(target),))

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The colours of the cube and of each one that it is to be told from."""
        target = goal.assignments[0].target
        return {colour_pair(items[target], items[i]) for i in indices(items, 'cube') if i != target}

    def fulfilled(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> bool:
        """The right cube is held and lifted."""
        target = assignment.target
        return state.held == target and bool(state.positions[target, 2] > state.table_z + _LIFTED_M)

    def credit(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> float:
        """1 while the right cube is held."""
        return 1.0 if state.held == assignment.target else 0.0
