"""Tokenizers of other families: sentencepiece's space before a text, and first tokens that only the tokenizer adds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from training.demonstrations.dataset import DemonstrationDataset
from training.sft.augment import Augmentation
from training.sft.sft_data import SftData
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Policy

SPECIALS = {'pad_token': '<pad>', 'bos_token': '<bos>', 'eos_token': '<eos>'}


def sentencepiece(kind: str) -> Any:
    """Bytes, characters and a space that stands before a text, as older and newer Llama tokenizers write it."""
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIALS.values(), '<image>', *(f'<0x{byte:02X}>' for byte in range(256)), '▁',
              *map(chr, range(33, 127)), '▁{', 'pi', 'ck', 'pick', '▁pick']
    merges = [('▁', '{'), ('p', 'i'), ('c', 'k'), ('pi', 'ck'), ('▁', 'pick')]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, byte_fallback=True))
    if kind == 'prepend':
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first', split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(' ', 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single='<bos> $A', special_tokens=[('<bos>', 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens={'image_token': '<image>'},
                                   clean_up_tokenization_spaces=False, **SPECIALS)


@pytest.fixture(params=['prepend', 'metaspace'])
def folder(request: pytest.FixtureRequest, vlm_folder: Path, tmp_path: Path) -> Path:
    """The very small VLM with such a tokenizer."""
    shutil.copytree(vlm_folder, tmp_path / 'model')
    sentencepiece(request.param).save_pretrained(tmp_path / 'model')
    return tmp_path / 'model'


def policy_of(folder: Path, **settings: Any) -> Policy:
    config = ModelConfig(base=str(folder), decoding=Decoding(max_thought_chars=30, max_new_tokens=120),
                         lora=LoraSettings(rank=2), value_width=8, **settings)
    return Policy(config, SkillLanguage(48), torch.device('cpu'))


def test_what_an_expert_says_is_among_what_the_grammar_lets_the_policy_write(folder, inputs):
    policy = policy_of(folder)
    text = format_output('cube at 10 20', 'pick 10 20')
    said = policy.written(text)
    assert (said.text, said.legal) == (text, True)
    assert policy.constraint.admits(said.token_ids)
    assert policy.evaluate(inputs[:1], [said], 1.0).logprobs.min() > -100


def test_supervised_training_teaches_what_the_grammar_lets_the_policy_write(folder):
    policy = policy_of(folder)
    none, thoughts = np.full(2, ''), np.array(['cube at 07 35', 'so done'])
    dataset = DemonstrationDataset(
        np.zeros((2, 32, 32, 3), np.uint8), np.full(2, 'task: pick'), thoughts, np.array(['pick 07 35', 'done']),
        np.zeros((2, 0, 4), np.float32), none, np.arange(2), np.ones(2, np.int64), none, {}, (), 48)
    data = SftData(dataset, policy.encoder, Augmentation(), torch.device('cpu'))
    for ids, mask, numbers in zip(data.outputs.numpy(), data.mask.numpy(), data.numbers.numpy()):
        assert policy.constraint.admits(ids[mask])
        assert numbers[numbers >= 0].tolist() in ([7, 35, 7, 35], [])
    pieces = policy.constraint.token_bytes(data.outputs[0].numpy())
    assert [pieces[place] for place in np.flatnonzero(data.numbers[0] >= 0)] == [b'7', b'5', b'7', b'5']


def test_a_prompt_begins_as_transformers_itself_begins_it_where_the_template_does_not_say(folder, inputs):
    """Without its first token a pretrained Llama is another model."""
    template = (folder / 'chat_template.jinja').read_text(encoding='utf-8').replace('{{ bos_token }}', '')
    for settings in ({'chat_template': template}, {}):
        policy = policy_of(folder, **settings)
        content = [{'type': 'image', 'image': inputs[0].image}, {'type': 'text', 'text': inputs[0].prompt}]
        expected = policy.processor.apply_chat_template(
            [{'role': 'user', 'content': content}], add_generation_prompt=True, tokenize=True, return_dict=True)
        ids = policy.encoder.encode([inputs[0].image], [inputs[0].prompt])['input_ids']
        np.testing.assert_array_equal(ids, np.array(expected['input_ids']))
        assert (ids == policy.encoder.tokenizer.bos_token_id).sum() == 1
