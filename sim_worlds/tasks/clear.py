"""``clear``: put every cube into the tray."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config import WorldConfig
from ..scene import Item, draw_layout
from .base import Assignment, Goal, colour_pair, draw_colours, indices
from .containers import ContainerTask


class Clear(ContainerTask):
    """Every cube shall lie in the tray; 2 to 5 cubes of two colours."""

    name = 'clear'
    instructions = ('clear the table', 'put all cubes into the tray', 'move every cube into the tray',
                    'clear all cubes from the table', 'place every cube in the tray')
    held_out_instructions = ('get all the cubes into the tray', 'the table should be empty : cubes go in the tray')

    def draw_items(self, config: WorldConfig, rng: np.random.Generator) -> list[Item]:
        """A tray, and cubes of two colours, at least one of each."""
        colours = draw_colours(config, 2, rng)
        cubes = [*colours, *rng.choice(colours, int(rng.integers(0, 4)))]
        return draw_layout(config, [(str(colour), '') for colour in rng.permutation(cubes)], [('tray', 'white')], rng)

    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """Each cube into the tray."""
        tray, = indices(items, 'tray')
        return Goal(wordings[rng.integers(len(wordings))],
                    tuple(Assignment(i, tray) for i in indices(items, 'cube')))

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The two colours of the cubes."""
        cubes = [items[i] for i in indices(items, 'cube')]
        return {colour_pair(cubes[0], cube) for cube in cubes if cube.colour != cubes[0].colour}
