"""What is true of a scene, in the language in which the skills cell's thoughts speak of it, and who agrees with it.

A thought is a list of statements: ``red cube at 10 20 , blue pad held , gripper open , so pick 10 20``. The scene is
told in the same words by one who sees all of it; other worlds have no such language, and so no check of thoughts.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import NamedTuple

import numpy as np

from .expert import cell_text, projected_point
from .truth import SceneTruth

TOLERANCE = 2  # cells by which a stated coordinate may be off; a cell is about 1.2 cm of the table
CLEARANCE = 4  # cells from everything else at which the table counts as free to put something down
OCCUPIED = 3  # cells from a cube within which a spot of a container is taken: the two would overlap

_SEPARATOR = re.compile(r'\s*,\s*')
_AT = re.compile(r'(.+) at (\d\d) (\d\d)(?: within (\d+))?')
_ACTION = re.compile(r'so (?:done|(?:pick|place|stack|push) (\d\d) (\d\d)(?: (?:left|right|up|down))?)')

Cell = tuple[int, int]


class Place(NamedTuple):
    """An item and a cell of it; in a scene, also how far (cells) from there it may be said to be."""

    name: str
    cell: Cell
    reach: int

    @property
    def has_spots(self) -> bool:
        """Whether it has room for several cubes, and is spoken of by a free spot."""
        return self.reach > TOLERANCE


def true_statements(truth: SceneTruth) -> str:
    """Every item by name, where it is seen or that it is held, and the gripper's state, as one text.

    An item that has fallen from the table is not there. What has room for several cubes, and is so spoken of by its
    free spots, is told with the distance (cells) ``within`` which these lie.
    """
    said = []
    for i, item in enumerate(truth.items):
        if i == truth.state.held:
            said.append(f'{item.name} held')
        elif not truth.state.fallen(i):
            at = cell_text(truth, truth.state.positions[i])
            reach = _reach(truth, i)
            said.append(f'{item.name} at {at}' + (f' within {reach}' if reach > TOLERANCE else ''))
    return ' , '.join([*said, f'gripper {truth.gripper}'])


def judge(thought: str, scene: str) -> list[bool]:
    """Whether each statement of a thought agrees with a scene.

    An item is where one of its name is, within ``TOLERANCE``; what has room for several cubes is where it has room, so
    within what the scene says and not where another cube lies. Everything else must be said in the scene's words. The
    conclusion, ``so <action>``, must act on a place that the thought has stated, or put down where the table is free.

    Args:
        thought: What a policy wrote.
        scene: From ``true_statements``.

    Returns:
        One verdict per statement; none for a thought without any.
    """
    facts = _SEPARATOR.split(scene)
    places = [place for fact in facts if (place := _place(fact))]
    statements = [part for part in _SEPARATOR.split(thought.strip()) if part]
    stated = [place for part in statements if (place := _place(part))]
    left = _not_meant(places, stated)
    verdicts = []
    for part in statements:
        if part.startswith('so '):
            verdicts.append(len(statements) > 1 and _follows(part, stated, places))
        elif place := _place(part):
            verdicts.append(any(place.name == true.name and _near(place.cell, true.cell, true.reach)
                                and not (true.has_spots and _taken(place.cell, left)) for true in places))
        else:
            verdicts.append(part in facts)
    return verdicts


def conclusion(thought: str) -> str:
    """The action that a thought ends with, ``so <action>``; empty where it comes to none."""
    *_, last = _SEPARATOR.split(thought.strip())
    return last.removeprefix('so ').strip() if last.startswith('so ') else ''


def _reach(truth: SceneTruth, index: int) -> int:
    """Cells from the centre of an item to the farthest point of it at which the task releases something."""
    half, position = truth.task.room(truth.items[index]), truth.state.positions[index]
    centre = np.array(projected_point(truth, position))
    corners = [projected_point(truth, position + np.array([x, y, 0.0]))
               for x, y in itertools.product((-half, half), repeat=2)]
    return math.ceil(max(np.abs(np.array(corner) - centre).max() for corner in corners))


def _place(statement: str) -> Place | None:
    """The item and the cell of ``<item> at <column> <row>``."""
    match = _AT.fullmatch(statement)
    return Place(match[1], (int(match[2]), int(match[3])), int(match[4] or TOLERANCE)) if match else None


def _follows(conclusion: str, stated: list[Place], places: list[Place]) -> bool:
    match = _ACTION.fullmatch(conclusion)
    if match is None:
        return False  # whatever it says, it is no action
    if match[1] is None:
        return True  # done
    cell = int(match[1]), int(match[2])
    if any(_near(cell, place.cell) for place in stated):
        return True
    return conclusion.startswith('so place ') and not any(_near(cell, place.cell, CLEARANCE) for place in places)


def _not_meant(places: list[Place], stated: list[Place]) -> list[Place]:
    """What stays where it is while something is done with what a thought speaks of."""
    left = list(places)
    for said in stated:
        meant = [true for true in left if said.name == true.name and _near(said.cell, true.cell, true.reach)]
        if meant:
            left.remove(meant[0])
    return left


def _taken(spot: Cell, left: list[Place]) -> bool:
    return any(_near(spot, place.cell, OCCUPIED) for place in left if not place.has_spots)


def _near(a: Cell, b: Cell, distance: int = TOLERANCE) -> bool:
    return abs(a[0] - b[0]) <= distance and abs(a[1] - b[1]) <= distance
