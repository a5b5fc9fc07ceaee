"""GiGPO: GRPO's advantage of episodes plus one of steps, over states that a group's episodes share (NeurIPS 2025).

Episodes of one seed pass through the same states: the first always, later ones whenever they did the same before. What
was earned from such an *anchor* state on is compared among all decisions made there. ``A = A_episode + ω A_step``
(arXiv 2505.10978, eq. 8); a state that was met once has no step advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Policy

from ...worlds.episodes import Episode
from ..gae import normalise_group, returns_to_go
from .base import Algorithm, Batch, Sample, anchors_of, rewards_of
from .grpo import episode_advantages


class GiGPO(Algorithm):
    """Group-in-group policy optimisation."""

    critic = False

    def samples(self, episodes: Sequence[Episode], policy: Policy) -> list[Sample]:
        """See Algorithm."""
        config = self.config
        by_episode = episode_advantages(episodes, config.illegal_penalty)
        by_step = self._step_advantages(episodes)
        turns = [(turn, advantage) for episode, advantage in zip(episodes, by_episode) for turn in episode.turns]
        total = [advantage + config.step_weight * step for (_, advantage), step in zip(turns, by_step)]
        return [Sample(turn.input, turn.decision, float(advantage), gain=float(advantage))
                for (turn, _), advantage in zip(turns, total)]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, None]:
        """See Algorithm."""
        return self.surrogate(batch), None

    def _step_advantages(self, episodes: Sequence[Episode]) -> np.ndarray:
        """(all turns,) discounted returns from each turn on, normalised over the turns at the same anchor."""
        config = self.config
        returns = np.concatenate([returns_to_go(rewards_of(e, config.illegal_penalty), config.gamma)
                                  for e in episodes])
        advantages = np.zeros(len(returns))
        for members in anchors_of(episodes, config.anchor):
            advantages[members] = normalise_group(returns[members])
        return advantages
