"""Exported bundles: they stand alone, decide as what they came from, and are refused where they are not meant for."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.bundle import Bundle
from vlm_agent_ros.camera import Camera
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.checkpoint import load_policy, open_checkpoint, save_checkpoint, weights_digest
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.decider import find_release
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.int8 import Int8Linear, quantize
from vlm_agent_ros.policy.policy import Decision, Policy, PolicyInput
from vlm_agent_ros.policy.prompt import PromptTemplate
from vlm_agent_ros.release.export import export_checkpoint
from vlm_agent_ros.release.keys import load_private_key, make_keys
from vlm_agent_ros.release.trust import Trust, TrustedKeys

INPUTS = [PolicyInput(np.random.default_rng(row).integers(0, 256, (32, 32, 3), np.uint8), f'task: {"x " * row}')
          for row in range(2)]

CAMERA = Camera(width=32, height=32, fov_deg=40.0, position=(1.0, 0.0, 0.8), target=(0.5, 0.0, 0.0))


@pytest.fixture(scope='module')
def cell() -> Cell:
    return dataclasses.replace(load_cell('panda_table'), name='line3', camera=CAMERA)


@pytest.fixture(scope='module')
def keys(tmp_path_factory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp('keys') / 'line3')


@pytest.fixture(scope='module')
def base(tmp_path_factory, vlm_folder: Path) -> Path:
    """A base model that a test may take away."""
    folder = tmp_path_factory.mktemp('base') / 'vlm'
    shutil.copytree(vlm_folder, folder)
    return folder


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, base: Path, cell: Cell) -> Path:
    config = ModelConfig(base=str(base), prompt=PromptTemplate('task: {task}'), lora=LoraSettings(rank=2),
                         value_width=8, decoding=Decoding(max_thought_chars=20, max_new_tokens=64))
    policy = Policy(config, SkillLanguage(48), torch.device('cpu'))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    path = tmp_path_factory.mktemp('run') / 'step_000007'
    save_checkpoint(path, policy, step=7, metrics={'success': 0.9}, camera=cell.camera,
                    tensors={'optimizer': {'x': torch.ones(1)}}, documents={'run_state': {'update': 7}})
    return path


Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path, checkpoint: Path, cell: Cell, keys: tuple[Path, Path]) -> Export:
    def export(name: str = 'bundle', source: Path = checkpoint, **options: object) -> Path:
        export_checkpoint(tmp_path / name, str(source), cell, load_private_key(keys[0]), **options)
        return tmp_path / name
    return export


def decide(path: Path) -> list[Decision]:
    return load_policy(str(path)).decide(INPUTS, temperature=1.0, seeds=[1, 2])


def assert_same(decisions: list[Decision], others: list[Decision], tolerance: float) -> None:
    """Folded in once and saved, adapters give the last bit of a sum otherwise than folded in for each decision."""
    for one, other in zip(decisions, others):
        assert one.text == other.text
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=tolerance)
        assert one.value == pytest.approx(other.value, abs=tolerance)


def trusting(tmp_path: Path, *keys: Path) -> TrustedKeys:
    return TrustedKeys(Trust(tuple(str(key) for key in keys)), str(tmp_path / 'cell.yaml'))


@pytest.mark.parametrize(('merge', 'tolerance'), [(True, 1e-5), (False, 0.0)])
def test_a_bundle_decides_as_the_checkpoint_that_it_came_from(export, checkpoint, merge, tolerance):
    assert_same(decide(export(merge=merge)), decide(checkpoint), tolerance)


def test_a_merged_bundle_needs_neither_base_model_nor_checkpoint(export, checkpoint, base, tmp_path):
    expected, path = decide(checkpoint), export()
    moved = path.rename(tmp_path / 'at_the_cell')
    base.rename(base.with_name('gone'))
    try:
        assert_same(decide(moved), expected, 1e-5)
        with pytest.raises(UserError, match='is not there any more'):
            load_policy(str(checkpoint))
    finally:
        base.with_name('gone').rename(base)


def test_the_manifest_says_where_it_came_from_and_what_it_is_for(export, checkpoint):
    fields = open_checkpoint(export(dtype='int8')).fields
    assert {key: fields[key] for key in ('step', 'metrics', 'cell', 'dtype', 'merged', 'measured')} == {
        'step': 7, 'metrics': {'success': 0.9}, 'cell': 'line3', 'dtype': 'int8', 'merged': True, 'measured': None}
    assert fields['base_sha256'] == open_checkpoint(checkpoint).fields['base_sha256']
    assert fields['source']['weights_sha256'] == weights_digest(str(checkpoint))
    assert {'prompt_sha256', 'language_sha256', 'camera', 'versions'} <= fields.keys()


def test_an_adapter_bundle_leaves_the_state_of_the_training_behind(export):
    names = {path.name for path in export(merge=False).iterdir()}
    assert 'adapter_model.safetensors' in names
    assert not any('optimizer' in name or 'run_state' in name for name in names)


def test_weights_of_8_bits_are_held_as_such_and_decide_nearly_the_same(export):
    exact, small = export('exact'), export('small', dtype='int8')
    held = [tensor.dtype for tensor in open_checkpoint(small).tensors('model').values()]
    policy = load_policy(str(small), device='auto')
    layers = [module for module in policy.model.modules() if isinstance(module, Int8Linear)]
    assert held.count(torch.int8) == len(layers) > 10
    assert all(layer.weight.numel() == 0 for layer in layers)  # only the kernel's copy is left
    reference = load_policy(str(exact))
    written = reference.decide(INPUTS, temperature=1.0, greedy=True)
    rounded, true = (p.evaluate(INPUTS, written, 1.0).logprobs.detach() for p in (policy, reference))
    assert 0.0 < float((rounded - true).abs().mean()) < 0.2


def test_an_8_bit_layer_is_within_half_a_step_of_the_layer_that_it_came_from():
    linear = torch.nn.Linear(48, 24)
    layer = Int8Linear.of(linear)
    weights = layer.weight.float() * layer.weight_scale[:, None]
    assert bool(((weights - linear.weight).abs() <= 0.5001 * layer.weight_scale[:, None]).all())
    layer.pack()
    inputs = torch.randn(5, 48)
    with torch.no_grad():
        assert float((layer(inputs) - linear(inputs)).abs().max()) < 0.05


def test_layers_whose_weights_are_read_by_others_stay_as_they_are():
    """As in the pooling of SigLIP; such a bundle ended the first decision with a traceback."""
    attention, linear = torch.nn.MultiheadAttention(8, 2), torch.nn.Linear(8, 8)
    model = torch.nn.Sequential(attention, linear)
    model.config, model.get_output_embeddings = SimpleNamespace(), lambda: None
    values = torch.randn(3, 1, 8)
    before = attention(values, values, values)[0]
    quantize(model)
    assert type(model[1]) is Int8Linear
    torch.testing.assert_close(model[0](values, values, values)[0], before)


@pytest.mark.parametrize(('options', 'message'), [
    ({'merge': False, 'dtype': 'int8'}, 'leave out --adapter'), ({'source': 'int8'}, '8 bits already')])
def test_a_form_that_there_is_not_is_refused(export, options, message):
    if options.get('source') == 'int8':
        options = {'source': export('small', dtype='int8')}
    with pytest.raises(UserError, match=message):
        export('again', **options)


def test_a_cell_trusts_a_bundle_that_is_signed_with_a_key_that_it_names(export, keys, tmp_path):
    path = export()
    bundle = open_checkpoint(path)
    assert trusting(tmp_path, keys[1]).signer(bundle) is not None
    assert trusting(tmp_path, keys[1].parent).signer(bundle) is not None  # a folder of keys
    assert trusting(tmp_path).signer(bundle) is None  # a cell that trusts anyone


def test_an_unsigned_checkpoint_is_refused_where_a_key_is_named(checkpoint, keys, tmp_path):
    trust = trusting(tmp_path, keys[1])
    with pytest.raises(UserError, match=r'step_000007 is not signed.*vlm-agent export --key'):
        load_policy(str(checkpoint), trust=trust)
    with pytest.raises(UserError, match=r'tiny_vlm is no signed bundle'):
        load_policy('tiny_vlm', trust=trust)
    load_policy(str(checkpoint), trust=trusting(tmp_path))


def test_a_signature_of_somebody_else_or_of_something_else_is_refused(export, keys, tmp_path):
    path, other = export(), export('other', dtype='bfloat16')
    stranger = make_keys(tmp_path / 'stranger')[1]
    with pytest.raises(UserError, match=r'which is not among trust\.keys of .*cell\.yaml'):
        load_policy(str(path), trust=trusting(tmp_path, stranger))
    shutil.copy(other / 'manifest.sig', path / 'manifest.sig')
    with pytest.raises(UserError, match='is not the signature of this manifest'):
        load_policy(str(path), trust=trusting(tmp_path, keys[1]))


def test_a_manifest_rewritten_with_fitting_checksums_does_not_pass_the_signature(export, keys, tmp_path):
    from vlm_agent_ros.bundle import _render

    path = export()
    manifest = json.loads((path / 'manifest.json').read_text())
    del manifest['checksum']
    (path / 'manifest.json').write_text(_render({**manifest, 'metrics': {'success': 1.0}}))
    load_policy(str(path))
    with pytest.raises(UserError, match='is not the signature of this manifest'):
        load_policy(str(path), trust=trusting(tmp_path, keys[1]))


@pytest.mark.parametrize(('name', 'message'), [('nowhere.pub.pem', 'does not exist'), ('.', r'holds no \*\.pub\.pem')])
def test_a_cell_whose_keys_are_not_there_says_so(tmp_path, name, message):
    with pytest.raises(UserError, match=rf'cell\.yaml: trust\.keys .*{message}.*vlm-agent keygen'):
        trusting(tmp_path, tmp_path / name)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'camera': dataclasses.replace(CAMERA, fov_deg=50.0)}, r'camera\.fov_deg'), ({'grid': 24}, '24x24 grid')])
def test_a_bundle_for_another_camera_or_grid_is_refused(export, cell, changes, message):
    path, here = export(), dataclasses.replace(cell, **changes)
    with pytest.raises(UserError, match=message):
        load_policy(str(path), language=SkillLanguage(here.grid), camera=here.camera)


def test_another_prompt_than_it_was_trained_with_is_refused(export):
    with pytest.raises(UserError, match='prompt template differs'):
        load_policy(str(export()), prompt=PromptTemplate('something else: {task}'))


def plant(path: Path, what: str) -> None:
    if what == 'extra':
        (path / 'pytorch_model.bin').write_bytes(b'\x80\x04')
    elif what == 'folder':
        (path / 'more').mkdir()
    elif what == 'link':
        (path / 'config.json').rename(path.parent / 'config.json')
        os.symlink(path.parent / 'config.json', path / 'config.json')
    elif what == 'byte':
        content = bytearray((path / 'model.safetensors').read_bytes())
        content[-1] ^= 1
        (path / 'model.safetensors').write_bytes(content)


@pytest.mark.parametrize(('what', 'message'), [
    ('extra', r'pytorch_model\.bin is not in manifest\.json'), ('folder', 'more is no plain file'),
    ('link', r'config\.json is no plain file'), ('byte', r'model\.safetensors is corrupt')])
def test_a_bundle_that_was_changed_on_the_way_is_refused_before_anything_in_it_is_used(export, what, message):
    path = export()
    plant(path, what)
    with pytest.raises(UserError, match=message):
        load_policy(str(path))


def test_the_same_place_with_other_weights_is_another_release(export, tmp_path):
    cell = load_cell('panda_table')
    first, _ = find_release(str(export()), cell)
    assert find_release(str(export(dtype='bfloat16')), cell)[0].digest != first.digest
    (tmp_path / 'latest').symlink_to(tmp_path / 'bundle')
    assert find_release(str(tmp_path / 'latest'), cell)[0].model == str(tmp_path / 'bundle')


@pytest.mark.parametrize('merge', [True, False])
def test_what_takes_the_place_of_a_bundle_after_it_was_verified_is_not_loaded(export, checkpoint, cell, merge, tmp_path,
                                                                             monkeypatch):
    path, other = export(merge=merge), tmp_path / 'other'
    policy = load_policy(str(checkpoint))
    with torch.no_grad():
        policy.value_parameters()[0].add_(1.0)
    save_checkpoint(tmp_path / 'source', policy, step=8, camera=cell.camera)
    export('other', tmp_path / 'source', merge=merge)

    def verified_then_exchanged(folder: Path) -> Bundle:
        bundle = open_checkpoint(folder)
        shutil.rmtree(path)
        shutil.copytree(other, path)
        return bundle
    monkeypatch.setattr('vlm_agent_ros.checkpoint.open_checkpoint', verified_then_exchanged)
    with pytest.raises(UserError, match=r'bundle/\S+ has changed since it was verified'):
        load_policy(str(path))


def test_files_that_are_exchanged_while_a_library_reads_them_are_not_what_is_loaded(export, base, keys, tmp_path,
                                                                                    monkeypatch):
    """The whole model of a merged bundle; of an adapter the base, which its manifest names by digest."""
    merged, adapter = export('merged'), export('adapter', merge=False)
    expected = {path: decide(path)[0].text for path in (merged, adapter)}

    files = {file: file.read_bytes() for file in (merged / 'model.safetensors', base / 'model.safetensors')}

    def exchanged_then_read(*arguments: object) -> Policy:
        for file, content in files.items():
            file.write_bytes(bytes(len(content)))
        try:
            return Policy(*arguments)
        finally:
            for file, content in files.items():
                file.write_bytes(content)
    monkeypatch.setattr('vlm_agent_ros.checkpoint.Policy', exchanged_then_read)
    for path, text in expected.items():
        policy = load_policy(str(path), trust=trusting(tmp_path, keys[1]))
        assert policy.decide(INPUTS, temperature=1.0, seeds=[1, 2])[0].text == text
