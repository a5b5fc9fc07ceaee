"""Base models from disk: each kind of wrong directory ends in a sentence that names it."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.config import resource_root
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import LoraSettings, ModelConfig, load_model_config
from vlm_agent_ros.policy.loading import add_lora, load_base, merged_lora, select_device

CPU = torch.device('cpu')


def test_a_model_directory_serves_as_it_is(vlm_folder, inputs):
    policy = load_policy(str(vlm_folder))
    assert not policy.model.training
    assert policy.decide(inputs[:1], temperature=1.0, seeds=[0])[0].token_ids.size


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match='nowhere'):
        load_base(ModelConfig(base=str(tmp_path / 'nowhere')), CPU)
    with pytest.raises(UserError, match='nowhere'):
        load_policy(str(tmp_path / 'nowhere'))


def test_a_name_that_is_not_shipped_lists_those_that_are():
    with pytest.raises(UserError, match='tiny_vlm'):
        load_policy('no_such_model')


def test_a_language_model_is_refused_because_it_sees_nothing(tmp_path, vlm_folder):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                 num_attention_heads=2)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(vlm_folder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match='llama model, which is no vision-language model'):
        load_base(ModelConfig(base=str(tmp_path)), CPU)


@pytest.mark.parametrize('file', ['model.safetensors', 'config.json', 'processor_config.json', 'tokenizer.json'])
def test_an_incomplete_or_damaged_directory_is_named(tmp_path, vlm_folder, file):
    folder = tmp_path / 'model'
    shutil.copytree(vlm_folder, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:50])
    with pytest.raises(UserError, match=str(folder)) as caught:
        load_base(ModelConfig(base=str(folder)), CPU)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda tensors: tensors.popitem(), 'lack'),
    (lambda tensors: tensors.update({name: value[..., :3] for name, value in tensors.items()}), 'another shape'),
])
def test_weights_that_do_not_fit_are_no_random_model(tmp_path, vlm_folder, change, message, capfd):
    folder = tmp_path / 'model'
    shutil.copytree(vlm_folder, folder)
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / 'model.safetensors',
              metadata={'format': 'pt'})
    with pytest.raises(UserError, match=f'the weights .*{message}'):
        load_base(ModelConfig(base=str(folder)), CPU)
    assert capfd.readouterr() == ('', '')


def test_a_model_without_a_chat_template_is_refused(tmp_path, vlm_folder):
    folder = tmp_path / 'model'
    shutil.copytree(vlm_folder, folder)
    (folder / 'chat_template.jinja').unlink()
    with pytest.raises(UserError, match='chat template'):
        load_policy(str(folder))


def test_a_device_that_does_not_exist_is_refused():
    assert select_device('cpu') == CPU
    with pytest.raises(UserError, match='device'):
        select_device('abacus')
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match='GPU'):
            select_device('cuda')


HUB_MODELS = sorted(path.stem for path in (resource_root() / 'config' / 'models').glob('*.yaml')
                    if not path.stem.startswith('tiny_vlm'))


@pytest.mark.parametrize('name', HUB_MODELS)
def test_a_shipped_models_file_names_a_model_of_the_hub(name):
    config = load_model_config(name)
    assert config.base_path == config.base and re.fullmatch(r'[\w-]+/[\w.-]+', config.base)
    assert config.lora is not None and config.decoding.constrained and config.dtype == 'bfloat16'


def test_families_of_every_kind_are_shipped():
    assert len(HUB_MODELS) >= 6


def test_a_chat_template_of_the_models_file_serves_a_model_without_one(tmp_path, vlm_folder):
    folder = tmp_path / 'model'
    shutil.copytree(vlm_folder, folder)
    (folder / 'chat_template.jinja').unlink()
    template = load_model_config('paligemma_3b').chat_template
    _, processor = load_base(ModelConfig(base=str(folder), chat_template=template), CPU)
    content = [{'type': 'image'}, {'type': 'text', 'text': 'pick it'}]
    assert processor.apply_chat_template([{'role': 'user', 'content': content}]) == '<image>pick it'


def test_four_bits_without_their_library_or_a_gpu_are_refused_with_the_remedy(vlm_folder):
    with pytest.raises(UserError, match='pip install bitsandbytes, or set quantization to none'):
        load_base(ModelConfig(base=str(vlm_folder), quantization='4bit'), CPU)
    with pytest.raises(UserError, match='add lora to the models file'):
        ModelConfig(base=str(vlm_folder), quantization='4bit', lora=None)


def test_adapters_are_never_folded_into_quantized_weights(vlm_folder):
    model = add_lora(load_base(ModelConfig(base=str(vlm_folder)), CPU)[0], LoraSettings(rank=2))
    first, second = [module for module in model.modules() if isinstance(module, LoraLayer)][:2]
    packed = torch.zeros(8, dtype=torch.uint8)  # as bitsandbytes holds them
    first.get_base_layer().weight = torch.nn.Parameter(packed, requires_grad=False)
    with merged_lora(model):
        assert not first.merged and second.merged
    assert torch.equal(first.get_base_layer().weight, packed) and not second.merged
