"""Simulated cells within this process."""

from __future__ import annotations

from collections.abc import Sequence

from sim_worlds.world import CellWorld
from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.types import EpisodeRequest, Trajectory

from .pool import Answer


class InProcessWorlds:
    """Worlds in this process, stepped one after the other: fastest, and without ROS.

    Args:
        count: Number of worlds.
        world: Name or path of the world file used where a request names none.
    """

    transport = 'in_process'

    def __init__(self, count: int, world: str = 'panda_table') -> None:
        self.size = count
        self._worlds = [CellWorld(world) for _ in range(count)]
        self._pending: dict[int, EpisodeRequest | Trajectory | None] = {}

    def reset(self, requests: dict[int, EpisodeRequest]) -> None:
        """See WorldPool."""
        self._pending.update(requests)

    def execute(self, commands: dict[int, Trajectory | None]) -> None:
        """See WorldPool."""
        self._pending.update(commands)

    def collect(self, indices: Sequence[int]) -> dict[int, Answer]:
        """See WorldPool; the work is done here."""
        return {index: self._answer(index) for index in indices}

    def _answer(self, index: int) -> Answer:
        pending = self._pending.pop(index)
        if isinstance(pending, EpisodeRequest):
            return self._worlds[index].reset(pending), None
        return self._worlds[index].execute(pending)

    def report(self, index: int, cot: CotReport) -> None:
        """Nobody listens within one process."""

    def close(self) -> None:
        """See WorldPool."""
        for world in self._worlds:
            world.close()
