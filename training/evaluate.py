"""Success of a policy on held-out episodes, with what is needed to see why."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from vlm_agent_ros.types import EpisodeRequest

from .episodes import Episode, Schedule, Slot, Turn
from .rollout import episode_metrics

_RETRIES = 2
_EXAMPLES = 3
_Z95 = 1.959963984540054


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a success probability (Wilson 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - margin), min(1.0, centre + margin)


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of one evaluation.

    Attributes:
        ci95: Wilson interval of ``success``.
        metrics: As ``episode_metrics`` names them: return, turns, illegal, refused, unplannable, kpi/… and so on.
        latency_ms: Mean wall time of a decision, batch included.
        lost: Episodes that their worlds could not finish in three attempts; not part of ``n``.
        examples: A few episodes of either end, failures last; for the report.
    """

    task: str
    world: str
    success: float
    n: int
    ci95: tuple[float, float]
    metrics: dict[str, float]
    latency_ms: float
    wall_s: float
    temperature: float
    lost: int = 0
    split: str = ''
    examples: tuple[Episode, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the examples, as JSON holds it."""
        rest = {key: value for key, value in self.metrics.items() if key not in ('success', 'episodes')}
        return {
            'success': self.success, 'n': self.n, 'ci95': list(self.ci95), 'task': self.task, 'world': self.world,
            'split': self.split, 'temperature': self.temperature, **rest, 'latency_ms': self.latency_ms,
            'lost': self.lost, 'wall_s': round(self.wall_s, 2),
        }


class EvaluationSchedule:
    """Each seed once, on whichever world is free next; an episode that a broken world lost is tried again.

    Args:
        task: Task of every episode.
        world: World file of every episode.
        seeds: Seeds in order.
        split: Split of every episode.
    """

    def __init__(self, task: str, world: str, seeds: Sequence[int], split: str = '') -> None:
        # The key of an episode's random numbers is its seed alone: the result does not depend on who plays it.
        self._waiting = deque(Slot(EpisodeRequest(seed, task, world, split), (seed,)) for seed in seeds)
        self._attempts: dict[int, int] = {}
        self.given_up = 0

    def next(self, world: int, decisions: int) -> Slot | None:
        """The next seed that nobody plays."""
        return self._waiting.popleft() if self._waiting else None

    def lost(self, slot: Slot) -> None:
        """Put the episode back unless it has been tried often enough."""
        seed = slot.request.seed
        self._attempts[seed] = self._attempts.get(seed, 0) + 1
        if self._attempts[seed] <= _RETRIES:
            self._waiting.append(slot)
        else:
            self.given_up += 1


class Plays(Protocol):
    """What plays the episodes of an evaluation: a policy's ``Player``, or the expert's."""

    def play(self, schedule: Schedule, *, temperature: float, greedy: bool = False) -> Iterator[Episode]:
        """Finished episodes."""
        ...


def evaluate(player: Plays, task: str, world: str, seeds: Sequence[int], *, split: str = '', temperature: float = 0.0,
             on_episode: Callable[[Episode], None] = lambda episode: None) -> EvaluationResult:
    """Play one episode per seed; the same seeds and policy give the same result.

    Args:
        player: Policy and worlds.
        task: Name of the task.
        world: Name or path of the world file.
        seeds: Held-out seeds, see ``seeds.evaluation_seeds``.
        split: Combinations and wordings, see ``sim_worlds.splits``; empty for those of training.
        temperature: Sampling temperature; 0 is greedy.
        on_episode: Called with each finished episode.
    """
    started = time.perf_counter()
    schedule = EvaluationSchedule(task, world, seeds, split)
    records: list[Episode] = []
    examples: dict[bool, list[Episode]] = {True: [], False: []}
    latencies: list[float] = []
    for episode in player.play(schedule, temperature=temperature or 1.0, greedy=not temperature):
        on_episode(episode)
        latencies += [turn.latency_s for turn in episode.turns]
        if len(examples[episode.success]) < _EXAMPLES:
            examples[episode.success].append(episode)
        records.append(_without_images(episode))
    successes = sum(episode.success for episode in records)
    return EvaluationResult(
        task=task, world=world, success=successes / len(records) if records else 0.0, n=len(records),
        ci95=wilson_interval(successes, len(records)), metrics=episode_metrics(records),
        latency_ms=1e3 * sum(latencies) / max(len(latencies), 1), wall_s=time.perf_counter() - started,
        temperature=temperature, lost=schedule.given_up, split=split,
        examples=(*examples[True], *examples[False]),
    )


def _without_images(episode: Episode) -> Episode:
    """The same episode with empty images: hundreds of episodes at a large resolution would fill the memory."""
    turns = [Turn(replace(t.input, image=t.input.image[:0]), t.decision, t.command, t.latency_s, t.outcome)
             for t in episode.turns]
    return Episode(episode.world, episode.slot, episode.instruction, turns)
