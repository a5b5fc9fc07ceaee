"""Grounding: each image token tells which object's centre lies in its patch, and in which cell of the grid.

The language model only learns to read coordinates once the image features hold them (a vision tower trained from
scratch through the language model alone does not get there); this auxiliary head puts them there and is thrown away.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vlm_agent_ros.errors import UserError


class GroundingHead(nn.Module):
    """A linear read-out of image features; its loss and its accuracy.

    Args:
        width: Features of an image token.
        classes: Object classes.
        grid: Cells per image side.
    """

    def __init__(self, width: int, classes: int, grid: int) -> None:
        super().__init__()
        self.classes, self.grid = classes, grid
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, classes + 2 * grid)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of presence (batch, patches, classes), column and row (batch, patches, grid)."""
        presence, column, row = self.read(self.norm(features)).split([self.classes, self.grid, self.grid], dim=-1)
        return presence, column, row

    def loss(self, features: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """Presence of every class in every patch, plus the cell of every visible object in its own patch.

        Args:
            features: (batch, patches, width); patches are a square of the whole image in row-major order.
            objects: (batch, objects, 4) as in ``DemonstrationDataset.objects``.
        """
        presence, column, row = self(features)
        sample, slot, patch = self._visible(objects, features.shape[1])
        found = objects[sample, slot]
        target = torch.zeros_like(presence)
        target[sample, patch, found[:, 0].long()] = 1.0
        count = max(len(found), 1)
        loss = binary_cross_entropy_with_logits(presence, target, reduction='sum') / count
        loss = loss + cross_entropy(column[sample, patch], self._soft_cell(found[:, 1]), reduction='sum') / count
        return loss + cross_entropy(row[sample, patch], self._soft_cell(found[:, 2]), reduction='sum') / count

    @torch.no_grad()
    def within_one_cell(self, features: torch.Tensor, objects: torch.Tensor) -> float:
        """Share of visible objects that the strongest patches of their class find, to a cell.

        As many patches as there are visible objects of the class; each names a cell, which is at most one off.
        """
        presence, column, row = self(features)
        sample, slot, _ = self._visible(objects, features.shape[1])
        found = objects[sample, slot]
        kind = found[:, 0].long()
        count = ((sample[:, None] == sample) & (kind[:, None] == kind)).sum(dim=1)
        most = int(count.max()) if len(count) else 1
        best = presence[sample, :, kind].topk(most).indices
        named = torch.stack([read[sample[:, None], best].argmax(dim=-1) for read in (column, row)], dim=-1)
        near = ((named - found[:, None, 1:3].floor()).abs() <= 1).all(dim=-1)
        within_count = torch.arange(most, device=near.device) < count[:, None]
        return float((near & within_count).any(dim=-1).float().mean())

    def _visible(self, objects: torch.Tensor, patches: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sample, slot and patch of every object that is in view."""
        side = math.isqrt(patches)
        if side * side != patches:
            raise UserError(f'grounding needs a square of image tokens, but the model has {patches}: '
                            'set vision.steps and grounding_weight to 0')
        inside = ((objects[..., 1:3] >= 0) & (objects[..., 1:3] < self.grid)).all(dim=-1)
        sample, slot = ((objects[..., 0] >= 0) & (objects[..., 3] > 0) & inside).nonzero(as_tuple=True)
        cell = (objects[sample, slot, 1:3] * side / self.grid).long()
        return sample, slot, cell[:, 1] * side + cell[:, 0]

    def _soft_cell(self, position: torch.Tensor) -> torch.Tensor:
        """Target distribution over cells about a fractional position: neighbours are nearly right."""
        centres = torch.arange(self.grid, device=position.device) + 0.5
        return torch.softmax(-((centres - position[:, None]) ** 2) / (2 * 0.7**2), dim=-1)
