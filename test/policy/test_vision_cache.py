"""The cache of a frozen vision tower: when it keeps what, and for how long; families are in test_families.py."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from training.config import TrainConfig
from training.rl.algorithms import Sample
from training.rl.learner import Learner
from vlm_agent_ros.policy.config import LoraSettings
from vlm_agent_ros.policy.vision_cache import VisionCache, cached_vision

FROZEN = LoraSettings(rank=4, vision=False)


class Tower(torch.nn.Module):
    """Counts the rows it computes."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.rows = []

    def forward(self, pixels, mask=None, layers=None):
        self.rows.append(len(pixels))
        hidden = self.scale * pixels.flatten(2) * (1.0 if mask is None else mask[:, :1, None])
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden.mean(1),
                                          hidden_states=None if layers is None else (None, hidden + layers))


class Model(torch.nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def get_encoder(self, modality=None):
        return self.tower if modality == 'image' else self


@pytest.fixture
def tower():
    return Tower()


@pytest.fixture
def images():
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def same(output, expected):
    assert type(output) is type(expected) and output.keys() == expected.keys()
    for own, other in zip(output.values(), expected.values()):
        if isinstance(other, tuple):
            assert own[0] is None and torch.equal(own[1], other[1])
        else:
            assert torch.equal(own, other)


def test_the_output_is_that_of_the_tower_for_any_mixture_of_known_and_new_images(tower, images):
    cache = VisionCache(tower, 2**20)
    for places in ([0, 1], [1, 0, 2], [3, 3, 0], [5], [4, 5, 0, 4]):
        same(cache.forward(images[places], layers=7), tower.forward(images[places], layers=7))
    assert sum(tower.rows[::2]) == 6


def test_whatever_else_the_output_depends_on_tells_images_apart(tower, images):
    cache = VisionCache(tower, 2**20)
    mask = torch.arange(6.0)[:, None] + 1.0
    for arguments in ({}, {'layers': 1}, {'layers': 2}, {'mask': mask}, {'mask': mask.flip(0)}):
        same(cache.forward(images, **arguments), tower.forward(images, **arguments))
    assert sum(tower.rows[::2]) == 5 * 6


def test_changed_weights_and_switched_adapters_are_not_answered_from_memory(make_policy, images):
    tower = Tower()
    cache = VisionCache(tower, 2**20)
    cache.forward(images)
    tower.scale.data = torch.tensor(3.0)
    same(cache.forward(images), tower.forward(images))
    with torch.no_grad():
        tower.scale.mul_(2.0)
    same(cache.forward(images), tower.forward(images))

    policy = make_policy()
    encoder = policy._base().get_encoder(modality='image')
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)  # adapters that are there, and rest
    pixels = torch.randn(2, 3, 32, 32)
    cache = VisionCache(encoder, 2**20)
    on = cache.forward(pixels).last_hidden_state
    with policy.reference():
        off = cache.forward(pixels).last_hidden_state
        torch.testing.assert_close(off, encoder(pixels).last_hidden_state)
    assert (on - off).abs().max() > 1e-3


def test_a_tower_whose_output_cannot_be_cut_into_images_computes_as_ever(images):
    class Joined(Tower):  # as Pixtral's: all patches in one row
        def forward(self, pixels, mask=None, layers=None):
            self.rows.append(len(pixels))
            return BaseModelOutputWithPooling(last_hidden_state=self.scale * pixels.reshape(1, -1, 3))

    tower = Joined()
    cache = VisionCache(tower, 2**20)
    for places in ([0], [0, 1], [1, 1]):  # of the first alone it could not be seen
        same(cache.forward(images[places]), tower.forward(images[places]))
    assert cache.size_bytes == 0 and tower.rows == [2, 1, 1, 2, 2, 2, 2]


def test_no_more_is_kept_than_the_limit_and_a_full_cache_keeps_what_it_has(tower, images):
    size = sum(value.nbytes for value in tower.forward(images[:1]).values())
    cache = VisionCache(tower, 2 * size + 1)
    same(cache.forward(images), tower.forward(images))
    assert cache.size_bytes == 2 * size
    tower.rows.clear()
    same(cache.forward(images), tower.forward(images))
    assert tower.rows == [4, 6] and cache.size_bytes == 2 * size


def test_a_trained_tower_is_left_alone(tower, images):
    tower.scale.requires_grad_(True)
    with cached_vision(Model(tower), 2**20):
        assert 'forward' not in vars(tower)
    tower.scale.requires_grad_(False)
    with cached_vision(Model(tower), 2**20):
        tower(images)
        tower.scale.requires_grad_(True)  # from here on gradients are wanted
        tower(images).last_hidden_state.sum().backward()
    assert tower.scale.grad is not None and tower.rows == [6, 6]


def test_the_tower_is_itself_again_afterwards_even_after_an_error(tower, images):
    model = Model(tower)
    with cached_vision(model, 0):
        assert 'forward' not in vars(tower)
    with pytest.raises(ZeroDivisionError), cached_vision(model, 2**20):
        assert 'forward' in vars(tower)
        raise ZeroDivisionError
    assert 'forward' not in vars(tower)
    tower.forward = own = tower.forward  # as accelerate's hooks do
    with cached_vision(model, 2**20):
        assert tower.forward != own
    assert tower.forward is own
    with cached_vision(torch.nn.Linear(2, 2), 2**20):  # knows of no encoder
        pass


def test_an_update_encodes_each_image_once_and_keeps_nothing_after_it(make_policy, inputs, monkeypatch):
    policy = make_policy(lora=FROZEN)
    tower = policy._base().get_encoder(modality='image')
    rows, caches = [], []
    patches = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d))
    patches.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    made = VisionCache.__init__
    monkeypatch.setattr(VisionCache, '__init__',
                        lambda cache, *arguments: (caches.append(weakref.ref(cache)), made(cache, *arguments))[1])
    decisions = policy.decide(inputs, temperature=1.0, seeds=range(len(inputs)))
    rows.clear()
    samples = [Sample(given, decision, advantage=(-1.0) ** row) for row, (given, decision)
               in enumerate(zip(inputs, decisions))]
    config = TrainConfig(epochs=3, minibatch_size=3, micro_batch_size=2, value_warmup_updates=0, kl_coef=0.1)
    Learner(policy, config, seed=0).update(samples, number=0, temperature=1.0, progress=0.0)
    assert sum(rows) == len(inputs)
    gc.collect()
    assert len(caches) == 1 and caches[0]() is None and 'forward' not in vars(tower)
