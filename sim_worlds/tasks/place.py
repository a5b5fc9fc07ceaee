"""``place``: put the cube of a colour on the pad of a colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import Item
from .base import Goal, SceneState, Task, horizontal_distance, indices


class Place(Task):
    """The named cube shall lie on the named pad, its centre within the pad's edges, released."""

    name = 'place'
    instructions = ('put the {} cube on the {} pad', 'place the {} cube on the {} pad', 'move the {} cube to the {} pad',
                    'set the {} cube down on the {} pad', 'bring the {} cube to the {} pad')

    def draw_goal(self, items: Sequence[Item], rng: np.random.Generator) -> Goal:
        target, pad = int(rng.choice(indices(items, 'cube'))), int(rng.choice(indices(items, 'pad')))
        wording = self.instructions[rng.integers(len(self.instructions))]
        return Goal(wording.format(items[target].colour, items[pad].colour), target, pad)

    def success(self, goal: Goal, items: Sequence[Item], state: SceneState) -> bool:
        cube, pad = items[goal.target], items[goal.destination]
        offset = state.positions[goal.target] - state.positions[goal.destination]
        cosine, sine = np.cos(pad.yaw), np.sin(pad.yaw)
        along = np.array([cosine * offset[0] + sine * offset[1], -sine * offset[0] + cosine * offset[1]])
        resting = state.positions[goal.target, 2] < state.table_z + cube.size
        return state.held != goal.target and bool(resting and np.all(np.abs(along) <= pad.size / 2))

    def potential(self, goal: Goal, items: Sequence[Item], state: SceneState) -> float:
        if self.success(goal, items, state):
            return 1.0
        return 0.5 if state.held == goal.target else 0.0

    def miss_distance(self, goal: Goal, before: SceneState, after: SceneState, touch: np.ndarray | None) -> float:
        if touch is None:
            return np.inf
        if before.held == goal.target:
            return horizontal_distance(touch, before.positions[goal.destination])
        return horizontal_distance(touch, before.positions[goal.target])
