"""What a supervised model knows: its next tokens on given outputs, and the outputs that it writes by itself."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from vlm_agent_ros.policy.output import SCAFFOLD

from .sft_data import Batch, SftData

_NUMBER = re.compile(r'\d+')


def teacher_forced(logits: torch.Tensor, batch: Batch) -> dict[str, float]:
    """Metrics of the next token given the expert's tokens before it.

    Args:
        logits: (batch, tokens, vocabulary), at each token those that predict it.
        batch: The samples.

    Returns:
        ``loss``, nats per token; shares of right tokens: ``tokens``, and of those that complete a two-digit number
        ``thought_numbers`` and ``action_numbers``. NaN where there are no such tokens.
    """
    right = logits.argmax(dim=-1) == batch.outputs
    number = batch.numbers >= 0
    shares = {'tokens': batch.mask, 'thought_numbers': number & ~batch.in_action,
              'action_numbers': number & batch.in_action}
    loss = cross_entropy(logits[batch.mask].float(), batch.outputs[batch.mask])
    return {'loss': float(loss), **{name: float(right[mask].float().mean()) for name, mask in shares.items()}}


@torch.no_grad()
def greedy_accuracy(model: Any, data: SftData, rows: np.ndarray, batch: int = 128) -> dict[str, float]:
    """Metrics of outputs that the model writes by itself, most likely token by token, without a grammar.

    Returns:
        Shares of samples with ``well_formed`` output, the expert's ``thought``, the expert's ``action``, and an action
        of the right kind whose numbers are all at most 1 or 2 off (``action_within_1``, ``action_within_2``).
    """
    found: list[tuple[bool, ...]] = []
    for part in np.array_split(rows, -(-len(rows) // batch)) if len(rows) else []:
        for row, text in zip(part, _write(model, data, part)):
            found.append(_compare(text, str(data.dataset.thoughts[row]), str(data.dataset.actions[row])))
    names = ('well_formed', 'thought', 'action', 'action_within_1', 'action_within_2')
    return {name: round(float(np.mean(column)), 4) for name, column in zip(names, zip(*found))}


def _write(model: Any, data: SftData, rows: np.ndarray) -> list[str]:
    tokenizer = data.encoder.tokenizer
    inputs = data.prompt_inputs(rows, None)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=data.outputs.shape[1],
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return list(tokenizer.batch_decode(ids[:, inputs['input_ids'].shape[1]:], skip_special_tokens=True))


def _compare(text: str, thought: str, action: str) -> tuple[bool, ...]:
    opening, middle, closing = SCAFFOLD
    well_formed = text.startswith(opening) and text.endswith(closing) and text.count(middle) == 1
    if not well_formed:
        return (False,) * 5
    own_thought, own_action = text.removeprefix(opening).removesuffix(closing).split(middle)
    errors = [abs(int(a) - int(b)) for a, b in zip(_NUMBER.findall(own_action), _NUMBER.findall(action))]
    same_kind = _NUMBER.sub('#', own_action) == _NUMBER.sub('#', action)
    error = max(errors, default=0) if same_kind else np.inf
    return True, own_thought == thought, own_action == action, bool(error <= 1), bool(error <= 2)
