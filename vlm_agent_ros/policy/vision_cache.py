"""What a frozen vision tower says of an image, computed once and kept over the epochs of an update.

Nothing here knows a model by name. The tower is what transformers names the encoder of images, and an output belongs to
an image if it can be cut into one part per image: true of towers that take one row per image or tile (CLIP, SigLIP,
InternVL, Idefics3) and of those that take the patches of all images in one row after the other, with the grid of each
(Qwen-VL). Any other tower computes as without a cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .merged_lora import weights_version


@contextmanager
def cached_vision(model: Any, limit_bytes: int) -> Iterator[None]:
    """Within it the vision tower of a model answers from a ``VisionCache``, unless it is trained.

    Args:
        model: A Hugging Face model, without PEFT's shell.
        limit_bytes: Size of the cache; 0 is none.
    """
    tower = model.get_encoder(modality='image') if hasattr(model, 'get_encoder') else model
    if tower is model or not limit_bytes or _trained(tower):
        yield
        return
    own = vars(tower).get('forward')
    cache = VisionCache(tower, limit_bytes)
    try:
        tower.forward = cache.forward
        yield
    finally:
        if own is None:
            del tower.forward  # the method of the class is seen again
        else:
            tower.forward = own


class VisionCache:
    """Outputs of a tower by the content of the images that they belong to.

    What is full stays as it is: in an update every image comes back once per epoch, so that none is worth more than
    another, and the share of hits is the share of images that fit. The oldest ones making way would leave fewer hits.

    Args:
        tower: Whose forward pass this stands for; it must not be trained.
        limit_bytes: What is kept at most.
    """

    def __init__(self, tower: nn.Module, limit_bytes: int) -> None:
        from peft.tuners.lora import LoraLayer

        self._tower, self._encode, self._limit = tower, tower.forward, limit_bytes
        self._layers = [module for module in tower.modules() if isinstance(module, LoraLayer)]
        self._version: tuple[Any, ...] = ()
        self._kept: dict[bytes, Any] = {}
        self._separable: bool | None = None
        self.size_bytes = 0

    def clear(self) -> None:
        """Forget all images."""
        self._kept, self.size_bytes = {}, 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the tower's own ``forward`` gives, with one pass for all images that are new and distinct."""
        images = None if self._separable is False or _trained(self._tower) else _Images.of(arguments, named)
        if images is None:
            return self._encode(*arguments, **named)
        version = weights_version(self._layers, self._tower.parameters())
        if version != self._version:
            self.clear()
            self._version = version
        keys = images.keys()
        parts = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: place for place, key in reversed(list(enumerate(keys))) if key not in parts}
        if new:
            computed = self._compute(images, list(new.values()))
            if computed is None:
                return self._encode(*arguments, **named)
            for key, part in zip(new, computed):
                parts[key] = self._keep(key, part)
        return _join([parts[key] for key in keys])

    def _compute(self, images: _Images, places: list[int]) -> list[Any] | None:
        """The outputs of some images; None where they cannot be told apart."""
        if self._separable is None and len(places) == 1:
            places = places * 2  # one image alone says nothing of how several lie in the output
        arguments, named = images.select(places)
        with torch.no_grad():
            output = self._encode(*arguments, **named)
        parts = _split(output, [images.sizes[place] for place in places])
        self._separable = parts is not None
        return parts

    def _keep(self, key: bytes, part: Any) -> Any:
        size = sum(tensor.nbytes for tensor in _tensors(part))
        if self.size_bytes + size > self._limit:
            return part
        self.size_bytes += size
        # A copy: a view would hold on to the outputs of the whole batch.
        self._kept[key] = _join([part])
        return self._kept[key]


@dataclass(frozen=True)
class _Images:
    """The arguments of a tower, cut into images.

    Attributes:
        arguments: By name or position; tensors, or plain values that hold for all images.
        positional: How many are given by position.
        sizes: Rows of each image in the ``pixels``; other tensors have one row per image.
        pixels: Name of the argument that holds the images.
    """

    arguments: dict[Any, Any]
    positional: int
    sizes: list[int]
    pixels: Any

    @classmethod
    def of(cls, arguments: Sequence[Any], named: dict[str, Any]) -> _Images | None:
        """None where it does not show which rows belong to which image."""
        every: dict[Any, Any] = dict(enumerate(arguments))
        every.update(named)
        tensors = {name: value for name, value in every.items() if isinstance(value, torch.Tensor)}
        pixels = next((name for name, value in tensors.items() if value.is_floating_point() and value.ndim > 1), None)
        if pixels is None or any(value.requires_grad for value in tensors.values()):
            return None
        others = [value for name, value in tensors.items() if name != pixels]
        sizes = _rows_per_image(tensors[pixels], others)
        if not sizes or any(value.ndim == 0 or len(value) != len(sizes) for value in others):
            return None
        if not all(_plain(value) for name, value in every.items() if name not in tensors):
            return None
        return cls(every, len(arguments), sizes, pixels)

    def keys(self) -> list[bytes]:
        """A digest of every image, and of all that its output depends on besides the weights."""
        plain = repr([(name, value) for name, value in self.arguments.items() if not isinstance(value, torch.Tensor)])
        digests = [hashlib.blake2b(plain.encode(), digest_size=16) for _ in self.sizes]
        for name, value in self.arguments.items():
            if isinstance(value, torch.Tensor):
                for digest, part in zip(digests, self._cut(name, value.detach().cpu())):
                    digest.update(f'{name} {value.dtype} {tuple(part.shape)}'.encode())
                    digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
        return [digest.digest() for digest in digests]

    def select(self, places: list[int]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for some of the images, by position and by name."""
        chosen = {}
        for name, value in self.arguments.items():
            if isinstance(value, torch.Tensor):
                parts = self._cut(name, value)
                value = torch.cat([parts[place] for place in places])
            chosen[name] = value
        return [chosen.pop(position) for position in range(self.positional)], chosen

    def _cut(self, name: Any, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return value.split(self.sizes if name == self.pixels else 1)


def _rows_per_image(pixels: torch.Tensor, others: Sequence[torch.Tensor]) -> list[int]:
    """One each, or as the grids (images, 3) of time, height and width say of flat patches (patches, width)."""
    if pixels.ndim > 2:
        return [1] * len(pixels)
    for grid in others:
        if grid.ndim == 2 and grid.shape[1] == 3 and not grid.is_floating_point():
            sizes: list[int] = grid.prod(dim=1).tolist()
            if sum(sizes) == len(pixels):
                return sizes
    return []


def _trained(tower: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in tower.parameters())


def _plain(value: Any) -> bool:
    """Says all of itself when it is printed."""
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


# -- outputs: tensors in tuples, lists and the dictionaries of transformers

def _split(value: Any, sizes: Sequence[int]) -> list[Any] | None:
    """The part of every image, rows in proportion to ``sizes``; None where the output has no such rows."""
    if value is None:
        return [None] * len(sizes)
    if isinstance(value, torch.Tensor):
        rows, total = len(value) if value.ndim else 0, sum(sizes)
        if not 0 < rows <= total or any(rows * size % total for size in sizes):
            return None
        return list(value.split([rows * size // total for size in sizes]))
    if isinstance(value, dict):
        columns = _split(tuple(value.values()), sizes)
        return columns and [_dictionary(value, row) for row in columns]
    if not isinstance(value, (tuple, list)):
        return None
    split = [_split(item, sizes) for item in value]
    if any(column is None for column in split):
        return None
    return [type(value)(column[place] for column in split if column) for place in range(len(sizes))]


def _join(parts: Sequence[Any]) -> Any:
    """The output for all images, of which these are the parts; always new tensors and containers."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, dict):
        return _dictionary(first, [_join(column) for column in zip(*(part.values() for part in parts))])
    if isinstance(first, (tuple, list)):
        return type(first)(_join(column) for column in zip(*parts))
    return first


def _dictionary(like: Any, values: Sequence[Any]) -> Any:
    return type(like)(**dict(zip(like, values)))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, tuple, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
