"""Linear layers in 8 bits on the CPU: weights of one byte, kept and multiplied as such.

Each output channel has a scale of its own, so that weight = scale · int8 (symmetric, rounded to nearest). Inputs are
rounded to 8 bits while the model runs (PyTorch's dynamic quantization: a scale for all rows of an input). The output
embedding and everything that is no linear layer stay what they are.

A model directory says ``quantization_config: {quant_method: vlm_agent_ros_int8}`` in its config.json; once this module
is imported, ``from_pretrained`` loads it without ever holding the weights in more than 8 bits.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = 'vlm_agent_ros_int8'


class Int8Linear(nn.Module):
    """A linear layer with weights of 8 bits; takes and gives float32.

    Attributes:
        weight: (out, in) int8; empty once the layer is ready to run.
        weight_scale: (out,) float32.
        bias: (out,) float32, or None.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self._packed: Any = None

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        """The nearest layer to a linear one."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127.0
        layer.weight_scale.data = scale
        layer.weight.data = (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        if layer.bias is not None:
            layer.bias.data = linear.bias.detach().float()
        return layer

    def pack(self) -> None:
        """Hand the weights to the kernel, which keeps its own copy, and let go of ours."""
        zero = torch.zeros(len(self.weight_scale), dtype=torch.int64)
        with warnings.catch_warnings():
            # PyTorch means to drop tensors of this type, but has nothing else for a CPU yet: pytorch issue 184982.
            warnings.simplefilter('ignore', UserWarning)
            weight = torch._make_per_channel_quantized_tensor(
                self.weight.data, self.weight_scale.data.double(), zero, 0)
        self._packed = torch.ops.quantized.linear_prepack(weight, self.bias)
        self.weight.data = torch.empty(0, dtype=torch.int8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in) float32 to (…, out) float32."""
        # Without the last bit the sums of 16 bits, in which older CPUs add, cannot overflow.
        return torch.ops.quantized.linear_dynamic(inputs, self._packed, reduce_range=True)


def quantize(model: Any) -> None:
    """Replace the linear layers of a Hugging Face model; its directory then says how it is to be loaded.

    The model can only be saved afterwards: ``from_pretrained`` makes it ready to run.
    """
    for name, linear in _linears(model):
        model.set_submodule(name, Int8Linear.of(linear))
    model.config.quantization_config = Int8Config()


def _linears(model: Any) -> list[tuple[str, nn.Linear]]:
    output = model.get_output_embeddings()
    # The attention of PyTorch reads the weights of its layers itself: they are of a type of their own.
    return [(name, module) for name, module in model.named_modules()
            if type(module) is nn.Linear and module is not output]


@register_quantization_config(METHOD)
class Int8Config(QuantizationConfigMixin):
    """What config.json says of such a model."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]


@register_quantizer(METHOD)
class Int8Quantizer(HfQuantizer):
    """What ``from_pretrained`` does for such a model."""

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        for name, linear in _linears(model):
            model.set_submodule(name, Int8Linear(linear.in_features, linear.out_features, linear.bias is not None))

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        for module in model.modules():
            if isinstance(module, Int8Linear):
                module.pack()

    def is_serializable(self) -> bool:
        """It is saved by ``quantize`` only."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Weights of 8 bits are for deciding only."""
        return False
