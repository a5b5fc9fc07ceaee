"""PPO over decisions of a vision-language model, with the λ-weighted chain of thought of RL4VLM (arXiv 2405.10292).

A *decision* is one output of the policy: thought tokens, then action tokens. It has one value and one advantage, by GAE
over the turns of its episode or (``baseline: group``) from the other episodes of the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Policy

from ...worlds.episodes import Episode
from ..gae import gains, leave_one_out, returns_to_go, standardise
from ..losses import value_loss
from .base import Algorithm, Batch, Sample, anchors_of, rewards_of, turn_advantages


class PPO(Algorithm):
    """The paper's algorithm."""

    def samples(self, episodes: Sequence[Episode], policy: Policy) -> list[Sample]:
        """See Algorithm."""
        config = self.config
        by_value, targets = turn_advantages(episodes, policy, config)
        flat = np.concatenate(by_value)
        if config.baseline == 'group':
            returns = [returns_to_go(rewards_of(e, config.illegal_penalty), config.gamma) for e in episodes]
            flat = _group_advantages(episodes, config.anchor, returns, flat)
        gained = gains(flat, config.normalise_advantages)
        if config.normalise_advantages:
            flat = standardise(flat)
        turns = [turn for episode in episodes for turn in episode.turns]
        return [Sample(turn.input, turn.decision, float(advantage), float(target), gain=float(gain))
                for turn, advantage, target, gain in zip(turns, flat, np.concatenate(targets), gained)]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See Algorithm."""
        value = value_loss(batch.result.values, batch.numbers([s.decision.value for s in batch.samples]),
                           batch.numbers([s.value_target for s in batch.samples]), self.config.value_clip)
        return self.surrogate(batch), value


def _group_advantages(episodes: Sequence[Episode], anchor: str, returns: list[np.ndarray], fallback: np.ndarray
                      ) -> np.ndarray:
    """Each turn's return against those of its group in the same state.

    Where nothing is left to compare with, the value head's advantage stands.

    Args:
        episodes: Of one update.
        anchor: As for ``anchors_of``.
        returns: (turns,) discounted returns from each turn on, per episode.
        fallback: (all turns,) advantages by the value head, in order.
    """
    flat, advantages = np.concatenate(returns), fallback.copy()
    for members in anchors_of(episodes, anchor):
        if len(members) > 1:
            advantages[members] = leave_one_out(flat[members])
    return advantages
