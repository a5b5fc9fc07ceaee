"""Learning from decisions of an earlier policy: the decoupled surrogate of PPO with truncated importance weights.

A decision that was sampled by μ, some updates before the policy that is now to be improved, is learned from with
``min(c, π_prox / μ) · min(r A, clip(r) A)``, ``r = π / π_prox``, where π_prox is the policy at the start of the update
(Hilton et al. 2021, arXiv 2110.00641, eq. 3; for language models AReaL, arXiv 2505.24298, eq. 5). The clip range thus
bounds the step from the present policy, whoever sampled; the weight makes up for who did, and its truncation at c
bounds the variance (IMPALA, arXiv 1802.01561).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig
from .algorithms import Sample
from .algorithms.base import pad
from .losses import token_weights


def importance_weights(proximal: torch.Tensor, behaviour: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """π_prox / μ of whole decisions, each token by its share, as in the ratio of RL4VLM (eq. 4); not truncated.

    Args:
        proximal: (batch, tokens) float32 log-probabilities under the policy at the start of the update.
        behaviour: (batch, tokens) float32 at sampling.
        weights: (batch, tokens) from ``losses.token_weights``.

    Returns:
        (batch,) float32.
    """
    return (weights * (proximal - behaviour)).sum(1).clamp(-20.0, 20.0).exp()


@torch.no_grad()
def corrected(samples: Sequence[Sample], policy: Policy, config: TrainConfig, temperature: float
              ) -> tuple[list[Sample], dict[str, float]]:
    """Samples for an update that starts from ``policy``, whichever policies and temperatures they were sampled at.

    Their log-probabilities become those of ``policy``, and their credit is multiplied by the importance weight: the
    surrogate is linear in it.

    Args:
        samples: As the algorithm made them.
        policy: About to be updated.
        config: ``max_importance`` is c.
        temperature: Of the update.

    Returns:
        The samples, and the mean weight and the truncated share, by the names of metrics.jsonl.
    """
    found: list[Sample] = []
    weights: list[float] = []
    for start in range(0, len(samples), config.micro_batch_size):
        batch = samples[start:start + config.micro_batch_size]
        result = policy.evaluate([s.input for s in batch], [s.decision for s in batch], temperature)
        behaviour = pad([s.decision.token_logprobs for s in batch], result.logprobs)
        shares = token_weights(result.mask, result.thought_mask, config.thought_weight)
        proximal = result.logprobs.float().cpu().numpy()
        found_weights = importance_weights(result.logprobs, behaviour, shares).tolist()
        for sample, row, weight in zip(batch, proximal, found_weights):
            now = replace(sample.decision, token_logprobs=row[:len(sample.decision.token_ids)].copy())
            found.append(sample.reweighted(min(weight, config.max_importance), now))
            weights.append(weight)
    if not weights:
        return found, {}
    return found, {'importance': float(np.mean(weights)),
                   'truncated': float(np.mean([weight > config.max_importance for weight in weights]))}
