"""``sort``: put every cube on the pad of its colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config import WorldConfig
from ..scene import Item, draw_layout
from .base import Assignment, Goal, colour_pair, draw_colours, indices
from .containers import ContainerTask


class Sort(ContainerTask):
    """Every cube shall lie on the pad of its own colour; 3 or 4 cubes, 2 large pads."""

    name = 'sort'
    instructions = ('sort the cubes by colour', 'sort every cube onto the pad of its colour',
                    'put every cube on the pad of the same colour', 'move all cubes to the pad of the same colour',
                    'place every cube on the pad of its colour')
    held_out_instructions = ('bring all cubes to the pad with the same colour', 'get every cube sorted by colour')

    def draw_items(self, config: WorldConfig, rng: np.random.Generator) -> list[Item]:
        """Two large pads, and cubes of their colours, at least one of each."""
        colours = draw_colours(config, 2, rng)
        cubes = [*colours, *rng.choice(colours, int(rng.integers(1, 3)))]
        return draw_layout(config, [(str(colour), '') for colour in rng.permutation(cubes)],
                           [('pad', colour) for colour in colours], rng)

    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """Each cube to the pad of its colour."""
        pads = {items[i].colour: i for i in indices(items, 'pad')}
        return Goal(wordings[rng.integers(len(wordings))],
                    tuple(Assignment(i, pads[items[i].colour]) for i in indices(items, 'cube')))

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The colours of the two pads."""
        first, second = indices(items, 'pad')
        return {colour_pair(items[first], items[second])}
