"""The small VLM before any training: a LLaVA-style model, its tokenizer and its processor, built without downloads.

A CLIP vision tower, a two-layer projector and a Llama language model, all narrow, put together from the classes of
transformers and saved as an ordinary Hugging Face directory. The tokenizer is a byte-level BPE, so that any text that
a user writes survives the way through it, trained on the vocabulary of a table-top cell; every two-digit number after
a space is one token, so that a coordinate is one decision of the policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from vlm_agent_ros.config import bounded
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.output import SCAFFOLD

COLOURS = ('red', 'green', 'blue', 'yellow', 'orange', 'purple', 'white', 'black', 'grey', 'brown', 'pink', 'cyan')
OBJECTS = ('cube', 'block', 'pad', 'ball', 'tray', 'bin', 'part', 'box', 'plate', 'square', 'object', 'gripper')
WORDS = (
    'task', 'the', 'a', 'put', 'on', 'onto', 'in', 'into', 'to', 'at', 'so', 'and', 'then', 'is', 'held', 'holding',
    'open', 'closed', 'pick', 'place', 'push', 'done', 'up', 'down', 'left', 'right', 'lift', 'grasp', 'grab', 'take',
    'move', 'set', 'drop', 'bring', 'carry', 'get', 'lay', 'stack', 'sort', 'clear', 'inspect', 'reject', 'defective',
    'good', 'it', 'from', 'of', 'table', 'robot', 'camera', 'see', 'goal', 'target', 'no', 'none', 'not', 'with',
    'over', 'under', 'near', 'top', 'please', 'should', 'be', 'hold', 'release', 'nothing', 'all', 'every', 'same',
    'colour', 'empty', 'free', 'reach', 'for', 'i', 'want', 'you', 'can', 'that', 'there', 'one', 'two', 'three',
)


@dataclass(frozen=True)
class TinyVlmConfig:
    """Sizes of the small VLM; the defaults give about 2 million parameters."""

    image_size: int = bounded(128, low=16, high=512, help='input image side, pixels')
    patch_size: int = bounded(16, low=4, high=64, help='patch side, pixels; image_size must be a multiple')
    vision_width: int = bounded(128, low=16, high=1024, help='width of the vision tower')
    vision_layers: int = bounded(4, low=1, high=24, help='layers of the vision tower')
    text_width: int = bounded(128, low=16, high=1024, help='width of the language model')
    text_layers: int = bounded(4, low=1, high=24, help='layers of the language model')
    heads: int = bounded(4, low=1, high=16, help='attention heads of both; must divide both widths')
    mlp_ratio: int = bounded(4, low=1, high=8, help='width of the vision feed-forward layers over vision_width')
    vocab_size: int = bounded(768, low=400, high=8192, help='entries of the tokenizer, scaffold and specials included')
    max_tokens: int = bounded(1024, low=128, high=8192, help='longest sequence, image tokens included')

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise UserError(f'image_size {self.image_size} must be a multiple of patch_size {self.patch_size}')
        if self.vision_width % self.heads or self.text_width % (2 * self.heads):
            raise UserError(f'heads {self.heads} must divide vision_width and half of text_width')


def build_tiny_vlm(config: TinyVlmConfig, folder: Path, seed: int = 0) -> None:
    """Write the randomly initialised model, its tokenizer and its processor as a Hugging Face directory.

    Args:
        config: Sizes.
        folder: Created if missing; files of the same names are replaced.
        seed: Seed of the weights.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = build_tokenizer(config.vocab_size)
    specials = {
        'pad_token_id': tokenizer.pad_token_id,
        'bos_token_id': tokenizer.bos_token_id,
        'eos_token_id': tokenizer.eos_token_id,
    }
    vision = CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.vision_width,
        intermediate_size=config.mlp_ratio * config.vision_width,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.heads,
        projection_dim=config.text_width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.text_width,
        # A gated feed-forward layer has three matrices: 8/3 of the width costs as much as a plain one of 4.
        intermediate_size=config.text_width * 8 // 3,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.max_tokens,
        tie_word_embeddings=True,
        **specials,
    )
    model_config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids('<image>'),
        vision_feature_layer=-1,
        vision_feature_select_strategy='default',
        image_seq_length=(config.image_size // config.patch_size) ** 2,
        tie_word_embeddings=True,
        **specials,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(model_config)
    model.generation_config.update(do_sample=False, **specials)
    model.save_pretrained(folder)
    build_processor(config, tokenizer).save_pretrained(folder)


def build_processor(config: TinyVlmConfig, tokenizer: Any) -> Any:
    """The LLaVA processor: scales to ``image_size``, normalises to [-1, 1] and expands ``<image>`` to its patches."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {'height': config.image_size, 'width': config.image_size}
    image_processor = CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.patch_size,
        vision_feature_select_strategy='default',
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(vocab_size: int) -> Any:
    """A byte-level BPE tokenizer in which words of the cell, two-digit numbers and the JSON scaffold are one token."""
    from transformers import PreTrainedTokenizerFast

    specials = {'pad_token': '<pad>', 'bos_token': '<bos>', 'eos_token': '<eos>', 'image': '<image>'}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SCAFFOLD),
        special_tokens=list(specials.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in SCAFFOLD])
    image = specials.pop('image')
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens={'image_token': image}, clean_up_tokenization_spaces=False,
        padding_side='left', **specials)


def _corpus() -> Iterator[str]:
    """Texts whose frequencies make the trainer merge numbers first, then the words, then pairs of letters."""
    for _ in range(400):
        yield ' '.join(['', *(f'{number:02d}' for number in range(100))])
    for _ in range(40):
        yield ' '.join(('', *WORDS, *COLOURS, *OBJECTS, ',', '.', ':'))
    # At the start of a thought, of an action or of a line a word has no space before it.
    for _ in range(20):
        yield '\n'.join((*COLOURS, 'task:', 'gripper:', 'pick', 'place', 'push', 'done', 'i', 'the'))
    for colour, thing in itertools.product(COLOURS, OBJECTS):
        yield f'put the {colour} {thing} on the {thing}, {colour}\ngripper: open'
