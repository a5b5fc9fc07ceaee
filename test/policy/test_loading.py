"""Base models from disk: each kind of wrong directory ends in a sentence that names it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.config import resource_root
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import LoraSettings, ModelConfig, load_model_config
from vlm_agent_ros.policy.loading import add_lora, load_base, select_device
from vlm_agent_ros.policy.merged_lora import MergedLora
from vlm_agent_ros.policy.policy import Policy

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


def test_a_model_with_a_decoder_of_its_own_is_refused_before_it_decides(tmp_path):
    from transformers import VisionEncoderDecoderConfig

    small = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    VisionEncoderDecoderConfig(encoder={'model_type': 'vit', **small}, decoder={'model_type': 'bert', **small}
                               ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match='writes with a decoder of its own: choose one that'):
        load_base(ModelConfig(base=str(tmp_path)), CPU)


def test_a_model_that_does_not_say_how_it_writes_is_refused(tmp_path):
    from transformers import BlipConfig, BlipForConditionalGeneration

    small = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    text, vision = {'vocab_size': 32, 'encoder_hidden_size': 16, **small}, {'image_size': 28, 'patch_size': 14, **small}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match='does not say by which layer it writes'):
        load_base(ModelConfig(base=str(tmp_path)), CPU)


def test_a_package_that_a_model_needs_is_told_apart_from_a_damaged_directory(tmp_path, vlm_folder, monkeypatch):
    from transformers import AutoProcessor

    def load(path):
        raise ImportError('\nThis requires the Torchvision library but it was not found. Check out the instructions\n')

    monkeypatch.setattr(AutoProcessor, 'from_pretrained', load)
    with pytest.raises(UserError, match=r'not installed \(This requires the Torchvision .* not found\): install it$'):
        load_base(ModelConfig(base=str(vlm_folder)), CPU)


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


@pytest.mark.parametrize('template', [
    "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}",
    "{% for m in messages %}<image>{{ m['content'] | string }}{% endfor %}",
    '<image> describe it',
])
def test_a_chat_template_that_shows_no_image_or_not_the_text_is_refused(vlm_folder, template):
    with pytest.raises(UserError, match=r'no chat template for one image and one text .* models file'):
        Policy(ModelConfig(base=str(vlm_folder), chat_template=template), SkillLanguage(48), CPU)


def test_a_tokenizer_that_knows_no_end_of_a_text_is_refused(tmp_path, vlm_folder):
    folder = tmp_path / 'model'
    shutil.copytree(vlm_folder, folder)
    settings = json.loads((folder / 'tokenizer_config.json').read_text(encoding='utf-8'))
    del settings['eos_token']
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings), encoding='utf-8')
    with pytest.raises(UserError, match='eos_token'):
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


@pytest.fixture
def lora_layers(vlm_folder):
    """A model with adapters that are no longer at their initial zeros, and its LoRA layers."""
    model = add_lora(load_base(ModelConfig(base=str(vlm_folder)), CPU)[0], LoraSettings(rank=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    return model, [module for module in model.modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize('weight', [torch.zeros(8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.bfloat16)])
def test_adapters_are_never_folded_into_weights_of_few_bits(lora_layers, weight):
    model, (first, second, *_) = lora_layers
    first.get_base_layer().weight = torch.nn.Parameter(weight, requires_grad=False)
    with MergedLora(model)():
        assert not first.merged and second.merged
    assert torch.equal(first.get_base_layer().weight, weight) and not second.merged


def test_folded_weights_compute_what_the_adapters_compute_and_follow_every_change_of_them(lora_layers):
    model, (layer, *_) = lora_layers
    merged, base, given = MergedLora(model), layer.get_base_layer().weight.detach().clone(), torch.randn(3, 128)
    given = given[:, :layer.in_features]
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    seen = []
    for _ in range(3):
        expected = layer(given)
        with merged(), torch.no_grad():
            assert layer.merged and not torch.equal(layer.get_base_layer().weight, base)
            torch.testing.assert_close(layer(given), expected)
            again = layer.get_base_layer().weight.data_ptr()
        with merged():
            assert layer.get_base_layer().weight.data_ptr() == again  # not folded anew
        assert torch.equal(layer.get_base_layer().weight, base) and not layer.merged
        seen.append(expected.detach())
        expected.square().sum().backward()
        optimizer.step()
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_an_adapter_that_is_switched_off_is_not_folded(lora_layers):
    model, (layer, *_) = lora_layers
    merged, given = MergedLora(model), torch.ones(1, layer.in_features)
    with merged():
        pass
    with model.disable_adapter(), torch.no_grad():
        plain = layer(given)
        with merged():
            assert torch.equal(layer(given), plain)
    assert not torch.equal(layer(given), plain)
