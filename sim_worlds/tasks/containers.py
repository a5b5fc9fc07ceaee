"""What tasks with large pads and trays share: several cubes fit, and any free spot is as good as another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..scene import FLAT, Item
from .base import Assignment, SceneState, Task, lies_on

_RIM_M = 0.007  # along the edge of a container, where no cube shall lie
# Between the centres of two cubes, along x or along y. The spots lie farther apart: a cube that was released some
# millimetres off its own does not take the next one.
_ROOM_M = (0.056, 0.074)


class ContainerTask(Task):
    """Every assigned cube shall rest, released, on its pad or tray, its centre within the edges."""

    def fulfilled(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> bool:
        """The cube rests on its destination."""
        return assignment.destination is not None and lies_on(assignment.target, assignment.destination, items, state)

    def spot(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> np.ndarray:
        """The first spot of a raster over the container, farthest from the camera first, that leaves the gripper
        room; the one with the most room if none does."""
        assert assignment.destination is not None, 'only an item with a destination is released'
        centre = state.positions[assignment.destination]
        half = _inner_half(items[assignment.target], items[assignment.destination])
        counts = [max(2, int(2 * half / room) + 1) for room in _ROOM_M]
        offsets = itertools.product(*(np.linspace(-half, half, count) for count in counts))
        spots = [centre + np.array([dx, dy, 0.0]) for dx, dy in offsets]
        others = [p for i, p in enumerate(state.positions) if items[i].kind == 'cube' and i != assignment.target]
        room = [min((np.max(np.abs(spot - p)[:2] / _ROOM_M) for p in others), default=np.inf) for spot in spots]
        return next((spot for spot, free in zip(spots, room) if free >= 1.0), spots[int(np.argmax(room))])

    def room(self, destination: Item) -> float:
        """In a pad or tray, all of it but the rim."""
        return destination.size / 2 - _RIM_M if destination.kind in FLAT else 0.0

    def release_miss(self, assignment: Assignment, items: Sequence[Item], state: SceneState, touch: np.ndarray
                     ) -> float:
        """From the square in which a cube lies wholly on its destination."""
        assert assignment.destination is not None, 'only an item with a destination is released'
        offset = np.abs(touch - state.positions[assignment.destination, :2])
        return float(np.hypot(*np.maximum(offset - _inner_half(items[assignment.target],
                                                               items[assignment.destination]), 0.0)))


def _inner_half(cube: Item, container: Item) -> float:
    """Half the edge (m) of the square in which the centre of a cube may be for the cube to lie wholly inside."""
    return (container.size - cube.size) / 2 - _RIM_M
