"""The scripted expert: from the true scene to the thought and the action that the policy learns to write."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .tasks.base import Assignment, horizontal_distance
from .truth import SceneTruth

_NEAR = 4  # cells from an item within which an action is meant for it


class Demonstration(NamedTuple):
    """What the expert would write now."""

    thought: str
    action: str


def demonstrate(truth: SceneTruth) -> Demonstration:
    """The expert's thought and action in a scene.

    The thought names what is decided where it is seen (target and destination with their image cells) and the
    action copies it: a look-up at the end of a long description was found not to be learned by a small model.
    Where several items have to move, the one that is farthest to the left of the image is next.
    """
    state, step, carried = truth.state, _next_step(truth), False
    seen, action = [], 'done'
    if step is not None:
        carried = state.held == step.target and step.destination is not None
        target, at = truth.items[step.target].name, cell_text(truth, state.positions[step.target])
        seen, action = [f'{target} held' if carried else f'{target} at {at}'], f'pick {at}'
        if step.destination is not None and step.destination == state.held:
            seen.append(f'{truth.items[step.destination].name} held')
        elif step.destination is not None:
            spot = cell_text(truth, truth.task.spot(step, truth.items, state))
            seen.append(f'{truth.items[step.destination].name} at {spot}')
            action = f'{truth.task.release} {spot}' if carried else action
    if state.held is not None and not carried:
        action = f'place {_free_cell(truth)}'
    return Demonstration(' , '.join([*seen, f'gripper {truth.gripper}', f'so {action}']), action)


def narrate(truth: SceneTruth, action: str) -> str:
    """What one would have thought who takes an action on purpose: it names what is held, else what is acted on."""
    said = f'gripper {truth.gripper} , so {action}'
    if truth.state.held is not None:
        return f'{truth.items[truth.state.held].name} held , {said}'
    at = ' '.join(action.split()[1:3])
    column, row = (int(number) + 0.5 for number in at.split())
    distances = [max(abs(x - column), abs(y - row)) for x, y in (projected(truth, i) for i in range(len(truth.items)))]
    nearest = int(np.argmin(distances))
    return f'{truth.items[nearest].name} at {at} , {said}' if distances[nearest] <= _NEAR else said


def _next_step(truth: SceneTruth) -> Assignment | None:
    """What the expert moves next: what it holds, if that has to move."""
    pending = truth.task.pending(truth.goal, truth.items, truth.state)
    held = [step for step in pending if step.target == truth.state.held]
    return min(held or pending, key=lambda step: projected(truth, step.target), default=None)


def projected(truth: SceneTruth, index: int) -> tuple[float, float]:
    """Fractional image cell (column, row) at which a skill must be aimed to act on an item."""
    return projected_point(truth, truth.state.positions[index])


def projected_point(truth: SceneTruth, point: np.ndarray) -> tuple[float, float]:
    """Fractional image cell (column, row) at which a skill must be aimed to act at a point (3,), m."""
    on_plane = (point[0], point[1], truth.cell.workspace.plane_z)
    u, v = truth.cell.camera.project(np.array(on_plane))
    return u * truth.cell.grid / truth.cell.camera.width, v * truth.cell.grid / truth.cell.camera.height


def cell_text(truth: SceneTruth, point: np.ndarray) -> str:
    """The image cell at which a skill must be aimed to act at a point (3,), m, as a thought states it."""
    last = truth.cell.grid - 1
    return '{:02d} {:02d}'.format(*(int(np.clip(value, 0, last)) for value in projected_point(truth, point)))


def _free_cell(truth: SceneTruth) -> str:
    """A cell to put a wrong cube down: the free spot of the table farthest from everything, on a coarse raster."""
    low, high = np.array(truth.cell.workspace.low), np.array(truth.cell.workspace.high)
    # What has room for several cubes reaches far beyond its centre, and what lies in it counts as put there.
    others = [(p, truth.task.room(item) * np.sqrt(2))
              for i, (p, item) in enumerate(zip(truth.state.positions, truth.items)) if i != truth.state.held]
    spots = [np.array([x, y, truth.cell.workspace.plane_z])
             for x in np.linspace(max(low[0], 0.4), min(high[0], 0.62), 3) for y in np.linspace(-0.18, 0.18, 5)]
    best = max(spots, key=lambda spot: min(horizontal_distance(spot, p) - reach for p, reach in others))
    return '{:02d} {:02d}'.format(*truth.cell.point_to_cell(best))
