"""N worlds that are reset and commanded together: the protocol, and its implementation within this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sim_worlds.world import CellWorld
from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.types import EpisodeRequest, Outcome, Trajectory

Answer = tuple[Any, Outcome | None]
"""An observation, of which only its ``task`` text is read outside the commander, and the outcome of the turn."""


class WorldError(RuntimeError):
    """A world died or hung; it has been restarted where that is in the pool's power.

    The episode is lost: the caller drops it and resets the world. What other worlds answered is kept for the next
    ``collect``.

    Attributes:
        index: The world's index.
        reason: What happened, in one sentence.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class WorldPool(Protocol):
    """N worlds in lock step, addressed by index; which they are, only their commander knows.

    Attributes:
        size: Number of worlds.
        transport: ``ros`` or ``in_process``.
    """

    size: int
    transport: str

    def reset(self, requests: dict[int, EpisodeRequest]) -> None:
        """Start episodes; returns at once."""
        ...

    def execute(self, commands: dict[int, Any]) -> None:
        """Start turns with the ``move`` of the worlds' commander; returns at once."""
        ...

    def collect(self, indices: Sequence[int]) -> dict[int, Answer]:
        """Block until these worlds have answered; the outcome is None after a reset.

        Raises:
            UserError: The request cannot be fulfilled (no such task), or what a world publishes is unusable.
            WorldError: A world died or hung.
        """
        ...

    def report(self, index: int, cot: CotReport) -> None:
        """Show the decision that was made for a world."""
        ...

    def close(self) -> None:
        """End all worlds."""
        ...


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
