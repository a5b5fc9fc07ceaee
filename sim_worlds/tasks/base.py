"""What a task is: an instruction drawn for a scene, a success predicate, and the terms that its reward is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import Item

_PRECISION_SCALE_M = 0.04


@dataclass(frozen=True)
class Goal:
    """An instruction, and the items (indices into the scene) that it speaks of."""

    text: str
    target: int
    destination: int | None = None


@dataclass(frozen=True)
class SceneState:
    """The settled scene after a turn, or before the first.

    Attributes:
        positions: (items, 3) float64 centres, m, base frame.
        held: Index of the item between the fingers, or None.
        table_z: Height of the table top, m.
    """

    positions: np.ndarray
    held: int | None
    table_z: float


class Task(ABC):
    """One kind of episode. Stateless: everything that it judges is in its arguments."""

    name: str
    instructions: tuple[str, ...]

    @abstractmethod
    def draw_goal(self, items: Sequence[Item], rng: np.random.Generator) -> Goal:
        """A goal for a scene, in one of the paraphrases."""

    @abstractmethod
    def success(self, goal: Goal, items: Sequence[Item], state: SceneState) -> bool:
        """Whether the task is fulfilled."""

    @abstractmethod
    def potential(self, goal: Goal, items: Sequence[Item], state: SceneState) -> float:
        """How much of the task is done, 0 … 1; the KPI term ``progress`` is its change over a turn."""

    @abstractmethod
    def miss_distance(self, goal: Goal, before: SceneState, after: SceneState, touch: np.ndarray | None) -> float:
        """Horizontal distance (m) by which the turn missed the point that the task called for; inf without motion.

        Args:
            goal: The episode's goal.
            before: State before the turn.
            after: State after it.
            touch: (2,) tool position at the lowest point of the motion, m, or None if the tool stayed up.
        """

    def failed(self, goal: Goal, state: SceneState) -> bool:
        """Whether the task can no longer be fulfilled: an item that it needs has left the table."""
        return bool(state.positions[goal.target, 2] < state.table_z - 0.02)

    def precision(self, goal: Goal, before: SceneState, after: SceneState, touch: np.ndarray | None) -> float:
        """KPI term: 1 at the right point, 1/e at 4 cm, 0 without motion."""
        return float(np.exp(-self.miss_distance(goal, before, after, touch) / _PRECISION_SCALE_M))


def indices(items: Sequence[Item], kind: str) -> list[int]:
    """Indices of the items of a kind."""
    return [i for i, item in enumerate(items) if item.kind == kind]


def horizontal_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance (m) of two points in the table plane."""
    return float(np.hypot(*(np.asarray(a)[:2] - np.asarray(b)[:2])))
