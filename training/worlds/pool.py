"""N worlds that are reset and commanded together: what every kind of them has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.types import EpisodeRequest, Outcome

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
