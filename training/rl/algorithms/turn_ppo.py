"""Turn-level PPO: credit goes first to turns, then to the tokens of a turn (bi-level GAE of VAGEN, NeurIPS 2025).

The value head gives a value before every token, with a stop-gradient (VL-DAC). GAE over the values before the turns
says what a whole turn was worth; GAE within the turn, towards that worth, says which of its tokens made it so. Ratios
are per token, so λ only weighs the thoughts' share of the loss. Start with ``value_warmup_updates`` of at least 1, and
with ``kl_coef`` where the policy must stay near the one before RL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Decision, Policy

from ...worlds.episodes import Episode, Turn
from ..gae import gains, standardise, token_advantages
from ..losses import policy_loss, token_mean, value_loss
from .base import Algorithm, Batch, Sample, turn_advantages


@dataclass(frozen=True)
class TokenSample(Sample):
    """A decision with credit per token; ``advantage`` and ``value_target`` are those of the turn.

    Attributes:
        old_values: (tokens,) float32 values before each token at sampling.
        token_advantages: (tokens,) float64.
        token_targets: (tokens,) float64 value targets.
    """

    old_values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    token_advantages: np.ndarray = field(default_factory=lambda: np.zeros(0))
    token_targets: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def reweighted(self, factor: float, decision: Decision) -> TokenSample:
        """See Sample."""
        return replace(self, advantage=factor * self.advantage, token_advantages=factor * self.token_advantages,
                       decision=decision)


class TurnPPO(Algorithm):
    """Advantages across turns, then across tokens."""

    token_values = True
    ratio_level = 'token'

    def samples(self, episodes: Sequence[Episode], policy: Policy) -> list[Sample]:
        """See Algorithm."""
        config = self.config
        by_turn, turn_targets = (np.concatenate(rows) for rows in turn_advantages(episodes, policy, config))
        turns = [turn for episode in episodes for turn in episode.turns]
        values = self._token_values(turns, policy)
        by_token = [token_advantages(v, target, config.token_gamma, config.token_gae_lambda)
                    for v, target in zip(values, turn_targets)]
        targets = [advantage + value for advantage, value in zip(by_token, values)]
        gained = gains(by_turn, config.normalise_advantages)
        if config.normalise_advantages:
            by_turn, flat = standardise(by_turn), standardise(np.concatenate(by_token))
            by_token = np.split(flat, np.cumsum([len(row) for row in by_token])[:-1])
        return [TokenSample(turn.input, turn.decision, float(advantage), float(turn_target), old_values=value,
                            token_advantages=per_token, token_targets=target, gain=float(gain))
                for turn, advantage, turn_target, value, per_token, target, gain in zip(
                    turns, by_turn, turn_targets, values, by_token, targets, gained)]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See Algorithm."""
        config, result = self.config, batch.result
        samples = [sample for sample in batch.samples if isinstance(sample, TokenSample)]
        surrogate = policy_loss(result.logprobs, batch.old_log_probs, batch.weights,
                                batch.rows([s.token_advantages for s in samples]), clip=config.clip,
                                clip_high=config.clip_high, max_ratio=config.max_ratio, level=self.ratio_level)
        value = value_loss(result.values, batch.rows([s.old_values for s in samples]),
                           batch.rows([s.token_targets for s in samples]), config.value_clip)
        return surrogate, token_mean(value, result.mask)

    @torch.no_grad()
    def _token_values(self, turns: Sequence[Turn], policy: Policy) -> list[np.ndarray]:
        """(tokens,) float32 values before each token of each decision, under the policy that sampled."""
        rows: list[np.ndarray] = []
        for start in range(0, len(turns), self.config.micro_batch_size):
            batch = turns[start:start + self.config.micro_batch_size]
            values = policy.evaluate([t.input for t in batch], [t.decision for t in batch], 1.0, token_values=True
                                     ).values.cpu().numpy()
            rows += [row[:len(turn.decision.token_ids)].copy() for row, turn in zip(values, batch)]
        return rows
