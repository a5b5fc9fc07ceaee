"""Keys and values of what the model has read: allocated ahead, written in place, rows dropped when they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 64  # columns that are allocated at once


class KeyValueBuffers:
    """Keys and values of every layer, (rows, heads, columns, width) each, with room for further columns.

    Args:
        prompts: What the prefill left; every layer of it must hold every column.
        expand: Row of the prefill that each row continues; rows of one prompt share its prefill.

    Attributes:
        length: Columns that are in use.
    """

    def __init__(self, prompts: DynamicCache, expand: Sequence[int]) -> None:
        self.length = prompts.get_seq_length()
        layers: list[Any] = prompts.layers
        self._tensors: list[torch.Tensor] = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        if list(expand) != list(range(len(self._tensors[0]))):
            self.select(torch.tensor(expand, device=self._tensors[0].device))
        self._reserve(_BLOCK)

    def extended(self, columns: int) -> list[torch.Tensor]:
        """Views of keys and values in turn, with so many further columns at their end for the model to write."""
        self.length += columns
        if self.length > self._tensors[0].shape[2]:
            self._reserve(max(_BLOCK, columns))
        return [tensor[:, :, :self.length] for tensor in self._tensors]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        self._tensors = [tensor.index_select(0, rows) for tensor in self._tensors]

    def _reserve(self, columns: int) -> None:
        for place, old in enumerate(self._tensors):
            # Zeros: attention multiplies masked columns by 0, which must not meet a NaN.
            new = old.new_zeros(*old.shape[:2], old.shape[2] + columns, old.shape[3])
            new[:, :, :old.shape[2]] = old
            self._tensors[place] = new


class StepCache(Cache):
    """What a model sees of the buffers in one step: its new keys and values go to the last columns.

    Args:
        views: As ``KeyValueBuffers.extended`` gave them.
    """

    def __init__(self, views: Sequence[torch.Tensor]) -> None:
        super().__init__(layers=[])
        self._views = views

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object,
               **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Write them, and return all that the layer has."""
        keys, values = self._views[2 * layer_idx], self._views[2 * layer_idx + 1]
        new = key_states.shape[2]
        keys.narrow(2, keys.shape[2] - new, new).copy_(key_states)
        values.narrow(2, values.shape[2] - new, new).copy_(value_states)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns; positions and masks are given to the model, so that it need not ask."""
        return self._views[0].shape[2]


class SharedCache(Cache):
    """Keys and values of prompts, each read once, that several rows go on from; gradients reach the prompts.

    Args:
        prompts: What the prefill left; every layer of it must hold every column.
        expand: (rows,) int64 prompt of each row.
    """

    def __init__(self, prompts: DynamicCache, expand: torch.Tensor) -> None:
        super().__init__(layers=[])
        self._prompts, self._expand = prompts, expand

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object,
               **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Everything that the layer has, with these at the end; nothing is kept, because nothing is read after them."""
        layer: Any = self._prompts.layers[layer_idx]
        keys, values = (torch.cat([old.index_select(0, self._expand), new], dim=2)
                        for old, new in ((layer.keys, key_states), (layer.values, value_states)))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the prompts."""
        return self._prompts.get_seq_length()


def holds_everything(cache: object) -> bool:
    """Whether a prefill left plain keys and values of every column, and nothing else that a step would need."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
