"""What is true of a scene, in the language in which the skills cell's thoughts speak of it, and who agrees with it.

A thought is a list of statements: ``red cube at 10 20 , blue pad held , gripper open , so pick 10 20``. The scene is
told in the same words by one who sees all of it; other worlds have no such language, and so no check of thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .expert import cell_text, projected_point
from .truth import SceneTruth

TOLERANCE = 2  # cells by which a stated coordinate may be off; a cell is about 1.2 cm of the table
CLEARANCE_M = 0.054  # from everything else, along x or along y, at which the table is free to put something down
OCCUPIED_M = 0.045  # from a cube likewise, within which a spot of a container is taken: the two would overlap
MARGIN_M = 0.024  # beyond the spots of a container within which a cube would lie on its edge
EDGE = 0.5  # cells by which the centre of a spot may lie outside of a region: none is stated more finely

_SEPARATOR = re.compile(r'\s*,\s*')
_CELL = '([0-9]{2}) ([0-9]{2})'
_AT = re.compile(f'(.+) at {_CELL}')
_OVER = re.compile(r'(.+) over ((?:-?[0-9]+\.[0-9] ?){8})(?:of ([0-9.]+) by ([0-9.]+))?')
_MOTION = re.compile(f'(?:pick|place|stack) {_CELL}|push {_CELL} (?:left|right|up|down)')
_TABLE = 'table'
_CELL_M = 0.012  # a cell of the shipped worlds, where a scene does not say how large its table is

Cell = tuple[int, int]
Region = np.ndarray
"""(4, 2) float64 corners (column, row) in turn, in cells from the corner of the image."""


class Place(NamedTuple):
    """An item and a cell of it; in a scene, for what has room for several cubes, also the region of its spots.

    ``size`` is that of the region along x and y of the base frame, m, where a scene tells it: of the table.
    """

    name: str
    cell: Cell
    region: Region | None = None
    size: tuple[float, float] | None = None


def true_statements(truth: SceneTruth) -> str:
    """Every item by name, where it is seen or that it is held, and the gripper's state, as one text.

    An item that has fallen from the table is not there. What has room for several cubes, and is so spoken of by its
    free spots, is told with the corners of the region ``over`` which these lie, and so is the table, with its size in
    metres: how far things are apart is known from that, whatever the camera sees of them.
    """
    said = []
    for i, item in enumerate(truth.items):
        if i == truth.state.held:
            said.append(f'{item.name} held')
        elif not truth.state.fallen(i):
            at, room = truth.state.positions[i], truth.task.room(item)
            said.append(f'{item.name} at {cell_text(truth, at)}' + (_over(truth, at - room, at + room) if room else ''))
    low, high = truth.cell.workspace.low, truth.cell.workspace.high
    table = f'{_TABLE}{_over(truth, low, high)} of {high[0] - low[0]:.3f} by {high[1] - low[1]:.3f}'
    return ' , '.join([*said, table, f'gripper {truth.gripper}'])


def judge(thought: str, scene: str) -> list[bool]:
    """Whether each statement of a thought agrees with a scene.

    An item is where one of its name is, within ``TOLERANCE``; what has room for several cubes is where it has room, so
    in its region and not where another cube lies than the one that is picked up. Everything else must be said in the
    scene's words. The conclusion, ``so <action>``, must act on a place that the thought has stated, or put down where
    the table is free.

    Args:
        thought: What a policy wrote.
        scene: From ``true_statements``.

    Returns:
        One verdict per statement; none for a thought without any.
    """
    facts = _SEPARATOR.split(scene)
    places = [place for fact in facts if (place := _told(fact))]
    table = next((place for place in places if place.name == _TABLE), None)
    floor = _Floor(table)
    items = [place for place in places if place is not table]
    statements = [part for part in _SEPARATOR.split(thought.strip()) if part]
    stated = [place for part in statements if (place := _place(part))]
    left = _not_picked(items, conclusion(thought))
    verdicts = []
    for part in statements:
        if part.startswith('so '):
            verdicts.append(len(statements) > 1 and _follows(part.removeprefix('so '), stated, items, table,
                                                                  floor))
        elif place := _place(part):
            verdicts.append(any(place.name == true.name and _is_at(place.cell, true)
                                and not (true.region is not None and _taken(place.cell, left, floor))
                                for true in items))
        else:
            verdicts.append(part in facts)
    return verdicts


def conclusion(thought: str) -> str:
    """The action that a thought ends with, ``so <action>``; empty where it comes to none."""
    *_, last = _SEPARATOR.split(thought.strip())
    return last.removeprefix('so ').strip() if last.startswith('so ') else ''


def _over(truth: SceneTruth, low: np.ndarray | Sequence[float], high: np.ndarray | Sequence[float]) -> str:
    """The region of the image in which the skills act on a rectangle of the table, given by two corners, m."""
    corners = [(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])]
    return ' over ' + ' '.join(f'{value:.1f}' for corner in corners
                               for value in projected_point(truth, np.array([*corner, 0.0])))


def _told(fact: str) -> Place | None:
    """What a scene says of an item, or of the table."""
    over = _OVER.fullmatch(fact)
    if over is None:
        return _place(fact)
    region = np.array([float(value) for value in over[2].split()]).reshape(4, 2)
    size = (float(over[3]), float(over[4])) if over[3] else None
    return (_place(over[1]) or Place(over[1], (0, 0)))._replace(region=region, size=size)


def _place(statement: str) -> Place | None:
    """The item and the cell of ``<item> at <column> <row>``."""
    match = _AT.fullmatch(statement)
    return Place(match[1], (int(match[2]), int(match[3]))) if match else None


def _aim(action: str) -> Cell | None:
    """The cell at which an action is aimed; None where it moves nothing, or is no action."""
    match = _MOTION.fullmatch(action)
    return (int(match[1] or match[3]), int(match[2] or match[4])) if match else None


def _follows(action: str, stated: list[Place], items: list[Place], table: Place | None, floor: _Floor) -> bool:
    cell = _aim(action)
    if cell is None:
        return action == 'done'  # whatever else it says, it is no action
    if any(_near(cell, place.cell) for place in stated):
        return True
    return action.startswith('place ') and (table is None or _is_at(cell, table)) and not any(
        floor.within(cell, item.cell, CLEARANCE_M) if item.region is None else
        floor.touches(cell, item.region, MARGIN_M) for item in items)


def _not_picked(items: list[Place], action: str) -> list[Place]:
    """What stays where it is in an action: all but one of what it picks up."""
    cell = _aim(action) if action.startswith('pick ') else None
    picked = next((item for item in items if item.region is None and cell and _near(cell, item.cell)), None)
    return [item for item in items if item is not picked]


def _is_at(cell: Cell, place: Place) -> bool:
    return _near(cell, place.cell) if place.region is None else _beyond(cell, place.region) <= EDGE


def _taken(spot: Cell, left: list[Place], floor: _Floor) -> bool:
    return any(floor.within(spot, place.cell, OCCUPIED_M) for place in left if place.region is None)


def _near(a: Cell, b: Cell) -> bool:
    return abs(a[0] - b[0]) <= TOLERANCE and abs(a[1] - b[1]) <= TOLERANCE


class _Floor:
    """Where cells lie on the table, m along x and y of the base frame: cells differ in size and may be seen askew.

    Args:
        table: As a scene tells it; None, or without a size, for square cells as large as those of the shipped worlds.
    """

    def __init__(self, table: Place | None) -> None:
        self._matrix = np.diag([_CELL_M, _CELL_M, 1.0])
        if table is not None and table.region is not None and table.size is not None:
            self._matrix = _homography(table.region, table.size)

    def within(self, spot: Cell, cell: Cell, distance: float) -> bool:
        """Whether the centre of a spot is nearer than a distance (m), along x and along y, to all of another cell."""
        corners = np.add(cell, [(0, 0), (0, 1), (1, 0), (1, 1)])
        return bool(np.abs(self._points(corners) - self._points(np.array(spot) + 0.5)).max() < distance)

    def touches(self, spot: Cell, region: Region, margin: float) -> bool:
        """Whether the centre of a spot lies in a rectangle of the table, or no further than a margin (m) beyond it."""
        corners, point = self._points(region), self._points(np.array(spot) + 0.5)
        return bool(np.maximum(corners.min(0) - point, point - corners.max(0)).max() <= margin)

    def _points(self, cells: np.ndarray) -> np.ndarray:
        """(…, 2) m of (…, 2) columns and rows."""
        seen = np.concatenate([cells, np.ones((*cells.shape[:-1], 1))], axis=-1) @ self._matrix.T
        return np.asarray(seen[..., :2] / seen[..., 2:])


def _homography(region: Region, size: tuple[float, float]) -> np.ndarray:
    """(3, 3) by which columns and rows become metres, from four corners told in turn from the least x and y on."""
    (width, depth), rows = size, []
    for (u, v), (x, y) in zip(region, ((0.0, 0.0), (0.0, depth), (width, depth), (width, 0.0))):
        rows += [[u, v, 1.0, 0.0, 0.0, 0.0, -x * u, -x * v, -x], [0.0, 0.0, 0.0, u, v, 1.0, -y * u, -y * v, -y]]
    return np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)  # what all eight rows map to 0


def _beyond(cell: Cell, region: Region) -> float:
    """By how many cells the centre of a cell lies outside of a convex region; negative inside."""
    edges = np.roll(region, -1, axis=0) - region
    offsets = np.array(cell) + 0.5 - region
    left = (edges[:, 0] * offsets[:, 1] - edges[:, 1] * offsets[:, 0]) / np.hypot(*edges.T)
    turns = edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0]  # which way round the corners are told
    return float((-left if turns > 0 else left).max())
