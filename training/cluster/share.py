"""Which worlds a worker plays, and how its episodes are those that one process would have played.

In one process all worlds decide in turn, half after half, and new episodes are opened while an update lacks decisions.
Until the first world is refused a new episode every running world decides at every visit, so the decisions of all
worlds are known from those of a few: each worker sees by itself where the update ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import TrainConfig
from ..rl.rollout import TrainingSchedule
from ..worlds.episodes import Episode, Slot, first_half


@dataclass(frozen=True)
class Share:
    """Worlds of one worker.

    Attributes:
        worlds: Their numbers in the run, those of the first half first.
        first: How many of them are in the first half.
        groups: Their groups.
    """

    worlds: tuple[int, ...]
    first: int
    groups: tuple[int, ...]


def shares(config: TrainConfig) -> list[Share]:
    """The worlds of each worker, whole groups, as even as can be in both halves."""
    size, middle = config.group_size, _middle(config)
    halves = [np.arange(middle // size), np.arange(middle // size, config.groups)]
    early = np.array_split(halves[0], config.workers)
    late = [np.sort(part) for part in np.array_split(halves[1], config.workers)[::-1]]  # evens out the remainders
    found = []
    for a, b in zip(early, late):
        groups = [*map(int, a), *map(int, b)]
        worlds = tuple(group * size + member for group in groups for member in range(size))
        found.append(Share(worlds, len(a) * size, tuple(groups)))
    return found


class ShareSchedule(TrainingSchedule):
    """The part of a ``TrainingSchedule`` that falls to the worlds of a worker.

    Args:
        config: The run.
        share: The worker's.
        opened: As for ``TrainingSchedule``; those of other workers' groups do not matter.
    """

    def __init__(self, config: TrainConfig, share: Share, opened: list[int]) -> None:
        super().__init__(config, opened)
        self._share, self._middle = share, _middle(config)

    def next(self, world: int, decisions: int) -> Slot | None:
        """The next episode of the worker's ``world``, after so many decisions of the worker."""
        share = self._share
        everyone = decisions // len(share.worlds) * self.config.worlds
        if decisions and world >= share.first:
            everyone += self._middle
        slot = super().next(share.worlds[world], everyone)
        if slot is None:
            self.wanted = 0  # from here on the worker's decisions say no more of the others'
        return slot


class ListSchedule:
    """Given episodes, each on whichever world is free next.

    Args:
        slots: The episodes.

    Attributes:
        broken: Those whose world broke down.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._waiting = list(slots)[::-1]
        self.broken: list[Slot] = []

    def next(self, world: int, decisions: int) -> Slot | None:
        """See Schedule."""
        return self._waiting.pop() if self._waiting else None

    def lost(self, slot: Slot) -> None:
        """See Schedule."""
        self.broken.append(slot)


def in_order(config: TrainConfig, episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes of all workers in the order in which one process would have finished them.

    Args:
        config: The run.
        episodes: Of one rollout, those of each world in order.
    """
    middle = _middle(config)
    turns: dict[int, int] = {}
    keys = []
    for number, episode in enumerate(episodes):
        turns[episode.world] = turns.get(episode.world, 0) + len(episode.turns)
        keys.append((turns[episode.world], episode.world >= middle, episode.world, number))
    return [episodes[key[-1]] for key in sorted(keys)]


def _middle(config: TrainConfig) -> int:
    """Worlds in the first half of a run in one process."""
    return first_half(config.worlds, config.group_size) if config.half_batches else config.worlds
