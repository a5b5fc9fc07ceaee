"""The optimiser of a policy, shared by all algorithms: minibatches, gradients, the thought guard and statistics.

What is learned from a decision, and by which loss, says the algorithm (``algorithms/``). Log-probabilities are float32
sums over the distribution that was sampled from (same prompt, constraint and temperature), which the policy recomputes
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Evaluation, Policy

from ..config import TrainConfig
from ..device_memory import with_memory_advice
from ..seeds import keyed_seed
from .algorithms import Batch, Sample, make_algorithm
from .algorithms.base import Algorithm, pad
from .correction_memory import CorrectionMemory, packed_corrections, unpacked_corrections
from .learner_group import LearnerGroup, packed, unpacked
from .losses import clipped_share, kl_estimate, token_mean, token_weights


class Learner:
    """Trains a policy by the algorithm of a configuration.

    Args:
        policy: Trained in place.
        config: Algorithm, loss and optimisation.
        seed: Seed of the run; the order of decisions is a function of it and of the number of the update.
        algorithm: Takes the place of the configuration's.
        group: Other processes that learn with this one, each in its ``follow``; the first one's ``update`` leads them.

    Attributes:
        memory: Corrections of earlier updates, if they are to be learned from again.
    """

    def __init__(self, policy: Policy, config: TrainConfig, seed: int, algorithm: Algorithm | None = None,
                 group: LearnerGroup | None = None) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self.algorithm = algorithm or make_algorithm(config)
        self.group = group
        self.memory = CorrectionMemory(config.guard_memory if config.guard_coef and config.guard_replay else 0)
        self._led: int | None = None  # number of the last update after which the others had the same weights
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
            samples: The decisions, as the algorithm made them.
            number: Number of this update in the run, from 0.
            temperature: Temperature that the decisions were sampled at.
            progress: Share of the budget that is used, 0 … 1.

        Returns:
            Means over the update, by the names that metrics.jsonl shows.

        Raises:
            UserError: The memory of the device does not suffice; the weights are then those of any step of the update.
        """
        size = self.config.micro_batch_size
        if self.group is not None and self.group.rank == 0:
            self.group.tell((self._led_state(number), samples, number, temperature, progress))

        def work() -> dict[str, float]:
            with self.policy.cached_vision(self.config.vision_cache_mib * 2**20):
                figures = self._update(samples, number, temperature, progress)
            told = [figures.get(name, 0.0) for name in ('gradient_norm', 'policy_loss', 'value_loss')]
            if not all(map(math.isfinite, told)):
                raise UserError('a gradient or a loss of this update is no finite number, and the policy is spoilt: '
                                'lower learning_rate, or scale rewards that are very large')
            return figures

        return with_memory_advice(
            work,
            f'in an update with {size} decisions per forward pass', 'set micro_batch_size lower (results change by '
            'rounding only), or dtype to bfloat16 in the models file')

    def _update(self, samples: list[Sample], number: int, temperature: float, progress: float) -> dict[str, float]:
        config = self.config
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates(progress)):
            group['lr'], group['eps'] = rate, config.adam_eps
        telling = [sample for sample in samples if abs(sample.advantage) >= config.min_advantage]
        warming_up = self.algorithm.critic and number < config.value_warmup_updates
        value_only = warming_up or (self.algorithm.critic and not telling)
        learned = samples if value_only else telling
        reference = self._reference(learned, temperature) if config.kl_coef else None
        # What is corrected of a decision that is learned from is read together with it.
        only_corrected = [] if value_only else [sample for sample in samples if sample.correction is not None
                                                and abs(sample.advantage) < config.min_advantage]
        guard = 0.0 if warming_up else config.guard_coef * (1.0 - progress if config.guard_anneal else 1.0)
        statistics = _Statistics()
        steps, stopped = 0, False
        for epoch in range(config.epochs):
            parts = self._minibatches(len(learned), number, epoch)
            rests = np.array_split(self._order(len(only_corrected), number, epoch), len(parts))
            for minibatch, rest in zip(parts, rests):
                if not len(minibatch) and not len(rest):
                    continue
                apart = [only_corrected[i] for i in rest]
                corrections = len(apart) + sum(learned[i].correction is not None for i in minibatch)
                weight = guard / corrections if corrections else 0.0
                kl = self._accumulate(learned, minibatch, temperature, reference, value_only, weight, statistics)
                if config.target_kl and kl > config.target_kl and not value_only:
                    stopped = True
                    self.optimizer.zero_grad(set_to_none=True)  # of what went too far
                    break
                self._correct(apart, weight, statistics)
                self._step(statistics, adapter=not value_only or weight > 0.0)
                steps += 1
            if stopped:
                break
        self.memory.add(samples)
        if guard:
            steps += self._learn_again(round(config.guard_replay * len(samples)), number, guard, statistics)
        self.optimizer.zero_grad(set_to_none=True)
        adapter_rate, value_rate = self.learning_rates(progress)
        if self.algorithm.critic and samples:
            statistics.add(1, explained_variance=_explained_variance(samples))
        if self.group is not None:
            statistics.combine(self.group)
        return {**statistics.means(), 'learned_share': len(learned) / max(len(samples), 1), 'optimiser_steps': steps,
                'stopped_early': float(stopped), 'learning_rate': adapter_rate, 'value_learning_rate': value_rate}

    def _learn_again(self, count: int, number: int, weight: float, statistics: _Statistics) -> int:
        """Optimiser steps on so many corrections of this and earlier updates; how many steps."""
        again = self.memory.draw(count, keyed_seed('corrections', self.seed, number))
        parts = [again[start:start + self.config.minibatch_size]
                 for start in range(0, len(again), self.config.minibatch_size)]
        for part in parts:
            self._correct(part, weight / len(part), statistics)
            self._step(statistics, value_head=False)
        return len(parts)

    def follow(self) -> None:
        """Take part in the updates that the first process of the group leads, until it ends."""
        assert self.group is not None, 'nobody leads a learner alone'
        while (told := self.group.hear()) is not None:
            state, samples, number, temperature, progress = told
            if state:
                parameters, optimizer, corrections = unpacked(state)
                with torch.no_grad():
                    for parameter, value in zip((*self._adapter, *self._value_head), parameters):
                        parameter.copy_(value)
                self.load_state_dict(optimizer)
                self.memory.restore(unpacked_corrections(corrections[0], corrections[1], self.policy))
            self.update(samples, number=number, temperature=temperature, progress=progress)

    def _led_state(self, number: int) -> bytes:
        """Weights, optimiser and memory for the others; nothing where the last update has left them the same."""
        same, self._led = number - 1 == self._led, number
        trained = [parameter.detach() for parameter in (*self._adapter, *self._value_head)]
        return b'' if same else packed((trained, self.state_dict(), packed_corrections(self.memory.samples)))

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
                    reference: list[torch.Tensor] | None, value_only: bool, guard: float, statistics: _Statistics
                    ) -> torch.Tensor:
        """Gradients of the mean loss of a minibatch, and of what is corrected in it, each times ``guard``.

        Returns:
            Its estimated KL to the policy that sampled; of this process' share, where no target asks for the whole.
        """
        # Decisions of similar length share a forward pass, so that little of it is padding.
        by_length = sorted(minibatch.tolist(), key=lambda i: len(samples[i].decision.token_ids))
        kl = torch.zeros((), dtype=torch.float64)
        for start in self._share(len(by_length)):
            indices = by_length[start:start + self.config.micro_batch_size]
            batch = [samples[i] for i in indices]
            rows = [reference[i] for i in indices] if reference else None
            loss, approx_kl, correction = self._loss(batch, temperature, rows, value_only, bool(guard), statistics)
            (loss * (len(batch) / len(minibatch)) + guard * correction).backward()
            kl = kl.to(approx_kl.device) + approx_kl.double() * len(batch) / len(minibatch)
        if self.group is not None and self.config.target_kl:  # on which all have to agree whether to stop
            self.group.add([kl])
        return kl

    def _share(self, count: int) -> Sequence[int]:
        """Where the forward passes begin that this process makes of so many decisions."""
        starts = range(0, count, self.config.micro_batch_size)
        return starts if self.group is None else self.group.share(starts)

    def _loss(self, samples: list[Sample], temperature: float, reference: list[torch.Tensor] | None, value_only: bool,
              guarded: bool, statistics: _Statistics) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean loss of a batch, its estimated KL, and the sum of what its corrections lack."""
        config = self.config
        corrected = [s for s in samples if s.correction is not None] if guarded else []
        result, said = self._evaluate(samples, corrected, temperature)
        old_log_probs = pad([s.decision.token_logprobs for s in samples], result.logprobs)
        weights = token_weights(result.mask, result.thought_mask, config.thought_weight)
        per_decision, per_value = self.algorithm.loss(Batch(samples, result, old_log_probs, weights))
        surrogate, entropy = per_decision.mean(), token_mean(result.entropy, result.mask).mean()
        loss = torch.zeros_like(surrogate)
        if per_value is not None:
            value = per_value.mean()
            loss = config.value_coef * value
            statistics.add(len(samples), value_loss=value)
        if not value_only:
            loss = loss + config.policy_coef * surrogate - config.entropy_coef * entropy
        with torch.no_grad():
            clipped = clipped_share(result.logprobs, old_log_probs, weights, clip=config.clip,
                                    clip_high=config.clip_high, level=self.algorithm.ratio_level).mean()
            approx_kl = kl_estimate(old_log_probs, result.logprobs).sum(1).mean()
            difference = ((result.logprobs - old_log_probs) * result.mask).abs().max()
            statistics.add(len(samples), policy_loss=surrogate, entropy=entropy, approx_kl=approx_kl,
                           clip_fraction=clipped)
            # In the first pass nothing has changed yet: what differs is the error of recomputing a log-probability.
            statistics.first('logprob_error', difference)
        if reference is not None and not value_only:
            # The tokens are samples of the policy as it was when they were written, not as it is after some steps.
            estimate = kl_estimate(result.logprobs, pad(reference, result.logprobs), old_log_probs, config.max_ratio)
            kl = token_mean(estimate, result.mask).mean()
            loss = loss + config.kl_coef * kl
            statistics.add(len(samples), reference_kl=kl)
        return loss, approx_kl, self._guard_loss(corrected, said, statistics) if corrected else torch.zeros_like(loss)

    def _evaluate(self, samples: list[Sample], corrected: list[Sample], temperature: float
                  ) -> tuple[Evaluation, Evaluation]:
        """What samples say, and what the corrections of some say, in one pass: their inputs are the same."""
        right = [sample.correction.said for sample in corrected if sample.correction is not None]
        # What is right is so among all actions, whichever were admissible: a checkpoint does not remember which.
        taught = [replace(sample.input, language=None) for sample in corrected]
        result = self.policy.evaluate(
            [*(s.input for s in samples), *taught], [*(s.decision for s in samples), *right],
            [temperature] * len(samples) + [1.0] * len(right), token_values=self.algorithm.token_values)
        return result.rows(slice(len(samples))), result.rows(slice(len(samples), None))

    def _guard_loss(self, corrected: list[Sample], said: Evaluation, statistics: _Statistics) -> torch.Tensor:
        """Sum of the negative log-likelihoods, nats, of what should have been written."""
        right = [sample.correction.learned for sample in corrected if sample.correction is not None]
        loss = -(said.logprobs * pad(right, said.logprobs)).sum()
        statistics.add(len(corrected), guard_loss=loss / len(corrected))
        return loss

    def _correct(self, corrected: list[Sample], weight: float, statistics: _Statistics) -> None:
        """Gradients of corrections alone, each times ``weight``."""
        size = self.config.micro_batch_size
        for batch in (corrected[start:start + size] for start in self._share(len(corrected))):
            (weight * self._guard_loss(batch, self._evaluate([], batch, 1.0)[1], statistics)).backward()

    def _step(self, statistics: _Statistics, adapter: bool = True, value_head: bool = True) -> None:
        # Two norms, so that a large value error does not shrink the step of the policy.
        limit = self.config.max_grad_norm or math.inf
        for trained, parameters in ((adapter, self._adapter), (value_head, self._value_head)):
            if not trained:
                for parameter in parameters:
                    parameter.grad = None
                continue
            if self.group is not None:
                for parameter in parameters:  # another process may have a gradient where this one had nothing to read
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                self.group.add([parameter.grad for parameter in parameters if parameter.grad is not None])
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            if parameters is self._adapter:
                statistics.add(1, gradient_norm=norm)
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


def require_trainable(policy: Policy, config: TrainConfig) -> None:
    """Refuse what would not learn, and a KL to the policy before RL where there is none to go back to.

    Raises:
        UserError: The model has no adapter, and is not of float32 or to be kept near to itself.
    """
    if policy.config.lora is None and policy.config.dtype != 'float32':
        raise UserError(f'the model is of {policy.config.dtype}, in which most steps of an optimiser round to nothing, '
                        'and has no adapter to train instead: set lora in its models file, or dtype to float32')
    if config.kl_coef and policy.config.lora is None:
        raise UserError(f'kl_coef is {config.kl_coef:g}, but the model has no adapter to switch off: set lora in its '
                        'models file, or kl_coef to 0')


class _Statistics:
    """Running weighted means, of tensors (one number each) too: those are read at the end, not waited for meanwhile."""

    def __init__(self) -> None:
        self._sums: dict[str, float | torch.Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, weight: float, **values: float | torch.Tensor) -> None:
        for name, value in values.items():
            number = value.detach().double() if isinstance(value, torch.Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + weight * number
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def first(self, name: str, value: float | torch.Tensor) -> None:
        if name not in self._sums:
            self.add(1, **{name: value})

    def combine(self, group: LearnerGroup) -> None:
        """Take in what the other processes have counted."""
        own = {name: (float(total), self._weights[name]) for name, total in self._sums.items()}
        parts = group.gather(own)
        self._sums = {name: sum(part[name][0] for part in parts if name in part) for part in parts for name in part}
        self._weights = {name: sum(part[name][1] for part in parts if name in part) for part in parts for name in part}

    def means(self) -> dict[str, float]:
        return {name: float(total) / self._weights[name] for name, total in self._sums.items()}


def _explained_variance(samples: list[Sample]) -> float:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 or less says that the value head knows nothing."""
    targets = np.array([s.value_target for s in samples])
    values = np.array([s.decision.value for s in samples])
    variance = float(targets.var())
    return 1.0 - float((targets - values).var()) / variance if variance > 0 else 0.0
