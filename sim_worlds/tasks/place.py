"""``place``: put the cube of a colour on the pad of a colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import Item
from .base import Assignment, Goal, SceneState, Task, assigned_colours, indices, lies_on


class Place(Task):
    """The named cube shall lie on the named pad, its centre within the pad's edges, released."""

    name = 'place'
    instructions = ('put the {} cube on the {} pad', 'place the {} cube on the {} pad',
                    'move the {} cube to the {} pad', 'set the {} cube down on the {} pad',
                    'bring the {} cube to the {} pad')
    held_out_instructions = ('carry the {} cube over to the {} pad', 'lay the {} cube onto the {} pad')
    default_split = ''  # what was measured on a seed before there were splits stays comparable

    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """Any of the cubes onto any of the pads."""
        target, pad = int(rng.choice(indices(items, 'cube'))), int(rng.choice(indices(items, 'pad')))
        wording = wordings[rng.integers(len(wordings))]
        return Goal(wording.format(items[target].colour, items[pad].colour), (Assignment(target, pad),))

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The colours of cube and pad."""
        return assigned_colours(goal, items)

    def fulfilled(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> bool:
        """The cube rests on the pad, released."""
        return assignment.destination is not None and lies_on(assignment.target, assignment.destination, items, state)
