"""Other families of models, tiny and untrained: what is sampled is what the update recomputes, without a special case.

They differ where it hurts: PaliGemma lets prompt tokens see each other in both directions and marks them by token
types; Idefics3 (SmolVLM) frames the image with tokens of its own and takes several crops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.tiny_vlm import CHAT_TEMPLATE, build_tokenizer
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
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


@pytest.mark.parametrize('family', [paligemma, idefics3])
def test_the_update_recomputes_what_was_sampled(tmp_path: Path, inputs, family):
    model, processor = family()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = ModelConfig(base=str(tmp_path), decoding=Decoding(max_thought_chars=20, max_new_tokens=80),
                         lora=LoraSettings(rank=2))
    policy = Policy(config, SkillLanguage(48), torch.device('cpu'))
    decisions = policy.decide(inputs, temperature=0.8, seeds=range(len(inputs)))
    assert all(decision.legal for decision in decisions)
    for side in ('left', 'right'):
        evaluation = policy.evaluate(inputs, decisions, 0.8, side)
        for row, decision in enumerate(decisions):
            np.testing.assert_allclose(evaluation.logprobs[row, :len(decision.token_ids)].detach(),
                                       decision.token_logprobs, atol=1e-4)
            assert evaluation.values[row].item() == pytest.approx(decision.value, abs=1e-4)
