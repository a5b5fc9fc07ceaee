"""LoRA adapters folded into the weights for deciding, once for every version of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class MergedLora:
    """Weights with the adapters in them, which take the place of the base weights while tokens are written.

    A step of one token costs half the operations then. Both kinds of weights are kept and change places as a whole, so
    that the base weights stay what they were to the bit and a change costs nothing.

    Only weights in float32 are folded. Rounded again to few bits with a small adapter in them, the base weights would
    be another policy than the one that is updated; those of 4 bits cannot be added to at all.

    Args:
        model: With PEFT's layers, or without any: then nothing is done.
    """

    def __init__(self, model: Any) -> None:
        from peft.tuners.lora import LoraLayer

        self._layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self._parameters = [parameter for layer in self._layers for parameter in layer.parameters()]
        self._merged: list[tuple[Any, torch.nn.Parameter, torch.Tensor]] = []
        self._version: tuple[Any, ...] = ()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within it every layer whose adapter is switched on computes with the folded weights."""
        version = weights_version(self._layers, self._parameters)
        if version != self._version:
            self._merged = [(layer, layer.get_base_layer().weight, merged_weight(layer))
                            for layer in self._layers if _mergeable(layer)]
            self._version = version
        own = [parameter.data for _, parameter, _ in self._merged]
        try:
            for layer, parameter, weight in self._merged:
                parameter.data = weight
                layer.merged_adapters.extend(layer.active_adapters)
            yield
        finally:
            for (layer, parameter, _), weight in zip(self._merged, own):
                parameter.data = weight
                layer.merged_adapters.clear()

    def release(self) -> None:
        """Give the memory of the folded weights back: an update is about to make them useless."""
        self._merged, self._version = [], ()


def weights_version(layers: Iterable[Any], parameters: Iterable[torch.Tensor]) -> tuple[Any, ...]:
    """What differs once an optimiser step, a load or a switch has changed what LoRA layers and parameters compute.

    Every operation in place counts a tensor's version up.
    """
    switches = [(layer.disable_adapters, *layer.active_adapters) for layer in layers]
    return (*switches, *((parameter.data_ptr(), parameter._version) for parameter in parameters))


def merged_weight(layer: Any) -> torch.Tensor:
    """The weight of a LoRA layer with its adapter in it, as PEFT merges it; the layer stays as it was."""
    base = layer.get_base_layer()
    own = base.weight.data
    try:
        base.weight.data = own.clone()
        layer.merge()
        weight: torch.Tensor = base.weight.data
    finally:
        base.weight.data = own
        layer.merged_adapters.clear()
    return weight


def _mergeable(layer: Any) -> bool:
    return layer.get_base_layer().weight.dtype == torch.float32 and not layer.disable_adapters
