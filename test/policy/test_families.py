"""Families of models, tiny and untrained: load, LoRA, rollout, update, save and load again, without a special case.

They differ where it hurts: PaliGemma and Gemma 3 let tokens of the prompt see each other in both directions and mark
them by token types; Idefics3 (SmolVLM) frames the image with tokens of its own and takes several crops; Qwen2.5-VL has
positions in three axes and images of any size in one flat batch; Gemma 3 has layers that see a window only; processors
of Qwen2.5-VL and InternVL also take videos, for which torchvision would be needed, and those of SmolVLM2 and Gemma 4
cannot be made without it; Mllama looks at the image across, through a mask of every token; Qwen3.5 remembers in a state
instead of keys and values.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.config import TrainConfig
from training.rl.algorithms import Sample
from training.rl.learner import Learner
from training.sft.tiny_vlm import CHAT_TEMPLATE, build_tokenizer
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.checkpoint import load_policy, save_checkpoint
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.loading import NoVideo, without_video
from vlm_agent_ros.policy.policy import Policy

LAYERS = {'hidden_size': 32, 'intermediate_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2}
SPECIALS = {'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2}


def paligemma() -> tuple[Any, Any]:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={'height': 56, 'width': 56})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=build_tokenizer(768), chat_template=CHAT_TEMPLATE)
    vision = {'model_type': 'siglip_vision_model', 'image_size': 56, 'patch_size': 14, 'projection_dim': 32, **LAYERS}
    text = {'model_type': 'gemma', 'vocab_size': len(processor.tokenizer), 'num_key_value_heads': 1, 'head_dim': 16,
            **LAYERS, **SPECIALS}
    config = PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=32, hidden_size=32,
                             image_token_index=processor.tokenizer.convert_tokens_to_ids('<image>'))
    return PaliGemmaForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    side = {'longest_edge': 56}
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False),
        tokenizer=build_tokenizer(768), image_seq_len=4, chat_template=CHAT_TEMPLATE)
    config = Idefics3Config(
        vision_config={'image_size': 56, 'patch_size': 14, **LAYERS}, scale_factor=2, pad_token_id=0,
        text_config={'model_type': 'llama', 'vocab_size': len(processor.tokenizer), **LAYERS, **SPECIALS},
        image_token_id=processor.tokenizer.convert_tokens_to_ids('<image>'))
    return Idefics3ForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    side = {'height': 56, 'width': 56}
    images = CLIPImageProcessorPil(size=side, crop_size=side)
    processor = LlavaProcessor(image_processor=images, tokenizer=build_tokenizer(768), patch_size=14,
                               vision_feature_select_strategy='default', num_additional_image_tokens=1,
                               chat_template=CHAT_TEMPLATE)
    vision = {'model_type': 'clip_vision_model', 'image_size': 56, 'patch_size': 14, 'projection_dim': 32, **LAYERS}
    text = {'model_type': 'llama', 'vocab_size': len(processor.tokenizer), **LAYERS, **SPECIALS}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=_image_token(processor.tokenizer))
    return LlavaForConditionalGeneration(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    names = {'vision_start_token': '<|vision_start|>', 'vision_end_token': '<|vision_end|>',
             'video_token': '<|video_pad|>'}
    tokenizer = _tokenizer(**names)
    template = CHAT_TEMPLATE.replace('<image>', '<|vision_start|><image><|vision_end|>')
    images = Qwen2VLImageProcessorPil(size={'shortest_edge': 28 * 28, 'longest_edge': 56 * 56})
    processor = without_video(Qwen2_5_VLProcessor)(
        image_processor=images, tokenizer=tokenizer, video_processor=NoVideo(), chat_template=template)
    vision = {'depth': 2, 'hidden_size': 32, 'intermediate_size': 32, 'num_heads': 2, 'out_hidden_size': 32,
              'fullatt_block_indexes': [1], 'window_size': 28}
    text = {'vocab_size': len(tokenizer), 'num_key_value_heads': 1, **LAYERS, **SPECIALS,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [2, 3, 3]}}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, image_token_id=_image_token(tokenizer),
                              **{f'{key}_id': tokenizer.convert_tokens_to_ids(name) for key, name in names.items()})
    return Qwen2_5_VLForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = _tokenizer(boi_token='<start_of_image>', eoi_token='<end_of_image>')
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={'height': 56, 'width': 56}), tokenizer=tokenizer,
        image_seq_length=4, chat_template=CHAT_TEMPLATE.replace('<image>', '<start_of_image>'))
    vision = {'model_type': 'siglip_vision_model', 'image_size': 56, 'patch_size': 14, **LAYERS}
    text = {'vocab_size': len(tokenizer), 'num_key_value_heads': 1, 'head_dim': 16, 'sliding_window': 16,
            'layer_types': ['sliding_attention', 'full_attention'], **LAYERS, **SPECIALS}
    config = Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=4,
                          image_token_index=_image_token(tokenizer), boi_token_index=tokenizer.boi_token_id,
                          eoi_token_index=tokenizer.eoi_token_id)
    return Gemma3ForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = _tokenizer(start_image_token='<img>', end_image_token='</img>', context_image_token='<image>',
                           video_token='<video>')
    images = GotOcr2ImageProcessorPil(size={'height': 56, 'width': 56}, crop_to_patches=False)
    processor = without_video(InternVLProcessor)(image_processor=images, tokenizer=tokenizer, image_seq_length=4,
                                             video_processor=NoVideo(), chat_template=CHAT_TEMPLATE)
    vision = {'image_size': [56, 56], 'patch_size': [14, 14], **LAYERS}
    text = {'model_type': 'qwen2', 'vocab_size': len(tokenizer), 'num_key_value_heads': 1, **LAYERS, **SPECIALS}
    config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=_image_token(tokenizer),
                            image_seq_length=4)
    return InternVLForConditionalGeneration(config), processor


def smolvlm2() -> tuple[Any, Any]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm import processing_smolvlm
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    processing_smolvlm.num2words = processing_smolvlm.num2words or str  # a package that only videos need
    side, tokenizer = {'longest_edge': 56}, build_tokenizer(768)
    processor = without_video(processing_smolvlm.SmolVLMProcessor)(
        image_processor=SmolVLMImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False),
        tokenizer=tokenizer, video_processor=NoVideo(), image_seq_len=4, chat_template=CHAT_TEMPLATE)
    config = SmolVLMConfig(
        vision_config={'image_size': 56, 'patch_size': 14, **LAYERS}, scale_factor=2, pad_token_id=0,
        text_config={'model_type': 'llama', 'vocab_size': len(tokenizer), **LAYERS, **SPECIALS},
        image_token_id=_image_token(tokenizer))
    return SmolVLMForConditionalGeneration(config), processor


def gemma4() -> tuple[Any, Any]:
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4Processor
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    tokenizer = _tokenizer(boi_token='<boi>', eoi_token='<eoi>', audio_token='<audio>', boa_token='<boa>',
                           eoa_token='<eoa>', video_token='<|video|>')
    processor = without_video(Gemma4Processor)(
        feature_extractor=Gemma4AudioFeatureExtractor(), video_processor=NoVideo(), tokenizer=tokenizer,
        image_processor=Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3),
        chat_template=CHAT_TEMPLATE)
    vision = {'num_key_value_heads': 2, 'head_dim': 16, 'patch_size': 4, 'position_embedding_size': 64, **LAYERS}
    text = {'vocab_size': len(tokenizer), 'num_key_value_heads': 1, 'head_dim': 16, 'global_head_dim': 16,
            'sliding_window': 16, 'use_bidirectional_attention': 'vision', 'num_kv_shared_layers': 0,
            'layer_types': ['sliding_attention', 'full_attention'], 'hidden_size_per_layer_input': 8,
            'vocab_size_per_layer_input': len(tokenizer), **LAYERS, **SPECIALS}
    ids = {'boi_token_id': '<boi>', 'eoi_token_id': '<eoi>', 'image_token_id': '<image>', 'video_token_id': '<|video|>',
           'boa_token_id': '<boa>', 'eoa_token_index': '<eoa>', 'audio_token_id': '<audio>'}
    config = Gemma4Config(vision_config=vision, text_config=text, audio_config=None,
                          **{key: tokenizer.convert_tokens_to_ids(token) for key, token in ids.items()})
    return Gemma4ForConditionalGeneration(config), processor


def mllama() -> tuple[Any, Any]:
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    tokenizer = _tokenizer(python='<|python_tag|>')
    images = MllamaImageProcessorPil(size={'height': 28, 'width': 28}, max_image_tiles=4)
    processor = MllamaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)
    vision = {'hidden_size': 32, 'intermediate_size': 32, 'num_hidden_layers': 2, 'num_global_layers': 1,
              'attention_heads': 2, 'vision_output_dim': 64, 'image_size': 28, 'patch_size': 14,
              'intermediate_layers_indices': [0]}
    text = {'vocab_size': len(tokenizer), 'num_key_value_heads': 1, 'cross_attention_layers': [1],
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4}, **LAYERS, **SPECIALS,
            'num_hidden_layers': 3}
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=_image_token(tokenizer))
    return MllamaForConditionalGeneration(config), processor


def qwen3_5() -> tuple[Any, Any]:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    names = {'vision_start_token': '<|vision_start|>', 'vision_end_token': '<|vision_end|>',
             'video_token': '<|video_pad|>'}
    tokenizer = _tokenizer(**names)
    images = Qwen2VLImageProcessorPil(size={'shortest_edge': 32 * 32, 'longest_edge': 64 * 64}, patch_size=16)
    processor = without_video(Qwen3VLProcessor)(
        image_processor=images, tokenizer=tokenizer, video_processor=NoVideo(),
        chat_template=CHAT_TEMPLATE.replace('<image>', '<|vision_start|><image><|vision_end|>'))
    vision = {'depth': 2, 'hidden_size': 32, 'intermediate_size': 32, 'num_heads': 2, 'out_hidden_size': 32,
              'num_position_embeddings': 16}
    text = {'vocab_size': len(tokenizer), 'num_key_value_heads': 1, 'head_dim': 32, 'linear_key_head_dim': 16,
            'linear_value_head_dim': 16, 'linear_num_key_heads': 2, 'linear_num_value_heads': 4,
            'layer_types': ['linear_attention', 'full_attention'], **LAYERS, **SPECIALS,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [1, 1, 2],
                                'mrope_interleaved': True, 'partial_rotary_factor': 0.25}}
    config = Qwen3_5Config(vision_config=vision, text_config=text, image_token_id=_image_token(tokenizer),
                           **{f'{key}_id': tokenizer.convert_tokens_to_ids(name) for key, name in names.items()})
    return Qwen3_5ForConditionalGeneration(config), processor


def _tokenizer(**names: str) -> Any:
    """The small VLM's tokenizer with more special tokens, by the names that a processor knows them by."""
    from transformers import PreTrainedTokenizerFast

    own = build_tokenizer(768)
    return PreTrainedTokenizerFast(
        tokenizer_object=own.backend_tokenizer, extra_special_tokens={'image_token': '<image>', **names},
        clean_up_tokenization_spaces=False, **own.special_tokens_map)


def _image_token(tokenizer: Any) -> int:
    return tokenizer.convert_tokens_to_ids('<image>')


FAMILIES = [llava, paligemma, idefics3, qwen2_5_vl, gemma3, internvl]
# Whose prompts are not read once for several outputs, or whose images are encoded in every epoch: right, and slower.
PLAIN_FAMILIES = [smolvlm2, gemma4, mllama, qwen3_5]
of_every_family = pytest.mark.parametrize('config', FAMILIES + PLAIN_FAMILIES, indirect=True,
                                          ids=lambda family: family.__name__)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ModelConfig:
    """A models file's content for a family, whose weights have clear preferences."""
    torch.manual_seed(0)
    model, processor = request.param()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / 'base')
    processor.save_pretrained(tmp_path / 'base')
    return ModelConfig(base=str(tmp_path / 'base'), decoding=Decoding(max_thought_chars=20, max_new_tokens=80),
                       lora=LoraSettings(rank=2), value_width=8)


def make_policy(config: ModelConfig) -> Policy:
    return Policy(config, SkillLanguage(48), torch.device('cpu'))


@of_every_family
def test_the_update_recomputes_what_was_sampled(config, inputs):
    policy = make_policy(config)
    decisions = policy.decide(inputs, temperature=0.8, seeds=range(len(inputs)))
    assert all(decision.legal for decision in decisions)
    for side in ('left', 'right'):
        evaluation = policy.evaluate(inputs, decisions, 0.8, side)
        for row, decision in enumerate(decisions):
            np.testing.assert_allclose(evaluation.logprobs[row, :len(decision.token_ids)].detach(),
                                       decision.token_logprobs, atol=1e-4)
            assert evaluation.values[row].item() == pytest.approx(decision.value, abs=1e-4)


@pytest.mark.parametrize('config', [idefics3, internvl, smolvlm2], indirect=True, ids=lambda family: family.__name__)
def test_in_bfloat16_the_update_counts_positions_as_the_sampling_did(config, inputs):
    """Counted over the padding too, rounding alone moved the ratio of an output by up to a fifth."""
    policy = make_policy(replace(config, dtype='bfloat16'))
    given = [replace(i, prompt='task: ' + 'pick the red cube ' * k) for k, i in enumerate(inputs, start=1)]
    decisions = policy.decide(given, temperature=1.0, seeds=range(len(given)))
    with torch.no_grad():
        evaluation = policy.evaluate(given, decisions, 1.0)
    for row, decision in enumerate(decisions):
        assert abs(evaluation.logprobs[row].sum().item() - decision.token_logprobs.sum()) < 0.05
    assert policy.values(given) == pytest.approx(np.array([d.value for d in decisions]), abs=0.02)


def test_a_frozen_vision_tower_sees_every_image_once_in_an_update_which_stays_the_same(config, inputs):
    policy = make_policy(replace(config, lora=LoraSettings(rank=2, vision=False)))
    with torch.no_grad():
        for parameter in policy.adapter_parameters():  # half of them start at 0, and the others without a gradient
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    given = [*inputs[:3], *(replace(i, prompt='task: another of the same image') for i in inputs[:2])]
    decisions = [policy.written(f'{{"thoughts": "{word}", "action": "done"}}') for word in 'abcde']
    rows = images_encoded(policy)
    epochs = [[0], [4, 0, 3], [0, 1, 2, 3, 4]]
    plain = [pass_over(policy, [given[i] for i in epoch], [decisions[i] for i in epoch]) for epoch in epochs]
    for_one = rows[0]
    rows.clear()
    with policy.cached_vision(2**20):
        # The first one is encoded twice where it is alone: two images show that the tower keeps them apart.
        for epoch, expected in zip(epochs, plain):
            found = pass_over(policy, [given[i] for i in epoch], [decisions[i] for i in epoch])
            torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
            assert (found[1] - expected[1]).norm() < 1e-5 * expected[1].norm()
    assert sum(rows) == for_one * (3 + 1)
    assert all(gradient.norm() > 0.1 for _, gradient in plain)
    pass_over(policy, given, decisions)
    assert rows[-1] == for_one * 5


def test_an_input_that_several_outputs_share_is_read_once_and_learned_from_as_if_it_were_read_for_each(config, inputs):
    policy = make_policy(config)
    with torch.no_grad():
        for parameter in policy.adapter_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    given = [inputs[0], inputs[1], inputs[0], inputs[2], inputs[0], inputs[1]]
    decisions = [policy.written(f'{{"thoughts": "{word}", "action": "done"}}')
                 for word in ('a', 'a longer one', 'b', 'c', 'd and more', 'e')]
    temperatures = [0.7, 1.0, 1.0, 0.7, 1.3, 1.0]
    rows = images_encoded(policy)
    together, gradient = pass_over(policy, given, decisions, temperatures)
    shared, values = rows[:], policy.evaluate(given, decisions, 1.0, token_values=True).values
    rows.clear()
    alone = [pass_over(policy, [i], [d], [t]) for i, d, t in zip(given, decisions, temperatures)]
    assert 2 * sum(shared) == sum(rows)
    for row, (log_probs, _) in enumerate(alone):
        count = log_probs.shape[1]
        torch.testing.assert_close(together[row, :count], log_probs[0], rtol=0, atol=1e-4)
        assert not together[row, count:].any()
        expected = policy.evaluate([given[row]], [decisions[row]], 1.0, token_values=True).values[0]
        torch.testing.assert_close(values[row, :count], expected, rtol=0, atol=1e-4)
    expected = torch.stack([part for _, part in alone]).sum(0)
    assert expected.norm() > 0.1
    assert (gradient - expected).norm() < 1e-4 * expected.norm()


def images_encoded(policy: Policy) -> list[int]:
    """Grows with every pass of the vision tower, by the rows that its patches are taken from."""
    tower = policy._base().get_encoder(modality='image')
    rows: list[int] = []
    first = next(module for module in tower.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)))
    first.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    return rows


def pass_over(policy: Policy, given: list[Any], decisions: list[Any], temperature: float | list[float] = 0.8
              ) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the gradient of their sum in all adapters, flat."""
    result = policy.evaluate(given, decisions, temperature)
    policy.model.zero_grad(set_to_none=True)
    result.logprobs.sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.adapter_parameters()]
    return result.logprobs.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@of_every_family
def test_a_family_is_trained_saved_and_loaded_again(config, inputs, tmp_path):
    policy = make_policy(config)
    decisions = policy.decide(inputs, temperature=1.0, seeds=range(len(inputs)))
    before = [p.detach().clone() for p in policy.parameters()]
    samples = [Sample(given, decision, advantage=(-1.0) ** row, value_target=1.0)
               for row, (given, decision) in enumerate(zip(inputs, decisions))]
    settings = TrainConfig(learning_rate=0.02, value_learning_rate=0.02, value_warmup_updates=0, target_kl=0.0)
    Learner(policy, settings, seed=0).update(samples, number=0, temperature=1.0, progress=0.0)
    assert sum(not torch.equal(old, new) for old, new in zip(before, policy.parameters())) > len(before) / 3
    save_checkpoint(tmp_path / 'checkpoint', policy, step=1)
    trained = policy.decide(inputs, temperature=1.0, seeds=range(len(inputs)))
    assert any(not np.array_equal(a.token_logprobs, b.token_logprobs) for a, b in zip(trained, decisions))
    loaded = load_policy(str(tmp_path / 'checkpoint'), device='cpu')
    for own, other in zip(trained, loaded.decide(inputs, temperature=1.0, seeds=range(len(inputs)))):
        assert (own.text, own.value) == (other.text, other.value)
        assert np.array_equal(own.token_logprobs, other.token_logprobs)
