"""PPO over decisions of a vision-language model, with the λ-weighted chain of thought of RL4VLM (arXiv 2405.10292).

One file holds the whole update, from probabilities of tokens to the optimiser step. A *decision* is one output of the
policy: thought tokens, then action tokens. Log-probabilities are float32 sums over the distribution that was sampled
from (same prompt, constraint and temperature), which the policy recomputes exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Decision, Policy, PolicyInput

from .config import PPOConfig
from .seeds import keyed_seed


@dataclass(frozen=True)
class Sample:
    """A decision with what the update needs to know of it.

    Attributes:
        input: Image and prompt that were decided on; stored per decision, since prompts change from turn to turn.
        decision: Output with its token log-probabilities and value at sampling.
        advantage: Estimate of how much better than expected the decision was.
        value_target: What the value head should have said.
        correction: What should have been written instead, for the thought guard; None where nothing has to be said.
    """

    input: PolicyInput
    decision: Decision
    advantage: float
    value_target: float
    correction: Decision | None = None


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
    *, clip: float, max_ratio: float, level: str,
) -> torch.Tensor:
    """The clipped surrogate (Schulman et al. 2017, eq. 7), negated, one number per decision.

    ``decision``: one ratio ``exp(Σ w_t (log π_t - log π_old,t))`` per decision, as in RL4VLM. ``token``: one ratio
    per token, their surrogates summed with the same weights. Both have the same gradient where π equals π_old.

    Args:
        log_probs: (batch, tokens) float32 under the policy in training; carries the gradient.
        old_log_probs: (batch, tokens) float32 at sampling.
        weights: (batch, tokens) from ``token_weights``.
        advantages: (batch,).
        clip: ε of the clip range [1 - ε, 1 + ε].
        max_ratio: Ratios above it use only the clipped surrogate, which then has no gradient.
        level: ``decision`` or ``token``.

    Returns:
        (batch,) float32.
    """
    log_ratio = log_probs - old_log_probs
    if level == 'decision':
        log_ratio, scale, advantage = (weights * log_ratio).sum(1), torch.ones_like(advantages), advantages
    else:
        scale, advantage = weights, advantages[:, None]
    # Beyond e^20 the clipped surrogate decides anyway, and exp() must not overflow to inf * 0.
    ratio = log_ratio.clamp(max=20.0).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip) * advantage
    surrogate = torch.where(ratio > max_ratio, clipped, torch.minimum(ratio * advantage, clipped)) * scale
    return -(surrogate if level == 'decision' else surrogate.sum(1))


def value_loss(values: torch.Tensor, old_values: torch.Tensor, targets: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of the value, the worse of plain and clipped around the old estimate; (batch,) float32.

    Args:
        values: (batch,) under the policy in training.
        old_values: (batch,) at sampling.
        targets: (batch,).
        clip: Clip range; 0 turns clipping off.
    """
    error = (values - targets).square()
    if clip:
        error = torch.maximum(error, (old_values + (values - old_values).clamp(-clip, clip) - targets).square())
    return 0.5 * error


def kl_estimate(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """Unbiased, non-negative estimate of KL(π ‖ other) from samples of π: ``q/p - 1 - log(q/p)`` (k3)."""
    log_ratio = (other_log_probs - log_probs).clamp(-20.0, 20.0)
    return log_ratio.exp() - 1.0 - log_ratio


def token_mean(per_token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(batch,) mean over the tokens of each decision."""
    return (per_token * mask).sum(1) / mask.sum(1).clamp(min=1)


class PPO:
    """The optimiser of a policy.

    Args:
        policy: Trained in place.
        config: Loss and optimisation.
        seed: Seed of the run; the order of decisions is a function of it and of the number of the update.
    """

    def __init__(self, policy: Policy, config: PPOConfig, seed: int) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self._adapter = [p for p in policy.adapter_parameters() if p.requires_grad]
        self._value_head = list(policy.value_parameters())
        self.optimizer = torch.optim.Adam(
            [{'params': self._adapter, 'lr': config.learning_rate},
             {'params': self._value_head, 'lr': config.value_learning_rate}], eps=config.adam_eps)

    def learning_rates(self, progress: float) -> tuple[float, float]:
        """Step sizes of adapter and value head when ``progress`` (0 … 1) of the budget is used."""
        config = self.config
        shape = {'constant': 1.0, 'linear': 1.0 - progress,
                 'cosine': 0.5 * (1.0 + math.cos(math.pi * progress))}[config.lr_schedule]
        factor = config.lr_final_fraction + (1.0 - config.lr_final_fraction) * shape
        return config.learning_rate * factor, config.value_learning_rate * factor

    def update(self, samples: list[Sample], *, number: int, temperature: float, progress: float) -> dict[str, float]:
        """Several epochs of minibatch steps over the decisions of a rollout.

        Args:
            samples: The decisions.
            number: Number of this update in the run, from 0.
            temperature: Temperature that the decisions were sampled at.
            progress: Share of the budget that is used, 0 … 1.

        Returns:
            Means over the update, by the names that metrics.jsonl shows.
        """
        config = self.config
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates(progress)):
            group['lr'] = rate
        telling = [sample for sample in samples if abs(sample.advantage) >= config.min_advantage]
        value_only = number < config.value_warmup_updates or not telling
        learned = samples if value_only else telling
        reference = self._reference(learned, temperature) if config.kl_coef else None
        corrected = [] if value_only else [sample for sample in samples if sample.correction is not None]
        guard = config.guard_coef * (1.0 - progress if config.guard_anneal else 1.0)
        statistics = _Statistics()
        steps, stopped = 0, False
        for epoch in range(config.epochs):
            parts = self._minibatches(len(learned), number, epoch)
            for minibatch, part in zip(parts, np.array_split(self._order(len(corrected), number, epoch), len(parts))):
                kl = self._accumulate(learned, minibatch, temperature, reference, value_only, statistics)
                if config.target_kl and kl > config.target_kl and not value_only:
                    stopped = True
                    break
                self._correct([corrected[i] for i in part], guard, statistics)
                self._step(value_only, statistics)
                steps += 1
            if stopped:
                break
        self.optimizer.zero_grad(set_to_none=True)
        adapter_rate, value_rate = self.learning_rates(progress)
        return {**statistics.means(), 'explained_variance': _explained_variance(samples),
                'learned_share': len(learned) / len(samples), 'optimiser_steps': steps,
                'stopped_early': float(stopped), 'learning_rate': adapter_rate, 'value_learning_rate': value_rate}

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser, for an exact resume."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.optimizer.load_state_dict(state)

    def _order(self, count: int, number: int, epoch: int) -> np.ndarray:
        """(count,) int64: a random order."""
        return np.random.default_rng(keyed_seed('minibatches', self.seed, number, epoch)).permutation(count)

    def _minibatches(self, count: int, number: int, epoch: int) -> list[np.ndarray]:
        """Indices of the decisions of each optimiser step, in a random order."""
        # Equal parts: a small remainder would be a noisy step of full size.
        parts = max(1, round(count / self.config.minibatch_size))
        return np.array_split(self._order(count, number, epoch), parts)

    def _accumulate(self, samples: list[Sample], minibatch: np.ndarray, temperature: float,
                    reference: list[torch.Tensor] | None, value_only: bool, statistics: _Statistics) -> float:
        """Gradients of the mean loss of a minibatch; returns its estimated KL to the policy that sampled."""
        # Decisions of similar length share a forward pass, so that little of it is padding.
        by_length = sorted(minibatch.tolist(), key=lambda i: len(samples[i].decision.token_ids))
        kl = 0.0
        for start in range(0, len(by_length), self.config.micro_batch_size):
            indices = by_length[start:start + self.config.micro_batch_size]
            batch = [samples[i] for i in indices]
            rows = [reference[i] for i in indices] if reference else None
            loss, approx_kl = self._loss(batch, temperature, rows, value_only, statistics)
            (loss * (len(batch) / len(minibatch))).backward()
            kl += approx_kl * len(batch) / len(minibatch)
        return kl

    def _loss(self, batch: list[Sample], temperature: float, reference: list[torch.Tensor] | None, value_only: bool,
              statistics: _Statistics) -> tuple[torch.Tensor, float]:
        config = self.config
        result = self.policy.evaluate([s.input for s in batch], [s.decision for s in batch], temperature)
        device = result.logprobs.device
        old_log_probs = _pad([s.decision.token_logprobs for s in batch], result.logprobs)
        advantages = torch.tensor([s.advantage for s in batch], dtype=torch.float32, device=device)
        old_values = torch.tensor([s.decision.value for s in batch], dtype=torch.float32, device=device)
        targets = torch.tensor([s.value_target for s in batch], dtype=torch.float32, device=device)
        weights = token_weights(result.mask, result.thought_mask, config.thought_weight)

        surrogate = policy_loss(result.logprobs, old_log_probs, weights, advantages,
                                clip=config.clip, max_ratio=config.max_ratio, level=config.ratio_level).mean()
        value = value_loss(result.values, old_values, targets, config.value_clip).mean()
        entropy = token_mean(result.entropy, result.mask).mean()
        loss = config.value_coef * value
        if not value_only:
            loss = loss + surrogate - config.entropy_coef * entropy
        with torch.no_grad():
            log_ratio = (weights * (result.logprobs - old_log_probs)).sum(1)
            approx_kl = kl_estimate(old_log_probs * weights, result.logprobs * weights).sum(1).mean().item()
            difference = ((result.logprobs - old_log_probs) * result.mask).abs().max().item()
            statistics.add(len(batch), policy_loss=surrogate.item(), value_loss=value.item(), entropy=entropy.item(),
                           approx_kl=approx_kl, clip_fraction=(log_ratio.exp() - 1.0).abs().gt(config.clip).float()
                           .mean().item())
            # In the first pass nothing has changed yet: what differs is the error of recomputing a log-probability.
            statistics.first('logprob_error', difference)
        if reference is not None and not value_only:
            kl = token_mean(kl_estimate(result.logprobs, _pad(reference, result.logprobs)), result.mask).mean()
            loss = loss + config.kl_coef * kl
            statistics.add(len(batch), reference_kl=kl.item())
        return loss, approx_kl

    def _correct(self, samples: list[Sample], weight: float, statistics: _Statistics) -> None:
        """Gradients of the thought guard: mean negative log-likelihood, nats, of the true thoughts of a minibatch."""
        size = self.config.micro_batch_size
        for batch in (samples[start:start + size] for start in range(0, len(samples), size)):
            said = [sample.correction for sample in batch if sample.correction is not None]
            result = self.policy.evaluate([sample.input for sample in batch], said, 1.0)
            loss = -(result.logprobs * result.thought_mask).sum()
            (weight * loss / len(samples)).backward()
            statistics.add(len(batch), guard_loss=loss.item() / len(batch))

    def _step(self, value_only: bool, statistics: _Statistics) -> None:
        # Two norms, so that a large value error does not shrink the step of the policy.
        limit = self.config.max_grad_norm or math.inf
        if value_only:
            for parameter in self._adapter:
                parameter.grad = None
        else:
            norm = torch.nn.utils.clip_grad_norm_(self._adapter, limit).item()
            statistics.add(1, gradient_norm=norm)
        torch.nn.utils.clip_grad_norm_(self._value_head, limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _reference(self, samples: list[Sample], temperature: float) -> list[torch.Tensor]:
        """Token log-probabilities of each decision under the policy as it was before RL."""
        rows: list[torch.Tensor] = []
        with self.policy.reference():
            for start in range(0, len(samples), self.config.micro_batch_size):
                batch = samples[start:start + self.config.micro_batch_size]
                result = self.policy.evaluate([s.input for s in batch], [s.decision for s in batch], temperature)
                rows += [row[:len(s.decision.token_ids)].clone() for row, s in zip(result.logprobs, batch)]
        return rows


class _Statistics:
    """Running weighted means."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, weight: float, **values: float) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def first(self, name: str, value: float) -> None:
        if name not in self._sums:
            self.add(1, **{name: value})

    def means(self) -> dict[str, float]:
        return {name: total / self._weights[name] for name, total in self._sums.items()}


def _pad(rows: list[Any], like: torch.Tensor) -> torch.Tensor:
    """Rows of different length as (batch, tokens), zeros where ``like`` has no token."""
    padded = torch.zeros_like(like, requires_grad=False)
    for i, row in enumerate(rows):
        padded[i, :len(row)] = torch.as_tensor(row, dtype=like.dtype, device=like.device)
    return padded


def _explained_variance(samples: list[Sample]) -> float:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 or less says that the value head knows nothing."""
    targets = np.array([s.value_target for s in samples])
    values = np.array([s.decision.value for s in samples])
    variance = float(targets.var())
    return 1.0 - float((targets - values).var()) / variance if variance > 0 else 0.0
