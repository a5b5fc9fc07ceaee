"""``inspect``: take the defective parts off an inspection line before it moves on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config import WorldConfig
from ..scene import DEFECTS, Item, draw_layout
from .base import Assignment, Goal, SceneState, draw_colours, indices, is_above
from .containers import ContainerTask


class Inspect(ContainerTask):
    """The defective parts shall lie in the reject tray, the good ones not, when the line moves on.

    3 or 4 parts (cubes) of one nominal colour, which the instruction names; 0 to 3 of them lack a corner, have another
    colour or a scratch. The line moves on with the first turn in which no motion is wanted, or at the turn limit:
    whether anything is left to reject is for the robot to decide. KPI terms: ``defect_passed``, the defective parts
    that are not in the tray at the end; ``false_alarm``, the good parts that a turn took off the line: into the tray,
    also onto a part that lies there, or off the table.
    """

    name = 'inspect'
    instructions = ('inspect the {} parts and reject the defective ones',
                    'move the defective {} parts to the reject tray', 'inspect the {} parts',
                    'put every defective {} part into the reject tray', 'reject all defective {} parts')
    held_out_instructions = ('take every {} part that is not good to the reject tray',
                             'only good {} parts should be on the table')
    term_names = ('defect_passed', 'false_alarm')
    ends_at_rest = True

    def draw_items(self, config: WorldConfig, rng: np.random.Generator) -> list[Item]:
        """A tray, and parts of which at least one is good."""
        nominal, *others = draw_colours(config, max(2, len(config.objects.palette)), rng)
        defects = [str(defect) for defect in rng.choice(DEFECTS, int(rng.integers(0, 4)))]
        defects += [''] * max(int(rng.integers(3, 5)) - len(defects), 1)
        parts = [(str(rng.choice(others)) if defect == 'wrong colour' else nominal, str(defect))
                 for defect in rng.permutation(defects)]
        return draw_layout(config, parts, [('tray', 'white')], rng)

    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """Each defective part into the tray."""
        tray, = indices(items, 'tray')
        cubes = indices(items, 'cube')
        nominal = next(items[i].colour for i in cubes if not items[i].defect)
        return Goal(wordings[rng.integers(len(wordings))].format(nominal),
                    tuple(Assignment(i, tray) for i in cubes if items[i].defect))

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The nominal colour with each defect."""
        cubes = [items[i] for i in indices(items, 'cube')]
        nominal = next(cube.colour for cube in cubes if not cube.defect)
        return {(nominal, cube.defect) for cube in cubes if cube.defect}

    def success(self, goal: Goal, items: Sequence[Item], state: SceneState) -> bool:
        """Every defective part is in the tray, and every good one rests on the line."""
        return state.held is None and not self.pending(goal, items, state) and not _rejected(goal, items, state)

    def terms(self, goal: Goal, items: Sequence[Item], before: SceneState, after: SceneState, over: bool
              ) -> dict[str, float]:
        """Counts of ``defect_passed`` and ``false_alarm``."""
        return {'defect_passed': float(len(self.pending(goal, items, after)) if over else 0),
                'false_alarm': float(len(_rejected(goal, items, after) - _rejected(goal, items, before)))}


def _rejected(goal: Goal, items: Sequence[Item], state: SceneState) -> set[int]:
    """The good parts that are no longer on the line."""
    tray, = indices(items, 'tray')
    return {i for i in indices(items, 'cube')
            if not items[i].defect and (is_above(i, tray, items, state) or state.fallen(i))}
