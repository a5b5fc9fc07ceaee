"""LoRA layers as one matrix product, with gradients for the adapters alone.

PEFT computes ``W x + s B (A x)``: three products, a scaling and a sum per layer, whose intermediate results are all
kept for the backward pass. With many tokens per pass it is cheaper to form ``W + s B A`` first: what is kept then is
the input alone, and the thin products appear only where the gradients of A and B need them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@contextmanager
def folded_lora(model: nn.Module) -> Iterator[None]:
    """Within it the forward pass of every plain LoRA layer is one product; the result is the same to rounding.

    Layers that are more than that are left to PEFT: quantized or half-precision weights (a small adapter would drown
    in their rounding), dropout, several adapters, adapters that are switched off or merged.
    """
    layers = [module for module in model.modules() if _foldable(module)]
    try:
        for layer in layers:
            layer.forward = partial(_forward, layer)
        yield
    finally:
        for layer in layers:
            del layer.forward  # the method of the class is seen again


def _foldable(module: Any) -> bool:
    from peft.tuners.lora import Linear

    if type(module) is not Linear or len(module.active_adapters) != 1 or module.disable_adapters or module.merged:
        return False
    name, base = module.active_adapters[0], module.get_base_layer()
    if type(base) is not nn.Linear or name not in module.lora_A or module.fan_in_fan_out:
        return False
    thin = (module.lora_A[name], module.lora_B[name])
    return (base.weight.dtype == torch.float32 and not base.weight.requires_grad
            and (base.bias is None or not base.bias.requires_grad)
            and all(part.weight.dtype == torch.float32 and part.bias is None for part in thin)
            and isinstance(module.lora_dropout[name], nn.Identity) and name not in module.lora_variant)


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    name, base = layer.active_adapters[0], layer.get_base_layer()
    folded: torch.Tensor = _FoldedLinear.apply(x, base.weight, base.bias, layer.lora_A[name].weight,
                                               layer.lora_B[name].weight, layer.scaling[name])
    return folded


class _FoldedLinear(torch.autograd.Function):
    """``x (W + s B A)^T + b``, differentiable in x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor,
                b: torch.Tensor, scale: float) -> torch.Tensor:
        """See the class; x is (…, in), W (out, in), A (rank, in), B (out, rank)."""
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return functional.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, A and B; the frozen weight is never given one."""
        x, weight, a, b = ctx.saved_tensors
        wanted_x, _, _, wanted_a, wanted_b, _ = ctx.needs_input_grad
        gradient = gradients[0].flatten(0, -2)
        of_x = of_a = of_b = None
        if wanted_x:
            of_x = (gradient @ torch.addmm(weight, b, a, alpha=ctx.scale)).view(x.shape)
        rows = x.flatten(0, -2)
        if wanted_a:
            of_a = (gradient @ b).t().mm(rows).mul_(ctx.scale)
        if wanted_b:
            of_b = gradient.t().mm(rows @ a.t()).mul_(ctx.scale)
        return of_x, None, None, of_a, of_b, None
