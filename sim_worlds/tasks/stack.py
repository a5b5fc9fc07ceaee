"""``stack``: put the cube of a colour on top of another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlm_agent_ros.errors import UserError

from ..config import WorldConfig
from ..scene import Item
from .base import Assignment, Goal, SceneState, Task, assigned_colours, horizontal_distance, indices

_HEIGHT_TOLERANCE_M = 0.008


class Stack(Task):
    """The named cube shall rest, released, on the other named cube, its centre within that one's edges."""

    name = 'stack'
    instructions = ('stack the {} cube on the {} cube', 'put the {} cube on top of the {} cube',
                    'place the {} cube on the {} cube', 'set the {} cube down on the {} cube',
                    'stack the {} cube on top of the {} cube')
    held_out_instructions = ('lay the {} cube onto the {} cube', 'i want the {} cube on top of the {} cube')
    release = 'stack'

    def draw_items(self, config: WorldConfig, rng: np.random.Generator) -> list[Item]:
        """As the world file says, which must be two cubes at least."""
        if config.objects.cubes < 2:
            raise UserError(f'{config.path or config.name}: objects.cubes is {config.objects.cubes}, but stack needs 2')
        return super().draw_items(config, rng)

    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """Any of the cubes onto any other one."""
        target, base = (int(i) for i in rng.choice(indices(items, 'cube'), 2, replace=False))
        wording = wordings[rng.integers(len(wordings))]
        return Goal(wording.format(items[target].colour, items[base].colour), (Assignment(target, base),))

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The colours of upper and lower cube."""
        return assigned_colours(goal, items)

    def fulfilled(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> bool:
        """The cube is as high over the other one as a cube that lies flat on it, and neither is held."""
        target, base = assignment.target, assignment.destination
        if base is None or state.held in (target, base):
            return False
        rise = state.positions[target, 2] - state.positions[base, 2]
        flat = (items[target].size + items[base].size) / 2
        above = horizontal_distance(state.positions[target], state.positions[base]) <= items[base].size / 2
        return above and bool(abs(rise - flat) < _HEIGHT_TOLERANCE_M)
