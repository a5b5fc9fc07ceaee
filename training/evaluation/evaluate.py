"""Success of a policy on held-out episodes, with what is needed to see why."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from typing import Any, Protocol

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.types import EpisodeRequest

from ..rl.rollout import episode_metrics
from ..seeds import evaluation_seeds
from ..worlds.episodes import Episode, Schedule, Slot, Turn
from .statistics import wilson_interval

_RETRIES = 2
_EXAMPLES = 3


# What is kept of a single episode, by the names of ``episode_metrics``; enough to pair two evaluations.
EPISODE_FIGURES = ('return', 'turns', 'illegal', 'grounded')


@dataclass(frozen=True)
class Suite:
    """What is evaluated: every suite has its own success and its own interval.

    Attributes:
        split: Combinations and wordings that are drawn, see ``sim_worlds.splits``; empty for those of training.
    """

    task: str
    world: str
    split: str = ''

    def __str__(self) -> str:
        return f'{self.task} in {self.world}' + (f', {self.split}' if self.split else '')


def make_plan(tasks: Sequence[str], worlds: Sequence[str], splits: Sequence[str], episodes: int
              ) -> dict[Suite, list[int]]:
    """Each split of each task in each world, on as many held-out seeds."""
    seeds = evaluation_seeds(episodes)
    return {Suite(*parts): seeds for parts in itertools.product(tasks, worlds, splits)}


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of one evaluation.

    Attributes:
        ci95: Wilson interval of ``success``.
        metrics: As ``episode_metrics`` names them: return, turns, illegal, refused, unplannable, kpi/… and so on.
        latency_ms: Mean wall time of a decision, batch included.
        episodes: JSON of each episode by rising seed: ``seed``, ``instruction``, ``success``, and those of
            ``EPISODE_FIGURES`` that there are.
        lost: Seeds of episodes that their worlds could not finish in three attempts; not part of ``n``.
        examples: A few episodes of either end, failures last; for the report.
    """

    suite: Suite
    success: float
    n: int
    ci95: tuple[float, float]
    metrics: dict[str, float]
    latency_ms: float
    wall_s: float
    temperature: float
    episodes: tuple[dict[str, Any], ...] = ()
    lost: tuple[int, ...] = ()
    examples: tuple[Episode, ...] = field(default=(), compare=False)

    def words(self) -> str:
        """Success with its interval, for a line on the terminal."""
        return 'success {:.1%} ({:.1%} to {:.1%}, n = {})'.format(self.success, *self.ci95, self.n)

    def to_json(self) -> dict[str, Any]:
        """The figures of all episodes together, as JSON holds them."""
        rest = {key: value for key, value in self.metrics.items() if key not in ('success', 'episodes')}
        return {
            'success': self.success, 'n': self.n, 'ci95': list(self.ci95), **asdict(self.suite),
            'temperature': self.temperature, **rest, 'latency_ms': self.latency_ms, 'lost': len(self.lost),
            'wall_s': round(self.wall_s, 2),
        }

    def to_paired_json(self) -> dict[str, Any]:
        """The same and every single episode, so that the result can be paired with another one."""
        return {**self.to_json(), 'lost_seeds': list(self.lost), 'episodes': list(self.episodes)}


class EvaluationSchedule:
    """Each seed once, on whichever world is free next; an episode that a broken world lost is tried again.

    Args:
        suite: Of every episode.
        seeds: Seeds in order.

    Attributes:
        given_up: Seeds of the episodes that broke down too often.
    """

    def __init__(self, suite: Suite, seeds: Sequence[int]) -> None:
        # The key of an episode's random numbers is its seed alone: the result does not depend on who plays it.
        self._waiting = deque(Slot(EpisodeRequest(seed, suite.task, suite.world, suite.split), (seed,))
                              for seed in seeds)
        self._attempts: dict[int, int] = {}
        self.given_up: list[int] = []

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
            self.given_up.append(seed)


class Plays(Protocol):
    """What plays the episodes of an evaluation: a policy's ``Player``, or the expert's."""

    def play(self, schedule: Schedule, *, temperature: float, greedy: bool = False) -> Iterator[Episode]:
        """Finished episodes."""
        ...


def evaluate(player: Plays, suite: Suite, seeds: Sequence[int], *, temperature: float = 0.0,
             on_episode: Callable[[Episode], None] = lambda episode: None) -> EvaluationResult:
    """Play one episode per seed; the same seeds and policy give the same result.

    Args:
        player: A policy, or the expert, with its worlds.
        suite: Of the episodes.
        seeds: Held-out seeds, see ``seeds.evaluation_seeds``.
        temperature: Sampling temperature; 0 is greedy.
        on_episode: Called with each finished episode.

    Raises:
        UserError: Broken worlds lost every episode, of which no figure can be given.
    """
    started = time.perf_counter()
    schedule = EvaluationSchedule(suite, seeds)
    records: list[Episode] = []
    examples: dict[bool, list[Episode]] = {True: [], False: []}
    latencies: list[float] = []
    for episode in player.play(schedule, temperature=temperature or 1.0, greedy=not temperature):
        on_episode(episode)
        latencies += [turn.latency_s for turn in episode.turns]
        if len(examples[episode.success]) < _EXAMPLES:
            examples[episode.success].append(episode)
        records.append(_without_images(episode))
    if not records:
        raise UserError(f'every episode of {suite} was lost, because its worlds broke down: see what they said in '
                        'their logs, and evaluate again')
    successes = sum(episode.success for episode in records)
    return EvaluationResult(
        suite=suite, success=successes / len(records), n=len(records),
        ci95=wilson_interval(successes, len(records)), metrics=episode_metrics(records),
        latency_ms=1e3 * sum(latencies) / max(len(latencies), 1), wall_s=time.perf_counter() - started,
        temperature=temperature, episodes=tuple(sorted(map(_figures, records), key=itemgetter('seed'))),
        lost=tuple(sorted(schedule.given_up)), examples=(*examples[True], *examples[False]),
    )


def _figures(episode: Episode) -> dict[str, Any]:
    metrics = episode_metrics([episode])
    return {'seed': episode.slot.request.seed, 'instruction': episode.instruction, 'success': episode.success,
            **{name: metrics[name] for name in EPISODE_FIGURES if name in metrics}}


def _without_images(episode: Episode) -> Episode:
    """The same episode with empty images: hundreds of episodes at a large resolution would fill the memory."""
    turns = [Turn(replace(t.input, image=t.input.image[:0]), t.decision, t.command, t.latency_s, t.outcome)
             for t in episode.turns]
    return Episode(episode.world, episode.slot, episode.instruction, turns)
