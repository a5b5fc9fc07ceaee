"""Bundles survive the moments between two renames, and carry nothing but tensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.optimizer_state import join_state, split_state
from vlm_agent_ros.bundle import _render, is_bundle, read_bundle, write_bundle
from vlm_agent_ros.errors import UserError


def write(path: Path, number: int) -> None:
    write_bundle(path, 'thing', {'number': number}, tensors={'values': {'x': torch.tensor([number])}}, documents={})


def number_in(path: Path) -> int:
    bundle = read_bundle(path, 'thing')
    assert bundle.tensors('values')['x'].tolist() == [bundle.fields['number']]
    return int(bundle.fields['number'])


def test_a_new_bundle_replaces_the_old_one(tmp_path):
    write(tmp_path / 'b', 1)
    write(tmp_path / 'b', 2)
    assert number_in(tmp_path / 'b') == 2
    assert [path.name for path in tmp_path.iterdir()] == ['b']


def test_a_process_killed_between_the_renames_loses_nothing(tmp_path):
    write(tmp_path / 'b', 1)
    (tmp_path / 'b').rename(tmp_path / '.b.old')
    (tmp_path / '.b.tmp').mkdir()
    assert number_in(tmp_path / 'b') == 1 and is_bundle(tmp_path / 'b', 'thing')
    write(tmp_path / 'b', 2)
    assert number_in(tmp_path / 'b') == 2
    assert [path.name for path in tmp_path.iterdir()] == ['b']


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    write(tmp_path / 'b', 1)
    with pytest.raises(UserError, match=r'manifest\.json is not the manifest of a checkpoint'):
        read_bundle(tmp_path / 'b', 'checkpoint')


@pytest.mark.parametrize('make', [torch.optim.Adam, torch.optim.AdamW])
def test_the_state_of_an_optimiser_comes_back_to_the_bit(tmp_path, make):
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
    optimizer = make(parameters, lr=0.1)
    sum(p.square().sum() for p in parameters).backward()
    optimizer.step()
    tensors, rest = split_state(optimizer.state_dict())
    write_bundle(tmp_path / 'b', 'thing', {}, tensors={'optimizer': tensors}, documents={'optimizer': rest})
    bundle = read_bundle(tmp_path / 'b', 'thing')
    state, expected = join_state(bundle.tensors('optimizer'), bundle.document('optimizer')), optimizer.state_dict()
    assert state['param_groups'] == expected['param_groups']
    for i, quantities in expected['state'].items():
        assert all(torch.equal(state['state'][i][key], value) for key, value in quantities.items())


@pytest.mark.parametrize('name', ['../b/values.safetensors', '/etc/hostname', 'values/../values.safetensors', '', '.',
                                  '..', 'manifest.json'])
def test_a_manifest_that_leads_out_of_the_bundle_is_refused(tmp_path, name):
    write(tmp_path / 'b', 1)
    manifest = json.loads((tmp_path / 'b' / 'manifest.json').read_text())
    del manifest['checksum']
    (tmp_path / 'b' / 'manifest.json').write_text(_render({**manifest, 'files': {**manifest['files'], name: '0'}}))
    with pytest.raises(UserError, match=r'manifest\.json names the file .* lies elsewhere'):
        read_bundle(tmp_path / 'b', 'thing')


@pytest.mark.parametrize('name', ['more.json', 'weights.bin', '.hidden'])
def test_a_file_that_the_manifest_does_not_vouch_for_is_refused(tmp_path, name):
    write(tmp_path / 'b', 1)
    (tmp_path / 'b' / name).write_text('{}')
    with pytest.raises(UserError, match=rf'{name} is not in manifest\.json'):
        read_bundle(tmp_path / 'b', 'thing')
