"""A folded LoRA layer gives what PEFT's own gives, in value and in every gradient, and steps aside where it must."""

import pytest
import torch

from vlm_agent_ros.policy.config import LoraSettings
from vlm_agent_ros.policy.folded_lora import folded_lora
from vlm_agent_ros.policy.loading import add_lora
from vlm_agent_ros.policy.merged_lora import MergedLora


class Layers(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(12, 20, dtype=dtype)
        self.second = torch.nn.Linear(20, 7, bias=False, dtype=dtype)
        self.output = torch.nn.Linear(7, 5, dtype=dtype)

    def get_output_embeddings(self):
        return self.output

    def forward(self, x):
        return self.output(torch.tanh(self.second(torch.tanh(self.first(x)))))


def adapted(dtype=torch.float32):
    model = add_lora(Layers(dtype), LoraSettings(rank=3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora' in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def forward_and_backward(model):
    x = torch.randn((2, 4, 12), generator=torch.Generator().manual_seed(2)).requires_grad_()
    y = model(x.to(model.base_model.model.first.weight.dtype))
    y.float().square().sum().backward()
    gradients = [x.grad, *(p.grad.clone() for p in model.parameters() if p.requires_grad)]
    model.zero_grad()
    return y.detach(), gradients


def saved_bytes(model):
    seen = {}
    with torch.autograd.graph.saved_tensors_hooks(
            lambda t: seen.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t):
        y = model(torch.randn(64, 12).requires_grad_())
    return sum(seen.values()), y


def test_value_and_gradients_are_those_of_the_plain_layers():
    model = adapted()
    plain, gradients = forward_and_backward(model)
    with folded_lora(model):
        folded, others = forward_and_backward(model)
    torch.testing.assert_close(folded, plain)
    assert len(gradients) == 5 and all(g.abs().max() > 1e-3 for g in gradients)
    for own, other in zip(others, gradients):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-4)  # sums of 100 terms of size 10
    assert all(p.grad is None for name, p in model.named_parameters() if 'lora' not in name)


def test_less_is_kept_for_the_backward_pass():
    model = adapted()
    plain, _ = saved_bytes(model)
    with folded_lora(model):
        folded, _ = saved_bytes(model)
    assert folded < plain


def test_the_layers_are_themselves_again_afterwards_even_after_an_error():
    model = adapted()
    layer = model.base_model.model.first
    with pytest.raises(ZeroDivisionError), folded_lora(model):
        assert 'forward' in vars(layer)
        raise ZeroDivisionError
    assert 'forward' not in vars(layer)


def test_adapters_that_are_off_merged_or_of_low_precision_are_left_to_peft():
    model = adapted()
    base = model.base_model.model
    with model.disable_adapter(), folded_lora(model):
        assert 'forward' not in vars(base.first)
    with MergedLora(model)(), folded_lora(model):
        assert 'forward' not in vars(base.first)
    half = adapted(torch.bfloat16)
    with folded_lora(half):
        assert 'forward' not in vars(half.base_model.model.first)
    base.first.base_layer.weight.requires_grad_()  # would be left without its gradient
    with folded_lora(model):
        assert 'forward' not in vars(base.first) and 'forward' in vars(base.second)
