"""Scores in slices are those of the whole distributions, in value and gradient."""

import numpy as np
import pytest
import torch

from vlm_agent_ros.policy import scoring
from vlm_agent_ros.policy.constraint import tempered_log_probs


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('slice_size', [1, 60, 1 << 20])
@pytest.mark.parametrize(('of_chosen', 'of_entropy'), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.3)])
def test_values_and_gradients_are_those_of_whole_distributions(monkeypatch, dtype, slice_size, of_chosen, of_entropy):
    monkeypatch.setattr(scoring, '_SLICE', slice_size)
    generator = torch.Generator().manual_seed(0)
    logits = (4.0 * torch.randn((3, 5, 21), generator=generator)).to(dtype).requires_grad_()
    allowed = torch.rand((3, 5, 21), generator=generator) < 0.4
    tokens = torch.randint(0, 21, (3, 5), generator=generator)
    allowed.scatter_(2, tokens[..., None], True)
    allowed[0, 0] = torch.arange(21) == tokens[0, 0]  # no choice
    weights = torch.rand((2, 3, 5), generator=generator) - 0.5  # beyond 1 the plain entropy's gradient overflows

    log_probs = tempered_log_probs(logits, allowed, 0.7)
    chosen = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    (of_chosen * weights[0] * chosen + of_entropy * weights[1] * entropy).sum().backward()
    expected, logits.grad = logits.grad, None

    bits = torch.from_numpy(np.packbits(allowed.numpy(), axis=-1, bitorder='little'))
    own_chosen, own_entropy = scoring.score_tokens(logits, tokens, bits, 0.7)
    torch.testing.assert_close(own_chosen, chosen, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own_entropy, entropy, rtol=1e-6, atol=1e-6)
    loss = of_chosen * (weights[0] * own_chosen).sum() if not of_entropy else (
        of_chosen * weights[0] * own_chosen + of_entropy * weights[1] * own_entropy).sum()
    loss.backward()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(logits.grad, expected, rtol=tolerance, atol=tolerance)
    assert own_chosen[0, 0] == 0.0 and not logits.grad[0, 0].any()
