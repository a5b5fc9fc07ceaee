"""The scripted expert: from the true scene to the thought and the action that the policy learns to write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tasks.base import horizontal_distance
from .truth import SceneTruth


@dataclass(frozen=True)
class Demonstration:
    """What the expert would write now."""

    thought: str
    action: str


def demonstrate(truth: SceneTruth) -> Demonstration:
    """The expert's thought and action in a scene.

    The thought names what is decided where it is seen (target and destination with their image cells) and the
    action copies it: a look-up at the end of a long description was found not to be learned by a small model.
    """
    goal, state, gripper = truth.goal, truth.state, truth.gripper
    target = f'{truth.items[goal.target].name}'
    place = '' if goal.destination is None else (
        f', {truth.items[goal.destination].name} at {_cell(truth, goal.destination)} ')
    if state.held == goal.target and goal.destination is not None:
        spot = _cell(truth, goal.destination)
        return Demonstration(f'{target} held {place}, gripper {gripper} , so place {spot}', f'place {spot}')
    at = _cell(truth, goal.target)
    seen = f'{target} at {at} {place}, gripper {gripper} , so '
    if state.held is not None:
        spot = _free_cell(truth)
        return Demonstration(seen + f'place {spot}', f'place {spot}')
    return Demonstration(seen + f'pick {at}', f'pick {at}')


def projected(truth: SceneTruth, index: int) -> tuple[float, float]:
    """Fractional image cell (column, row) at which a skill must be aimed to act on an item."""
    point = truth.state.positions[index].copy()
    point[2] = truth.cell.workspace.plane_z
    u, v = truth.cell.camera.project(point)
    return u * truth.cell.grid / truth.cell.camera.width, v * truth.cell.grid / truth.cell.camera.height


def _cell(truth: SceneTruth, index: int) -> str:
    last = truth.cell.grid - 1
    return '{:02d} {:02d}'.format(*(int(np.clip(value, 0, last)) for value in projected(truth, index)))


def _free_cell(truth: SceneTruth) -> str:
    """A cell to put a wrong cube down: the free spot of the table farthest from everything, on a coarse raster."""
    low, high = np.array(truth.cell.workspace.low), np.array(truth.cell.workspace.high)
    others = [p for i, p in enumerate(truth.state.positions) if i != truth.state.held]
    spots = [np.array([x, y, truth.cell.workspace.plane_z])
             for x in np.linspace(max(low[0], 0.4), min(high[0], 0.62), 3) for y in np.linspace(-0.18, 0.18, 5)]
    best = max(spots, key=lambda spot: min(horizontal_distance(spot, other) for other in others))
    return '{:02d} {:02d}'.format(*truth.cell.point_to_cell(best))
