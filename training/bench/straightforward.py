"""The update as one would write it first: what the benchmark compares with, and what the tests take for the truth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from vlm_agent_ros.policy.constraint import tempered_log_probs
from vlm_agent_ros.policy.encoding import join_outputs
from vlm_agent_ros.policy.policy import Decision, Evaluation, Policy, PolicyInput


class StraightforwardPolicy:
    """A policy whose decisions are evaluated without any economy.

    Every row is padded to the longest prompt and the longest output of the whole rollout, the image is encoded for
    every row in every epoch, the adapters are computed by PEFT, and log-probabilities are a float32 log-softmax over
    the whole vocabulary at every position, those of the prompt included. Grammar masks are those of ``policy``, kept
    between epochs as there.

    Args:
        policy: Whose weights these are; everything but ``evaluate`` and the vision cache is its own.
        inputs: Of the whole rollout.
        decisions: Of the whole rollout.
    """

    def __init__(self, policy: Policy, inputs: Sequence[PolicyInput], decisions: Sequence[Decision]) -> None:
        self._policy = policy
        self._prompt_tokens = max(self._encode([given])['input_ids'].shape[1] for given in inputs)
        self._tokens = max(len(decision.token_ids) for decision in decisions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def cached_vision(self, limit_bytes: int) -> AbstractContextManager[None]:
        """Nothing is kept."""
        return nullcontext()

    def evaluate(self, inputs: Sequence[PolicyInput], decisions: Sequence[Decision],
                 temperature: float | Sequence[float], token_values: bool = False) -> Evaluation:
        """See Policy; (batch, tokens) is as wide as the longest decision of the rollout."""
        policy, device = self._policy, self._policy.device
        prompts = self._padded(self._encode(inputs))
        lengths = torch.tensor([len(decision.token_ids) for decision in decisions], device=device)
        outputs = torch.full((len(decisions), self._tokens), policy.constraint.eos, device=device)
        thoughts = torch.zeros_like(outputs, dtype=torch.bool)
        first = self._prompt_tokens - 1
        positions = first + self._tokens
        allowed = torch.ones((len(decisions), positions, policy.constraint.vocabulary), dtype=torch.bool, device=device)
        for row, (given, decision) in enumerate(zip(inputs, decisions)):
            count = len(decision.token_ids)
            outputs[row, :count] = torch.from_numpy(decision.token_ids)
            thoughts[row, :count] = torch.from_numpy(np.asarray(decision.thought_mask))
            masks = policy.constraint.replay(decision.token_ids, policy._regex(given.language))
            allowed[row, first:first + count] = torch.from_numpy(np.array(masks))
        joined = join_outputs(prompts, outputs, lengths)
        logits = policy.model(**joined, use_cache=False).logits[:, :-1]
        of_rows = torch.as_tensor(temperature, dtype=torch.float32, device=device).reshape(-1, 1, 1)
        log_probs = tempered_log_probs(logits, allowed, of_rows)
        of_outputs = log_probs[:, first:]
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)[:, first:]
        mask = torch.arange(self._tokens, device=device) < lengths[:, None]
        hidden = policy._hidden.last[:, first:-1]
        return Evaluation(of_outputs.gather(-1, outputs[..., None]).squeeze(-1) * mask, mask, thoughts, entropy * mask,
                          policy._value(hidden if token_values else hidden[:, 0]))

    def _encode(self, inputs: Sequence[PolicyInput]) -> Any:
        return self._policy._encode(inputs, 'left')

    def _padded(self, prompts: Any) -> dict[str, Any]:
        """Token-level entries with padding on the left up to the longest prompt of the rollout."""
        shape = prompts['input_ids'].shape
        missing = self._prompt_tokens - shape[1]
        fill = {'input_ids': self._policy.encoder.tokenizer.pad_token_id}
        return {name: torch.nn.functional.pad(value, (missing, 0), value=fill.get(name, 0))
                if isinstance(value, torch.Tensor) and value.shape == shape else value
                for name, value in prompts.items()}
