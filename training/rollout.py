"""The decisions of one update: whole episodes, their advantages, and what is reported of them.

An update starts new episodes until it has its number of decisions and then plays them to their ends, so no episode
ever lies across two updates. That makes a resume exact with nothing but counters to remember, keeps every decision
of an update under one policy, and gives every group its complete set of returns. The price is a few turns at the end
in which some worlds have nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vlm_agent_ros.policy.policy import Policy
from vlm_agent_ros.types import EpisodeRequest

from .commands import REJECTIONS
from .config import TrainConfig
from .episodes import Episode, Player, Slot
from .gae import generalized_advantages, leave_one_out, returns_to_go, standardise
from .ppo import Sample
from .seeds import training_seed
from .thought_guard import corrections, grounding_rate


class TrainingSchedule:
    """An endless stream of training episodes per group of worlds, interrupted after each update.

    Args:
        config: The run.
        opened: Episodes that each group has been given so far; all that a resume needs.
    """

    def __init__(self, config: TrainConfig, opened: list[int] | None = None) -> None:
        self.config = config
        self.opened = list(opened) if opened else [0] * config.groups
        self._taken = [self.opened[world // config.group_size] for world in range(config.worlds)]

    def next(self, world: int, decisions: int) -> Slot | None:
        """The group's next episode; a new one is opened only while the update lacks decisions."""
        group, index = world // self.config.group_size, self._taken[world]
        if index == self.opened[group]:
            if decisions >= self.config.decisions_per_update:
                return None
            self.opened[group] += 1
        self._taken[world] += 1
        seed = training_seed(self.config.seed, group, index)
        return Slot(EpisodeRequest(seed, *self.config.scene), (self.config.seed, world, index), group, index)

    def lost(self, slot: Slot) -> None:
        """Nothing to do: the world goes on with its next episode."""


@dataclass(frozen=True)
class Rollout:
    """What an update learns from, and its figures by the names of metrics.jsonl."""

    samples: list[Sample]
    metrics: dict[str, float]


def collect(player: Player, schedule: TrainingSchedule, config: TrainConfig, temperature: float,
            on_episode: Callable[[Episode], None] = lambda episode: None) -> Rollout:
    """Play one update's episodes.

    Args:
        player: Policy and worlds.
        schedule: Goes on from the previous update.
        config: The run.
        temperature: Sampling temperature.
        on_episode: Called with each finished episode, e.g. to show progress.
    """
    episodes = []
    for episode in player.play(schedule, temperature=temperature):
        episodes.append(episode)
        on_episode(episode)
    samples = _samples(episodes, player.policy, config)
    return Rollout(samples, episode_metrics(episodes))


def rewards_of(episode: Episode, illegal_penalty: float) -> np.ndarray:
    """(turns,) rewards of the world, less the penalty for illegal outputs."""
    penalties = [illegal_penalty * (turn.command.rejection == 'illegal') for turn in episode.turns]
    return np.array([outcome.reward for outcome in episode.outcomes]) - np.array(penalties)


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
    grounded = grounding_rate(turns)
    if grounded is not None:
        metrics['grounded'] = grounded
    metrics['thought_tokens'] = float(np.mean([turn.decision.thought_mask.sum() for turn in turns]))
    metrics['distinct_thoughts'] = len({turn.decision.thought for turn in turns}) / len(turns)
    for name in episodes[0].outcomes[0].kpi:
        metrics[f'kpi/{name}'] = float(np.mean([sum(o.kpi.get(name, 0.0) for o in e.outcomes) for e in episodes]))
    return metrics


def _samples(episodes: list[Episode], policy: Policy, config: TrainConfig) -> list[Sample]:
    """Every decision with its advantage and value target."""
    finals = _final_values(episodes, policy)
    rewards = [rewards_of(episode, config.illegal_penalty) for episode in episodes]
    values = [np.array([turn.decision.value for turn in episode.turns]) for episode in episodes]
    by_value = [generalized_advantages(r, v, final, config.gamma, config.gae_lambda)
                for r, v, final in zip(rewards, values, finals)]
    targets = [advantage + value for advantage, value in zip(by_value, values)]
    flat = np.concatenate(by_value)
    if config.baseline == 'group':
        flat = _group_advantages(episodes, [returns_to_go(r, config.gamma) for r in rewards], flat)
    if config.normalise_advantages:
        flat = standardise(flat)
    turns = [turn for episode in episodes for turn in episode.turns]
    right = corrections(turns, policy) if config.guard_coef else [None] * len(turns)
    return [Sample(turn.input, turn.decision, float(advantage), float(target), correction)
            for turn, advantage, target, correction in zip(turns, flat, np.concatenate(targets), right)]


def _final_values(episodes: list[Episode], policy: Policy) -> list[float]:
    """Value after the last turn: 0 where the episode terminated, the policy's estimate where it was cut off."""
    finals = [0.0] * len(episodes)
    cut = {i: episode.final for i, episode in enumerate(episodes) if episode.truncated and episode.final is not None}
    if cut:
        for i, value in zip(cut, policy.values(list(cut.values()))):
            finals[i] = float(value)
    return finals


def _group_advantages(episodes: list[Episode], returns: list[np.ndarray], fallback: np.ndarray) -> np.ndarray:
    """Each turn's return against those of its group: the same seed and the same prompt (GiGPO's anchor states).

    The first turns of a group share their observation to the bit, later ones task and robot state. Where nothing is
    left to compare with, the value head's advantage stands.

    Args:
        episodes: Of one update.
        returns: (turns,) discounted returns from each turn on, per episode.
        fallback: (all turns,) advantages by the value head, in order.
    """
    groups: dict[tuple[int, int, str], list[int]] = {}
    position = 0
    for episode in episodes:
        for turn in episode.turns:
            groups.setdefault((episode.slot.group, episode.slot.index, turn.input.prompt), []).append(position)
            position += 1
    flat, advantages = np.concatenate(returns), fallback.copy()
    for members in groups.values():
        if len(members) > 1:
            advantages[members] = leave_one_out(flat[members])
    return advantages
