"""The small VLM: its tokenizer, its files, and the one that ships."""

from __future__ import annotations

import pytest
import torch

from training.sft.tiny_vlm import COLOURS, TinyVlmConfig, build_tiny_vlm, build_tokenizer
from vlm_agent_ros.config import resource_root
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.policy.loading import load_base
from vlm_agent_ros.policy.output import SCAFFOLD, format_output


@pytest.fixture(scope='module')
def tokenizer():
    return build_tokenizer(768)


def test_numbers_words_and_the_frame_of_an_output_are_one_token_each(tokenizer):
    words = [f' {number:02d}' for number in range(100)] + [f' {colour}' for colour in COLOURS] + [' cube', ' pad']
    for text in [*words, *COLOURS, 'pick', 'place', 'push', *SCAFFOLD]:
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text


@pytest.mark.parametrize('text', [
    format_output('yellow cube at 35 42 , so pick 35 42', 'pick 35 42'), 'ünïcode 立方体 🤖', 'a  b\t\n c', '"\\', '}{',
])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_frame_is_no_special_token_and_the_image_is(tokenizer):
    specials = set(tokenizer.all_special_tokens)
    assert {'<pad>', '<bos>', '<eos>', '<image>'} <= specials and not specials & set(SCAFFOLD)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    config = TinyVlmConfig(image_size=32, vision_width=16, vision_layers=1, text_width=16, text_layers=1, heads=2)
    state = torch.random.get_rng_state()
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        build_tiny_vlm(config, tmp_path / name, seed)
    weights = {name: (tmp_path / name / 'model.safetensors').read_bytes() for name in 'abc'}
    assert weights['a'] == weights['b'] != weights['c']
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize('sizes', [{'image_size': 100}, {'vision_width': 130}, {'text_width': 132}])
def test_sizes_that_do_not_fit_together_are_refused(sizes):
    with pytest.raises(UserError, match='must'):
        TinyVlmConfig(**sizes)


def test_the_shipped_model_is_small_and_loads_without_a_download():
    folder = resource_root() / 'models' / 'tiny_vlm'
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10 * 2**20
    model, processor = load_base(load_model_config('tiny_vlm'), torch.device('cpu'))
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    assert processor.chat_template
