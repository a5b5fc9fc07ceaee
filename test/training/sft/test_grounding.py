"""Grounding labels and photometric augmentation: positions mean what they say, and stay true."""

from __future__ import annotations

import pytest
import torch

from training.sft.augment import Augmentation, augment
from training.sft.grounding import GroundingHead
from vlm_agent_ros.errors import UserError

OBJECTS = torch.tensor([[[1, 13.5, 40.5, 1], [0, 2.5, 2.5, 1], [-1, -1, -1, -1], [0, 60.0, 5.0, 1]]])


def features_of(*objects):
    """A head that reads features as they are, and features that say class, column and row in the patch of an object."""
    head = GroundingHead(2 + 2 * 48, 2, 48)
    head.norm = torch.nn.Identity()
    with torch.no_grad():
        head.read.weight.copy_(torch.eye(98))
        head.read.bias.zero_()
    features = torch.full((1, 64, 98), -20.0)
    for kind, column, row in objects:
        patch = (row * 8 // 48) * 8 + column * 8 // 48
        features[0, patch, [kind, 2 + column, 50 + row]] = 20.0
    return head, features


def test_features_that_say_class_and_cell_in_the_right_patch_are_recognised_as_such():
    head, features = features_of((1, 13, 40), (0, 2, 2))
    assert head.within_one_cell(features, OBJECTS) == 1.0
    assert head.loss(features, OBJECTS) < head.loss(torch.zeros_like(features), OBJECTS)
    transposed = features.view(1, 8, 8, 98).transpose(1, 2).reshape(1, 64, 98)
    assert head.loss(transposed, OBJECTS) > head.loss(features, OBJECTS)
    assert head.within_one_cell(features.roll(12, dims=2), OBJECTS) < 1.0


def test_each_of_several_objects_of_one_class_counts_as_found_where_it_is():
    objects = torch.tensor([[[0, 13.5, 40.5, 1], [0, 2.5, 2.5, 1], [1, 30.5, 20.5, 1]]])
    head, features = features_of((0, 13, 40), (0, 2, 2), (1, 30, 20))
    assert head.within_one_cell(features, objects) == 1.0
    head, features = features_of((0, 13, 40), (1, 30, 20))
    assert head.within_one_cell(features, objects) == pytest.approx(2 / 3)


def test_the_head_learns_from_its_loss():
    torch.manual_seed(0)
    head, features = GroundingHead(16, 2, 48), torch.randn(1, 64, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    first = head.loss(features, OBJECTS).item()
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(features, OBJECTS).backward()
        optimizer.step()
    assert head.loss(features, OBJECTS).item() < first / 3
    assert head.within_one_cell(features, OBJECTS) == 1.0


def test_a_scene_without_objects_has_a_finite_loss():
    assert torch.isfinite(GroundingHead(16, 2, 48).loss(torch.randn(1, 64, 16), torch.full((1, 2, 4), -1.0)))


def test_image_tokens_that_are_no_square_are_refused():
    with pytest.raises(UserError, match='grounding_weight'):
        GroundingHead(16, 2, 48).loss(torch.randn(1, 60, 16), OBJECTS)


def test_augmentation_changes_light_but_moves_nothing():
    images = torch.zeros(8, 3, 16, 16)
    images[:, :, 4:8, 10:14] = 0.6
    changed = augment(images, Augmentation(noise=0.0), torch.Generator().manual_seed(0))
    assert not torch.equal(changed, images) and changed.min() >= 0 and changed.max() <= 1
    bright = changed.mean(dim=1) - changed.mean(dim=1).amin(dim=(1, 2), keepdim=True)
    positions = torch.arange(16.0)
    for axis, centre in ((2, 5.5), (1, 11.5)):
        profile = bright.sum(dim=axis)
        torch.testing.assert_close((profile * positions).sum(1) / profile.sum(1), torch.full((8,), centre), atol=1e-3,
                                   rtol=0)


def test_augmentation_depends_on_its_generator_alone_and_can_be_off():
    images = torch.rand(2, 3, 8, 8)
    once, again = (augment(images, Augmentation(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(once, again)
    off = Augmentation(brightness=0.0, contrast=0.0, colour_gain=0.0, noise=0.0, blur=0.0)
    torch.testing.assert_close(augment(images, off, torch.Generator()), images)
