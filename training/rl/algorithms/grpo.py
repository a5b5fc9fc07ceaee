"""GRPO: no critic; an episode's return against those of the other episodes of its seed (DeepSeekMath, eq. 3).

A group is ``group_size`` whole episodes that start from the same scene. Every decision of an episode gets the same
advantage, the episode's return normalised over its group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Policy

from ...worlds.episodes import Episode
from ..gae import normalise_group
from .base import Algorithm, Batch, Sample, groups_of, rewards_of


class GRPO(Algorithm):
    """Group-relative policy optimisation over episodes."""

    critic = False

    def samples(self, episodes: Sequence[Episode], policy: Policy) -> list[Sample]:
        """See Algorithm."""
        advantages = episode_advantages(episodes, self.config.illegal_penalty)
        return [Sample(turn.input, turn.decision, float(advantage), gain=float(advantage))
                for episode, advantage in zip(episodes, advantages) for turn in episode.turns]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, None]:
        """See Algorithm."""
        return self.surrogate(batch), None


def episode_advantages(episodes: Sequence[Episode], illegal_penalty: float) -> np.ndarray:
    """(episodes,) undiscounted returns, normalised over the episodes of the same seed."""
    returns = np.array([rewards_of(episode, illegal_penalty).sum() for episode in episodes])
    advantages = np.zeros(len(episodes))
    for members in groups_of(episodes):
        advantages[members] = normalise_group(returns[members])
    return advantages
