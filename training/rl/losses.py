"""The terms of a loss, each a pure function of log-probabilities or values; one number per decision."""

from __future__ import annotations

import math

import torch


def token_weights(mask: torch.Tensor, thought_mask: torch.Tensor, thought_weight: float) -> torch.Tensor:
    """Weight of each token's log-probability (RL4VLM, eq. 4): λ for thoughts, 1 for the rest, 0 for padding.

    Args:
        mask: (batch, tokens) bool, True where there is a token.
        thought_mask: (batch, tokens) bool, True where it belongs to the thought.
        thought_weight: λ.

    Returns:
        (batch, tokens) float32.
    """
    return torch.where(thought_mask, thought_weight, 1.0) * mask


def policy_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, weights: torch.Tensor, advantages: torch.Tensor,
    *, clip: float, max_ratio: float, level: str, clip_high: float = 0.0,
) -> torch.Tensor:
    """The clipped surrogate (Schulman et al. 2017, eq. 7), negated, one number per decision.

    ``decision``: one ratio ``exp(Σ w_t (log π_t - log π_old,t))`` per decision, as in RL4VLM. ``token``: one ratio
    per token, their surrogates summed with the same weights. Both have the same gradient where π equals π_old.

    Args:
        log_probs: (batch, tokens) float32 under the policy in training; carries the gradient.
        old_log_probs: (batch, tokens) float32 at sampling.
        weights: (batch, tokens) from ``token_weights``.
        advantages: (batch,), or (batch, tokens) at the level ``token``.
        clip: ε of the clip range [1 - ε, 1 + ε].
        max_ratio: Ratios above it use only the clipped surrogate, which then has no gradient.
        level: ``decision`` or ``token``.
        clip_high: Upper ε where it differs from the lower one (DAPO, Yu et al. 2025, eq. 10); 0 = the same.

    Returns:
        (batch,) float32.
    """
    log_ratio = log_probs - old_log_probs
    if level == 'decision':
        log_ratio, scale, advantage = (weights * log_ratio).sum(1), torch.ones_like(advantages), advantages
    else:
        scale, advantage = weights, advantages if advantages.dim() == 2 else advantages[:, None]
    # Beyond e^20 the clipped surrogate decides anyway, and exp() must not overflow to inf * 0.
    ratio = log_ratio.clamp(max=20.0).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + (clip_high or clip)) * advantage
    surrogate = torch.where(ratio > max_ratio, clipped, torch.minimum(ratio * advantage, clipped)) * scale
    return -(surrogate if level == 'decision' else surrogate.sum(1))


def clipped_share(log_probs: torch.Tensor, old_log_probs: torch.Tensor, weights: torch.Tensor, *, clip: float,
                  level: str, clip_high: float = 0.0) -> torch.Tensor:
    """Share of the ratios of ``policy_loss`` that are out of the clip range; its arguments.

    Returns:
        (batch,) float32: at the level ``decision`` 0 or 1, at the level ``token`` of the tokens that have a weight.
    """
    log_ratio, mask = log_probs - old_log_probs, weights > 0.0
    if level == 'decision':
        log_ratio, mask = (weights * log_ratio).sum(1, keepdim=True), torch.ones_like(mask[:, :1])
    change = log_ratio.exp() - 1.0
    return token_mean(((change < -clip) | (change > (clip_high or clip))).float(), mask)


def value_loss(values: torch.Tensor, old_values: torch.Tensor, targets: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of the value, the worse of plain and clipped around the old estimate.

    Args:
        values: Under the policy in training, of any shape.
        old_values: At sampling, of the same shape.
        targets: Of the same shape.
        clip: Clip range; 0 turns clipping off.

    Returns:
        float32 of the same shape.
    """
    error = (values - targets).square()
    if clip:
        error = torch.maximum(error, (old_values + (values - old_values).clamp(-clip, clip) - targets).square())
    return 0.5 * error


def kl_estimate(log_probs: torch.Tensor, other_log_probs: torch.Tensor, sampled_log_probs: torch.Tensor | None = None,
                max_ratio: float = math.inf) -> torch.Tensor:
    """Unbiased, non-negative estimate of KL(π ‖ other): ``q/p - 1 - log(q/p)`` (k3).

    Args:
        log_probs: Of samples, under π; of any shape.
        other_log_probs: Under the other policy, of the same shape.
        sampled_log_probs: Under the policy that they are samples of, where that is not π: each weighs as much more as π
            makes it likelier.
        max_ratio: Limits that weight, and with it the variance.
    """
    log_ratio = (other_log_probs - log_probs).clamp(-20.0, 20.0)
    estimate = log_ratio.exp() - 1.0 - log_ratio
    if sampled_log_probs is None:
        return estimate
    return (log_probs - sampled_log_probs).detach().exp().clamp(max=max_ratio) * estimate


def token_mean(per_token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(batch,) mean over the tokens of each decision."""
    return (per_token * mask).sum(1) / mask.sum(1).clamp(min=1)
