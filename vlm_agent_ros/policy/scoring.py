"""Log-probabilities and entropies of written tokens, without the distributions over the vocabulary in memory.

The plain way holds several float32 arrays of (tokens, vocabulary): scaled logits, masked logits, log-probabilities,
their products. Here a slice of tokens at a time is taken through them, forward and, computed anew, backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .constraint import tempered_log_probs, unpacked

_SLICE = 1 << 20  # elements of one slice: 4 MiB in float32, which caches hold


def score_tokens(logits: torch.Tensor, tokens: torch.Tensor, allowed_bits: torch.Tensor,
                 temperature: float | Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``tempered_log_probs`` says of given tokens, with gradients.

    Args:
        logits: (batch, tokens, vocabulary) of any float type.
        tokens: (batch, tokens) int64.
        allowed_bits: (batch, tokens, ⌈vocabulary / 8⌉) uint8, packed as ``OutputConstraint.replay_bits`` does.
        temperature: Divides the logits, or those of each row of the batch.

    Returns:
        Log-probability of each token and entropy of each distribution, nats: (batch, tokens) float32 each.
    """
    if not isinstance(temperature, Sequence):
        temperature = [temperature] * len(tokens)
    of_rows = torch.tensor(temperature, dtype=torch.float32, device=logits.device).repeat_interleave(tokens.shape[1])
    scored: tuple[torch.Tensor, torch.Tensor] = _TokenScores.apply(
        logits.flatten(0, 1), tokens.flatten(), allowed_bits.flatten(0, 1), of_rows[:, None])
    return scored[0].view(tokens.shape), scored[1].view(tokens.shape)


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, tokens: torch.Tensor, bits: torch.Tensor, temperature: torch.Tensor
                ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, (rows,) each, of logits (rows, vocabulary)."""
        ctx.save_for_backward(logits, tokens, bits, temperature)
        ctx.set_materialize_grads(False)
        chosen = torch.empty(len(tokens), dtype=torch.float32, device=logits.device)
        entropy = torch.empty_like(chosen)
        for part, log_probs in _slices(logits, bits, temperature):
            chosen[part] = log_probs.gather(1, tokens[part, None]).squeeze(1)
            entropy[part] = -(log_probs.exp().mul_(log_probs)).sum(dim=1)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """With p the distribution and z = logits / T: d log p_k / dz_i = δ_ik - p_i, dH / dz_i = -p_i (log p_i + H)."""
        logits, tokens, bits, temperature = ctx.saved_tensors
        of_chosen, of_entropy = gradients
        result = torch.empty_like(logits)
        for part, log_probs in _slices(logits, bits, temperature):
            probs = log_probs.exp()
            slope = torch.zeros_like(probs)
            if of_entropy is not None:
                surprise = log_probs.mul_(probs)  # p log p, whose sum is -H
                slope -= (surprise - probs * surprise.sum(dim=1, keepdim=True)) * of_entropy[part, None]
            if of_chosen is not None:
                slope -= probs.mul_(of_chosen[part, None])
                slope.scatter_add_(1, tokens[part, None], of_chosen[part, None])
            result[part] = slope.div_(temperature[part])
        return result, None, None, None


def _slices(logits: torch.Tensor, bits: torch.Tensor, temperature: torch.Tensor
            ) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices of rows with their log-probabilities (rows, vocabulary) float32."""
    rows, vocabulary = logits.shape
    step = max(1, _SLICE // vocabulary)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        yield part, tempered_log_probs(logits[part], unpacked(bits[part], vocabulary), temperature[part])
