"""What a task is: an instruction drawn for a scene, what has to go where, and the terms that its reward is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlm_agent_ros.errors import UserError

from ..config import WorldConfig
from ..scene import Item, draw_items

_PRECISION_SCALE_M = 0.04
_FALLEN_M = 0.02


@dataclass(frozen=True)
class Assignment:
    """An item that has to move, and the item that it has to end on; indices into the scene.

    Attributes:
        target: What is to be grasped.
        destination: Where it is to be released; None where holding it is the aim.
    """

    target: int
    destination: int | None = None


@dataclass(frozen=True)
class Goal:
    """An instruction, and what it asks for in this scene; the order of the assignments means nothing."""

    text: str
    assignments: tuple[Assignment, ...]


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

    def fallen(self, index: int) -> bool:
        """Whether an item has left the table."""
        return bool(self.positions[index, 2] < self.table_z - _FALLEN_M)


class Task(ABC):
    """One kind of episode. Stateless: everything that it judges is in its arguments.

    Attributes:
        instructions: Paraphrases, with places for what ``draw_goal`` fills in.
        held_out_instructions: Paraphrases that only the split ``unseen-wording`` draws.
        default_split: Split of a request that names none.
        release: Skill that releases an item at its destination.
        term_names: KPI terms that only this task has.
        ends_at_rest: The episode ends with the first turn in which no motion is wanted, or at the turn limit, and is
            judged then; otherwise it ends as soon as the goal is reached.
    """

    name: str
    instructions: tuple[str, ...]
    held_out_instructions: tuple[str, ...] = ()
    default_split = 'seen'
    release = 'place'
    term_names: tuple[str, ...] = ()
    ends_at_rest = False

    def draw_items(self, config: WorldConfig, rng: np.random.Generator) -> list[Item]:
        """What lies on the table: as the world file says, unless the task needs other things."""
        return draw_items(config, rng)

    @abstractmethod
    def draw_goal(self, items: Sequence[Item], wordings: tuple[str, ...], rng: np.random.Generator) -> Goal:
        """A goal for a scene, in one of the given paraphrases."""

    def combinations(self, goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
        """The pairs of names that an episode brings together, such as two colours; splits hold some of them out."""
        return set()

    @abstractmethod
    def fulfilled(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> bool:
        """Whether an item is where it has to be."""

    def success(self, goal: Goal, items: Sequence[Item], state: SceneState) -> bool:
        """Whether the goal is reached."""
        return not self.pending(goal, items, state)

    def pending(self, goal: Goal, items: Sequence[Item], state: SceneState) -> list[Assignment]:
        """What is not fulfilled (any more); moving any of these is right."""
        return [a for a in goal.assignments if not self.fulfilled(a, items, state)]

    def potential(self, goal: Goal, items: Sequence[Item], state: SceneState) -> float:
        """How much of the task is done, 0 … 1; the KPI term ``progress`` is its change over a turn."""
        if not goal.assignments:
            return 1.0
        return sum(self.credit(a, items, state) for a in goal.assignments) / len(goal.assignments)

    def credit(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> float:
        """Share of an assignment that is done: a half while its target is held."""
        if self.fulfilled(assignment, items, state):
            return 1.0
        return 0.5 if state.held == assignment.target else 0.0

    def spot(self, assignment: Assignment, items: Sequence[Item], state: SceneState) -> np.ndarray:
        """(3,) point at which the target is best released, m: the centre of the destination."""
        assert assignment.destination is not None, 'only an item with a destination is released'
        return state.positions[assignment.destination]

    def room(self, destination: Item) -> float:
        """Half the edge (m) of the square about an item's centre in which any release is right; 0 for the centre."""
        return 0.0

    def release_miss(self, assignment: Assignment, items: Sequence[Item], state: SceneState, touch: np.ndarray
                     ) -> float:
        """Horizontal distance (m) of a release at ``touch`` (2,) from where it would be right."""
        return horizontal_distance(touch, self.spot(assignment, items, state))

    def miss_distance(self, goal: Goal, items: Sequence[Item], before: SceneState, touch: np.ndarray | None) -> float:
        """Horizontal distance (m) by which a turn missed the nearest point that the task called for.

        That is any item that still has to move, or the destination of the one that is held. Where nothing is left
        to do (nor in the gripper), 0 without motion and inf with one; else inf without motion.

        Args:
            goal: The episode's goal.
            items: The scene's items.
            before: State before the turn.
            touch: (2,) tool position at the lowest point of the motion, m, inf if the tool stayed up; None without a
                motion.
        """
        pending = self.pending(goal, items, before)
        if touch is None or not pending:
            return 0.0 if touch is None and not pending and before.held is None else np.inf
        for assignment in pending:
            if assignment.target == before.held and assignment.destination is not None:
                return self.release_miss(assignment, items, before, touch)
        return min(horizontal_distance(touch, before.positions[a.target]) for a in pending)

    def precision(self, goal: Goal, items: Sequence[Item], before: SceneState, touch: np.ndarray | None) -> float:
        """1 at the right point, 1/e at 4 cm, 0 without a motion that was called for; the KPI term is its change."""
        return float(np.exp(-self.miss_distance(goal, items, before, touch) / _PRECISION_SCALE_M))

    def wrong_object(self, goal: Goal, items: Sequence[Item], before: SceneState, after: SceneState) -> bool:
        """KPI term: something is held that did not have to move."""
        return after.held is not None and all(a.target != after.held for a in self.pending(goal, items, before))

    def failed(self, goal: Goal, state: SceneState) -> bool:
        """Whether the goal can no longer be reached: an item that it needs has left the table."""
        needed = [i for a in goal.assignments for i in (a.target, a.destination) if i is not None]
        return any(state.fallen(i) for i in needed)

    def terms(self, goal: Goal, items: Sequence[Item], before: SceneState, after: SceneState, over: bool
              ) -> dict[str, float]:
        """The KPI terms ``term_names`` of a turn.

        Args:
            goal: The episode's goal.
            items: The scene's items.
            before: State before the turn.
            after: State after it.
            over: Whether the episode ends with this turn.
        """
        return {}


def indices(items: Sequence[Item], kind: str) -> list[int]:
    """Indices of the items of a kind."""
    return [i for i, item in enumerate(items) if item.kind == kind]


def draw_colours(config: WorldConfig, count: int, rng: np.random.Generator) -> list[str]:
    """Different colours of the palette.

    Raises:
        UserError: It has fewer.
    """
    palette = list(config.objects.palette)
    if len(palette) < count:
        raise UserError(f'{config.path or config.name}: objects.palette has too few colours for this task '
                        f'({len(palette)}): it needs {count}')
    return [str(colour) for colour in rng.choice(palette, count, replace=False)]


def colour_pair(first: Item, second: Item) -> tuple[str, str]:
    """The colours of two items whose order means nothing."""
    a, b = sorted((first.colour, second.colour))
    return a, b


def assigned_colours(goal: Goal, items: Sequence[Item]) -> set[tuple[str, str]]:
    """The colours of each target and its destination."""
    return {(items[a.target].colour, items[a.destination].colour) for a in goal.assignments
            if a.destination is not None}


def horizontal_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance (m) of two points in the table plane."""
    return float(np.hypot(*(np.asarray(a)[:2] - np.asarray(b)[:2])))


def is_above(target: int, support: int, items: Sequence[Item], state: SceneState) -> bool:
    """Whether an item is released with its centre within the edges of a flat one, on it or on what lies there."""
    below = items[support]
    offset = state.positions[target] - state.positions[support]
    cosine, sine = np.cos(below.yaw), np.sin(below.yaw)
    along = np.array([cosine * offset[0] + sine * offset[1], -sine * offset[0] + cosine * offset[1]])
    return state.held != target and bool(np.all(np.abs(along) <= below.size / 2))


def lies_on(target: int, support: int, items: Sequence[Item], state: SceneState) -> bool:
    """Whether an item rests, released, on a flat item, its centre within the edges."""
    resting = bool(state.positions[target, 2] < state.table_z + items[target].size)
    return resting and is_above(target, support, items, state)
