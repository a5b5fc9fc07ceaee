"""The decisions of one update: whole episodes, their advantages, and what is reported of them.

An update starts new episodes until it has its number of decisions and then plays them to their ends, so no episode
ever lies across two updates. That makes a resume exact with nothing but counters to remember, keeps every decision
of an update under one policy, and gives every group its complete set of returns. The price is a few turns at the end
in which some worlds have nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy
from vlm_agent_ros.types import EpisodeRequest

from ..config import TrainConfig
from ..device_memory import with_memory_advice
from ..seeds import training_seed
from ..worlds.commands import REJECTIONS, CommanderOf
from ..worlds.episodes import Episode, EpisodePlayer, Player, Slot
from ..worlds.pool import WorldPool
from .algorithms import Sample, make_algorithm
from .algorithms.base import groups_of
from .thought_guard import corrections, earned, grounding_metrics, thought_collapse


class TrainingSchedule:
    """An endless stream of training episodes per group of worlds, interrupted after each update.

    Args:
        config: The run.
        opened: Episodes that each group has been given so far; all that a resume needs.
        before: Decisions of the run so far.

    Attributes:
        wanted: Decisions after which no new episode is opened.
    """

    def __init__(self, config: TrainConfig, opened: list[int] | None = None, before: int = 0) -> None:
        self.config, self.before = config, before
        self.wanted = config.decisions_per_update
        self.advance_to(list(opened) if opened else [0] * config.groups)

    def advance_to(self, opened: list[int]) -> None:
        """So many episodes have been given to each group, and taken by all of its worlds."""
        self.opened = opened
        self._taken = [opened[world // self.config.group_size] for world in range(self.config.worlds)]

    def next(self, world: int, decisions: int) -> Slot | None:
        """The group's next episode; a new one is opened only while the update lacks decisions."""
        group, index = world // self.config.group_size, self._taken[world]
        if index == self.opened[group]:
            if decisions >= self.wanted:
                return None
            self.opened[group] += 1
        self._taken[world] += 1
        seed = training_seed(self.config.seed, group, index)
        return Slot(EpisodeRequest(seed, *self.config.scene), (self.config.seed, world, index), group, index)

    def lost(self, slot: Slot) -> None:
        """Nothing to do: the world goes on with its next episode."""


class Players(Protocol):
    """Who plays a run's episodes."""

    @property
    def transport(self) -> str:
        """As of a ``WorldPool``."""
        ...

    def player(self, checkpoint: str) -> EpisodePlayer:
        """Plays with the present weights; ``checkpoint`` is their name on display."""
        ...


@dataclass(frozen=True)
class LocalPlayers:
    """Worlds of this process, or reached from it, in which the policy in training decides itself."""

    config: TrainConfig
    policy: Policy
    pool: WorldPool
    commander_of: CommanderOf

    @property
    def transport(self) -> str:
        """See Players."""
        return self.pool.transport

    def player(self, checkpoint: str) -> Player:
        """See Players."""
        return Player(self.policy, self.pool, self.commander_of, half_batches=self.config.half_batches,
                      unit=self.config.group_size, checkpoint=checkpoint)


@dataclass(frozen=True)
class Rollout:
    """What an update learns from, and its figures by the names of metrics.jsonl.

    Attributes:
        decisions: All that were played, also those in groups that are not learned from.
    """

    samples: list[Sample]
    metrics: dict[str, float]
    decisions: int


def collect(player: EpisodePlayer, schedule: TrainingSchedule, config: TrainConfig, temperature: float,
            on_episode: Callable[[Episode], None] = lambda episode: None) -> Rollout:
    """Play one update's episodes.

    Args:
        player: Policy and worlds.
        schedule: Goes on from the previous update.
        config: The run.
        temperature: Sampling temperature.
        on_episode: Called with each finished episode, e.g. to show progress.
    """
    episodes: list[Episode] = []
    missing = left = config.decisions_per_update
    if config.dynamic_sampling:
        left = round(left * max(config.dynamic_sampling, 1.0))
    kept = episodes
    while missing > 0 and left > 0:
        schedule.wanted = min(missing, left)
        played = []
        for episode in player.play(schedule, temperature=temperature):
            played.append(episode)
            on_episode(episode)
        episodes += played
        left -= _decisions(played)
        if not played or not config.dynamic_sampling:
            break
        kept = telling_groups(episodes)
        missing = config.decisions_per_update - _decisions(kept)
    if not episodes:
        raise UserError('every episode of this update was lost, because its worlds broke down: see what they said in '
                        'logs/ of the run')
    metrics = {**episode_metrics(episodes), **thought_collapse(episodes)}
    if config.dynamic_sampling:
        metrics['kept_share'] = _decisions(kept) / max(_decisions(episodes), 1)
    samples = with_memory_advice(lambda: _samples(kept, player.policy, config), 'reading values',
                                 'lower micro_batch_size')
    return Rollout(samples, metrics, _decisions(episodes))


def telling_groups(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes of groups in which some succeeded and some failed (dynamic sampling of DAPO, Yu et al. 2025)."""
    mixed = [members for members in groups_of(episodes) if len({episodes[i].success for i in members}) == 2]
    return [episodes[i] for i in sorted(i for members in mixed for i in members)]


def episode_metrics(episodes: Iterable[Episode]) -> dict[str, float]:
    """Success, return, turns, rejections, thoughts and KPI terms of episodes; empty without episodes.

    ``success``, ``return``, ``turns`` and ``kpi/*`` are means per episode, the rest are means per decision.
    """
    episodes = list(episodes)
    turns = [turn for episode in episodes for turn in episode.turns]
    if not turns:
        return {}
    metrics = {
        'episodes': len(episodes),
        'decisions': len(turns),
        'success': float(np.mean([episode.success for episode in episodes])),
        'return': float(np.mean([sum(o.reward for o in episode.outcomes) for episode in episodes])),
        'turns': len(turns) / len(episodes),
    }
    for name in REJECTIONS:
        metrics[name] = float(np.mean([turn.command.rejection == name for turn in turns]))
    metrics |= grounding_metrics(turns)
    metrics['thought_tokens'] = float(np.mean([turn.decision.thought_mask.sum() for turn in turns]))
    metrics['distinct_thoughts'] = len({turn.decision.thought for turn in turns}) / len(turns)
    for name in episodes[0].outcomes[0].kpi:
        metrics[f'kpi/{name}'] = float(np.mean([sum(o.kpi.get(name, 0.0) for o in e.outcomes) for e in episodes]))
    return metrics


def _decisions(episodes: Iterable[Episode]) -> int:
    return sum(len(episode.turns) for episode in episodes)


def _samples(episodes: list[Episode], policy: Policy, config: TrainConfig) -> list[Sample]:
    """Every decision with its credit, and with the true thought where it needs one."""
    if not episodes:
        return []
    samples = make_algorithm(config).samples(episodes, policy)
    if not config.guard_coef:
        return samples
    turns = [turn for episode in episodes for turn in episode.turns]
    if config.guard_scope == 'earned':
        taught = earned([turn.decision for turn in turns], [sample.gain for sample in samples], policy)
    else:
        taught = corrections(turns, policy, every=config.guard_scope == 'every')
    return [replace(sample, correction=right) for sample, right in zip(samples, taught)]
