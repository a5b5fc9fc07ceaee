"""Demonstrations as tensors: texts tokenized once, images augmented and normalised on the device, batch by batch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.encoding import PromptEncoder, join_outputs
from vlm_agent_ros.policy.output import SCAFFOLD, format_output

from ..demonstrations.dataset import DemonstrationDataset
from .augment import Augmentation, augment

_ENCODED_AT_ONCE = 512  # prompts
_NUMBER = re.compile(r'(?<!\d)\d\d(?!\d)')


@dataclass(frozen=True)
class Batch:
    """What a training step needs, on the device.

    Attributes:
        inputs: Keyword arguments of the model: prompts on the left, outputs in the last ``outputs.shape[1]`` columns.
        outputs: (batch, tokens) int64, right-padded with the end-of-sequence token.
        mask: (batch, tokens) bool, True on tokens of the output.
        numbers: (batch, tokens) int64, the two-digit number that the token completes, or -1.
        in_action: (batch, tokens) bool, True from the action on.
        objects: (batch, objects, 4) float32 as in ``DemonstrationDataset``.
    """

    inputs: dict[str, Any]
    outputs: torch.Tensor
    mask: torch.Tensor
    numbers: torch.Tensor
    in_action: torch.Tensor
    objects: torch.Tensor


class SftData:
    """A dataset on the device.

    Args:
        dataset: Demonstrations; all are held.
        encoder: The model's processor.
        augmentation: Applied to training batches.
        device: Where batches are made.
    """

    def __init__(
        self, dataset: DemonstrationDataset, encoder: PromptEncoder, augmentation: Augmentation, device: torch.device
    ) -> None:
        self.dataset, self.encoder, self.augmentation, self.device = dataset, encoder, augmentation, device
        self.objects = torch.from_numpy(dataset.objects.astype(np.float32)).to(device)
        self.outputs, self.mask, self.numbers, self.in_action = (t.to(device) for t in self._tokenize_outputs())
        self.affine = _affine_normalisation(encoder, dataset.images[:1])
        if self.affine is not None:
            self.images = torch.from_numpy(dataset.images).to(device)
            prompts, self.prompt_row = np.unique(dataset.prompts, return_inverse=True)
            self.prompts = {k: v.to(device) for k, v in _encode_prompts(encoder, dataset.images[0], prompts).items()}

    def split(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of training and of held-out samples; an episode is on one side only."""
        episodes = np.unique(self.dataset.episodes)
        chosen = np.random.default_rng(seed).permutation(episodes)[: max(1, round(share * len(episodes)))]
        held_out = np.isin(self.dataset.episodes, chosen)
        if held_out.all():
            raise UserError('the demonstrations hold a single episode: record more')
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def pixels(self, index: np.ndarray, seed: int | None) -> torch.Tensor:
        """(batch, 3, height, width) float32 in [0, 1], augmented if there is a seed."""
        if self.affine is not None:
            source = self.images[torch.from_numpy(index).to(self.device)]
        else:
            source = torch.from_numpy(self.dataset.images[index])
        images = source.permute(0, 3, 1, 2).float() / 255
        if seed is None:
            return images
        return augment(images, self.augmentation, torch.Generator(images.device).manual_seed(seed))

    def vision_inputs(self, index: np.ndarray, seed: int | None) -> dict[str, Any]:
        """Inputs of the vision tower alone."""
        inputs = self.prompt_inputs(index, seed)
        return {k: v for k, v in inputs.items() if k not in ('input_ids', 'attention_mask')}

    def batch(self, index: np.ndarray, seed: int | None) -> Batch:
        """A batch of samples; the seed makes the augmentation, None switches it off."""
        rows = torch.from_numpy(index).to(self.device)
        outputs, mask = self.outputs[rows], self.mask[rows]
        inputs = join_outputs(self.prompt_inputs(index, seed), outputs, mask.sum(dim=1))
        return Batch(inputs, outputs, mask, self.numbers[rows], self.in_action[rows], self.objects[rows])

    def prompt_inputs(self, index: np.ndarray, seed: int | None) -> dict[str, Any]:
        """Inputs of the model without outputs, padded on the left."""
        pixels = self.pixels(index, seed)
        if self.affine is not None:
            scale, shift = (t.to(self.device) for t in self.affine)
            rows = torch.from_numpy(self.prompt_row[index]).to(self.device)
            return {**{k: v[rows] for k, v in self.prompts.items()}, 'pixel_values': pixels * scale + shift}
        images = (pixels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return dict(self.encoder.encode(list(images), [str(p) for p in self.dataset.prompts[index]]).to(self.device))

    def _tokenize_outputs(self) -> tuple[torch.Tensor, ...]:
        """Ids, mask, numbers and action part of every output, padded to the longest."""
        texts = []
        for row, (thought, action) in enumerate(zip(self.dataset.thoughts, self.dataset.actions)):
            try:
                texts.append(format_output(str(thought), str(action)))
            except ValueError as error:
                raise UserError(f'sample {row} of the demonstrations: {error}; record it again') from error
        encoded = self.encoder.tokenize_outputs(texts)
        length = max(len(tokens) for tokens, _ in encoded) + 1
        ids = np.full((len(texts), length), self.encoder.tokenizer.eos_token_id, np.int64)
        mask, in_action = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
        numbers = np.full(ids.shape, -1, np.int64)
        for row, ((tokens, ends), text) in enumerate(zip(encoded, texts)):
            ids[row, : len(tokens)], mask[row, : len(tokens) + 1] = tokens, True
            in_action[row, : len(tokens)] = np.array(ends) > text.rindex(SCAFFOLD[1]) + len(SCAFFOLD[1])
            for match in _NUMBER.finditer(text):
                numbers[row, np.searchsorted(ends, match.end())] = int(match[0])
        return tuple(torch.from_numpy(array) for array in (ids, mask, numbers, in_action))


def _encode_prompts(encoder: PromptEncoder, image: np.ndarray, prompts: np.ndarray) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` of prompts with an image, padded on the left to the longest.

    Some at a time: with each prompt the processor makes the pixels of an image, which nobody needs.
    """
    parts = [encoder.encode([image] * len(part), [str(p) for p in part])
             for part in np.split(prompts, range(_ENCODED_AT_ONCE, len(prompts), _ENCODED_AT_ONCE))]
    longest = max(part['input_ids'].shape[1] for part in parts)
    fill = {'input_ids': encoder.tokenizer.pad_token_id, 'attention_mask': 0}
    return {key: torch.cat([torch.nn.functional.pad(part[key], (longest - part[key].shape[1], 0), value=value)
                            for part in parts]) for key, value in fill.items()}


def _affine_normalisation(encoder: PromptEncoder, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Scale and shift by which the processor makes ``pixel_values`` of this size, if that is all it does."""
    probe = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    inputs = encoder.encode(list(probe), ['probe'])
    values = inputs['pixel_values']
    if set(inputs) != {'input_ids', 'attention_mask', 'pixel_values'}:
        return None
    pixels = torch.from_numpy(probe).permute(0, 3, 1, 2).float() / 255
    if values.shape != pixels.shape:
        return None
    scale = values.std(dim=(0, 2, 3)) / pixels.std(dim=(0, 2, 3))
    shift = values.mean(dim=(0, 2, 3)) - scale * pixels.mean(dim=(0, 2, 3))
    scale, shift = scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)
    return (scale, shift) if torch.allclose(pixels * scale + shift, values, atol=1e-3) else None
