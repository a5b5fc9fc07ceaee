"""``place``: put the cube of a colour on the pad of a colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import Item
from .base import Goal, SceneState, Task, horizontal_distance, indices


class Place(Task):
    """The named cube shall lie on the named pad, its centre within the pad's edges, released."""

    name = 'place'
    instructions = ('put the {} cube on the {} pad', 'place the {} cube on the {} pad',
                    'move the {} cube to the {} pad', 'set the {} cube down on the {} pad',
                    'bring the {} cube to the {} pad')

    def draw_goal(self, items: Sequence[Item], rng: np.random.Generator) -> Goal:
        """Any of the cubes onto any of the pads."""
        target, pad = int(rng.choice(indices(items, 'cube'))), int(rng.choice(indices(items, 'pad')))
        wording = self.instructions[rng.integers(len(self.instructions))]
        return Goal(wording.format(items[target].colour, items[pad].colour), target, pad)

    def success(self, goal: Goal, items: Sequence[Item], state: SceneState) -> bool:
        """The cube rests on the pad, released."""
        cube, pad = items[goal.target], items[_pad(goal)]
        offset = state.positions[goal.target] - state.positions[_pad(goal)]
        cosine, sine = np.cos(pad.yaw), np.sin(pad.yaw)
        along = np.array([cosine * offset[0] + sine * offset[1], -sine * offset[0] + cosine * offset[1]])
        resting = state.positions[goal.target, 2] < state.table_z + cube.size
        return state.held != goal.target and bool(resting and np.all(np.abs(along) <= pad.size / 2))

    def potential(self, goal: Goal, items: Sequence[Item], state: SceneState) -> float:
        """A half while the right cube is held, 1 when it is placed."""
        if self.success(goal, items, state):
            return 1.0
        return 0.5 if state.held == goal.target else 0.0

    def miss_distance(self, goal: Goal, before: SceneState, after: SceneState, touch: np.ndarray | None) -> float:
        """From where the tool touched down to the cube, or to the pad once the cube is held."""
        if touch is None:
            return np.inf
        if before.held == goal.target:
            return horizontal_distance(touch, before.positions[_pad(goal)])
        return horizontal_distance(touch, before.positions[goal.target])


def _pad(goal: Goal) -> int:
    assert goal.destination is not None, 'a place goal always names its pad'
    return goal.destination
