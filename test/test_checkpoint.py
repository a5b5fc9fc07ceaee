"""Checkpoints: what is saved is what is loaded, bound to what it was trained with, and never half there."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.camera import Camera
from vlm_agent_ros.checkpoint import (
    find_policy,
    load_policy,
    open_checkpoint,
    policy_digest,
    restore_policy,
    save_checkpoint,
    weights_digest,
)
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.policy import Policy, PolicyInput
from vlm_agent_ros.policy.prompt import PromptTemplate

CAMERA = Camera(width=32, height=32, fov_deg=40.0, position=(1.0, 0.0, 0.8), target=(0.5, 0.0, 0.0))
RANK_2 = LoraSettings(rank=2)
INPUTS = [PolicyInput(np.random.default_rng(row).integers(0, 256, (32, 32, 3), np.uint8), f'task: {"x " * row}')
          for row in range(3)]


def trained(folder: Path, lora: LoraSettings | None = RANK_2) -> Policy:
    """A policy that has moved away from its base model."""
    config = ModelConfig(base=str(folder), prompt=PromptTemplate('task: {task}'), lora=lora, value_width=8,
                         decoding=Decoding(max_thought_chars=20, max_new_tokens=64))
    policy = Policy(config, SkillLanguage(48), torch.device('cpu'))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return policy


def decide(policy: Policy) -> list[tuple[object, ...]]:
    return [(d.text, d.token_logprobs.tolist(), d.value)
            for d in policy.decide(INPUTS, temperature=1.0, seeds=[1, 2, 3])]


@pytest.fixture
def checkpoint(tmp_path: Path, vlm_folder: Path) -> Path:
    path = tmp_path / 'step_000003'
    save_checkpoint(path, trained(vlm_folder), step=3, metrics={'success': 0.5}, camera=CAMERA,
                    tensors={'optimizer': {'0.exp_avg': torch.ones(2)}}, documents={'run_state': {'update': 3}})
    return path


@pytest.mark.parametrize('lora', [RANK_2, None])
def test_a_loaded_policy_decides_as_the_saved_one_to_the_bit(tmp_path, vlm_folder, lora):
    policy = trained(vlm_folder, lora)
    save_checkpoint(tmp_path / 'c', policy, step=1)
    assert decide(load_policy(str(tmp_path / 'c'))) == decide(policy) != decide(load_policy(str(vlm_folder)))


def test_a_policy_takes_the_weights_of_a_checkpoint_in_place(checkpoint, vlm_folder):
    policy = trained(vlm_folder)
    expected = decide(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    assert decide(policy) != expected
    restore_policy(open_checkpoint(checkpoint), policy)
    assert decide(policy) == expected


def test_the_manifest_says_what_it_is_and_what_the_trainer_added_comes_back(checkpoint):
    opened = open_checkpoint(checkpoint)
    assert {key: opened.fields[key] for key in ('step', 'metrics', 'camera')} == {
        'step': 3, 'metrics': {'success': 0.5}, 'camera': json.loads(json.dumps(dataclasses.asdict(CAMERA)))}
    assert opened.fields['versions']['torch'] == torch.__version__
    assert opened.document('run_state') == {'update': 3}
    assert torch.equal(opened.tensors('optimizer')['0.exp_avg'], torch.ones(2))


def test_the_adapter_loads_with_peft_alone(checkpoint, vlm_folder):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(vlm_folder), checkpoint)
    own = {name: p for name, p in trained(vlm_folder).model.named_parameters() if 'lora' in name}
    assert own and all(torch.equal(p, own[name]) for name, p in model.named_parameters() if 'lora' in name)


def test_constrained_decoding_can_be_switched_off_on_loading(checkpoint):
    assert load_policy(str(checkpoint), constrained=False).constraint.start() is None


def test_nothing_in_a_checkpoint_is_a_pickle(checkpoint):
    assert {file.suffix for file in checkpoint.iterdir()} == {'.json', '.safetensors'}


@pytest.mark.parametrize('name', ['adapter_model.safetensors', 'value_head.safetensors', 'optimizer.safetensors',
                                  'model.json', 'run_state.json', 'manifest.json'])
def test_one_wrong_byte_in_any_file_is_refused_by_name(checkpoint, name):
    file = checkpoint / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f'{name} .*corrupt'):
        load_policy(str(checkpoint))


@pytest.mark.parametrize('name', ['adapter_model.safetensors', 'value_head.safetensors', 'manifest.json'])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(UserError, match=f'{name} is missing'):
        open_checkpoint(checkpoint)


def test_another_grid_of_the_action_language_is_refused(checkpoint):
    with pytest.raises(UserError, match=r'48x48.*24x24'):
        load_policy(str(checkpoint), language=SkillLanguage(24))


def test_a_camera_that_sees_other_places_is_refused_where_it_is_deployed(checkpoint):
    load_policy(str(checkpoint), camera=CAMERA)
    load_policy(str(checkpoint), camera=dataclasses.replace(CAMERA, frame='another_name'))
    # The same geometry: a simulated lens distorts nothing.
    load_policy(str(checkpoint), camera=dataclasses.replace(CAMERA, rectified=True))
    with pytest.raises(UserError, match=r'camera\.fov_deg 40\.0.* 50\.0'):
        load_policy(str(checkpoint), camera=dataclasses.replace(CAMERA, fov_deg=50.0))


@pytest.mark.parametrize(('file', 'message'), [('model.safetensors', 'weights'), ('tokenizer.json', 'tokenizer'),
                                               ('chat_template.jinja', 'processor'),
                                               ('model.safetensors.index.json', 'weights')])
def test_a_base_model_that_has_changed_is_refused(tmp_path, vlm_folder, file, message):
    base = tmp_path / 'base'
    shutil.copytree(vlm_folder, base)
    (base / 'model.safetensors.index.json').write_text('{}')  # says which of several files holds a tensor
    save_checkpoint(tmp_path / 'c', trained(base), step=1)
    changed = tmp_path / 'changed'
    shutil.copytree(base, changed)
    (changed / file).write_bytes((changed / file).read_bytes() + b' ')
    policy = trained(vlm_folder)
    policy.config = dataclasses.replace(policy.config, base=str(changed))
    with pytest.raises(UserError, match=f'{message}.*{changed}|{changed}.*{message}'):
        restore_policy(open_checkpoint(tmp_path / 'c'), policy)


def test_a_base_model_that_is_gone_is_named(tmp_path, vlm_folder):
    base = tmp_path / 'base'
    shutil.copytree(vlm_folder, base)
    save_checkpoint(tmp_path / 'c', trained(base), step=1)
    shutil.rmtree(base)
    with pytest.raises(UserError, match=str(base)):
        load_policy(str(tmp_path / 'c'))


@pytest.mark.parametrize('name', ['model', './model', 'nobody/model'])
def test_a_base_model_that_neither_lies_here_nor_comes_from_the_hub_is_named(tmp_path, vlm_folder, monkeypatch, name):
    if name != 'nobody/model':
        shutil.copytree(vlm_folder, tmp_path / 'model')
        monkeypatch.chdir(tmp_path)
        save_checkpoint(tmp_path / 'c', trained(Path('model')), step=1)
        monkeypatch.chdir(tmp_path / 'c')  # what a relative path is relative to
    with pytest.raises(UserError, match=f'the base model {name} is no directory below .*connect to the hub$'):
        policy_digest(ModelConfig(base=name))
    if name == 'model':
        with pytest.raises(UserError, match='the base model model is no directory below'):
            load_policy(str(tmp_path / 'c'))


def test_a_base_model_that_was_exchanged_since_it_was_first_read_is_another_one(tmp_path, vlm_folder):
    base = Path(shutil.copytree(vlm_folder, tmp_path / 'base'))
    save_checkpoint(tmp_path / 'c', trained(base), step=1)
    weights = base / 'model.safetensors'
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights, metadata={'format': 'pt'})
    with pytest.raises(UserError, match='are not those that it was trained on'):
        load_policy(str(tmp_path / 'c'))


def test_a_folder_that_holds_no_model_is_told_apart_from_that_of_a_run(tmp_path, checkpoint):
    with pytest.raises(UserError, match='holds neither a checkpoint nor a model'):
        find_policy(str(tmp_path))
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    shutil.copytree(checkpoint, tmp_path / 'run' / 'checkpoints' / 'latest')
    with pytest.raises(UserError, match='is the folder of a run: give a checkpoint of it, such as '):
        find_policy(str(tmp_path / 'run'))


@pytest.mark.parametrize('changes', [{'rank': 3}, {'alpha': 33.0}, {'vision': False}, None])
def test_other_lora_settings_are_refused(checkpoint, vlm_folder, changes):
    bundle = open_checkpoint(checkpoint)
    other = None if changes is None else LoraSettings(**{**bundle.document('model')['lora'], **changes})
    with pytest.raises(UserError, match=r'it was trained with LoRA rank .*, the models file says .*: make them equal'):
        restore_policy(bundle, trained(vlm_folder, other))


@pytest.mark.parametrize(('changes', 'message'), [
    ({'quantization': '4bit'}, 'trained with quantization none, the models file says 4bit'),
    ({'chat_template': 'another'}, 'chat_template of the models file differs'),
])
def test_a_base_model_that_is_held_or_asked_otherwise_is_refused(checkpoint, vlm_folder, changes, message):
    policy = trained(vlm_folder)
    policy.config = dataclasses.replace(policy.config, **changes)
    with pytest.raises(UserError, match=message):
        restore_policy(open_checkpoint(checkpoint), policy)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_half_written(checkpoint, vlm_folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('safetensors.torch.save_file', full)
    with pytest.raises(UserError, match=r'step_000003 cannot be written .No space left'):
        save_checkpoint(checkpoint, trained(vlm_folder), step=4)
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_a_checkpoint_of_a_later_schema_is_refused(checkpoint):
    manifest = json.loads((checkpoint / 'manifest.json').read_text())
    (checkpoint / 'manifest.json').write_text(json.dumps({**manifest, 'schema': 99}))
    with pytest.raises(UserError, match='schema 99'):
        load_policy(str(checkpoint))


def test_the_digest_of_the_weights_is_that_of_what_decides_and_of_nothing_else(tmp_path, vlm_folder):
    policy = trained(vlm_folder)
    for step in (1, 2):
        save_checkpoint(tmp_path / str(step), policy, step=step, tensors={'optimizer': {'a': torch.full((2,), step)}})
    with torch.no_grad():
        policy.value_parameters()[0].add_(1.0)
    save_checkpoint(tmp_path / '3', policy, step=2)
    first, second, third = (weights_digest(str(tmp_path / name)) for name in ('1', '2', '3'))
    assert first == second
    assert len({first, third, weights_digest(str(vlm_folder))}) == 3


@pytest.mark.parametrize('change', [
    {'lora': LoraSettings(rank=2, alpha=64.0)}, {'prompt': PromptTemplate('task now: {task}')},
    {'decoding': Decoding(max_thought_chars=0, max_new_tokens=64)}, {'chat_template': '{{ messages }}'},
    {'decoding': Decoding(constrained=False, max_thought_chars=20, max_new_tokens=64)}])
def test_the_same_weights_that_would_act_otherwise_are_another_policy(tmp_path, vlm_folder, change):
    policy = trained(vlm_folder)
    save_checkpoint(tmp_path / '1', policy, step=1)
    policy.config = dataclasses.replace(policy.config, **change)
    save_checkpoint(tmp_path / '2', policy, step=1)
    assert weights_digest(str(tmp_path / '1')) == weights_digest(str(tmp_path / '2'))
    assert policy_digest(str(tmp_path / '1')) != policy_digest(str(tmp_path / '2'))


def test_another_tokenizer_is_another_policy_and_another_place_or_time_is_not(tmp_path, vlm_folder):
    for name in ('here', 'there', 'changed'):
        shutil.copytree(vlm_folder, tmp_path / name)
        (tmp_path / name / 'tokenizer.json').touch()
        save_checkpoint(tmp_path / f'{name}.checkpoint', trained(tmp_path / name), step=len(name))
    here, there = (policy_digest(str(tmp_path / name)) for name in ('here', 'there'))
    assert here == there
    (tmp_path / 'changed' / 'tokenizer.json').write_bytes((vlm_folder / 'tokenizer.json').read_bytes() + b' ')
    assert policy_digest(str(tmp_path / 'changed')) != here
    of_checkpoints = [policy_digest(str(tmp_path / f'{name}.checkpoint')) for name in ('here', 'there', 'changed')]
    assert of_checkpoints[0] == of_checkpoints[1] != of_checkpoints[2]
