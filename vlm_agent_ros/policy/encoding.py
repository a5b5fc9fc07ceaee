"""Images and prompts into model inputs, by the model's own processor and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..actions import ActionLanguage, DiscreteLanguage
from ..errors import UserError
from .output import format_output

_PROBE = 'task\nstate'  # a template that knows plain texts only prints a list, in which this is not found


class PromptEncoder:
    """One user message, an image and a text, for any Hugging Face VLM processor.

    Args:
        processor: What ``AutoProcessor.from_pretrained`` gives; it must hold a tokenizer and a chat template.
        source: Name of the model, for messages.

    Raises:
        UserError: The processor has no chat template, or one that does not take an image and a text, or its tokenizer
            knows no end of a text.
    """

    def __init__(self, processor: Any, source: str) -> None:
        self.processor, self._source = processor, source
        self.tokenizer = processor.tokenizer
        if self.tokenizer.eos_token_id is None:
            raise UserError(f'the tokenizer of {source} has no eos_token, by which an output ends: name it in its '
                            'tokenizer_config.json')
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        added = self.tokenizer.added_tokens_decoder
        self.special_ids = sorted({*self.tokenizer.all_special_ids, *(i for i, t in added.items() if t.special)})
        texts = {*self.tokenizer.all_special_tokens, *(t.content for t in added.values() if t.special)}
        self._special_texts = sorted((t for t in texts if t.strip()), key=len, reverse=True)
        try:
            self.encode([np.zeros((64, 64, 3), np.uint8)], [_PROBE])
            if _PROBE not in self.chat_text(_PROBE):
                raise ValueError('it does not repeat the text')
        except Exception as error:  # jinja and the processors raise what they like
            raise UserError(
                f'{source} has no chat template for one image and one text ({error}): choose an instruction-tuned '
                'model, or give it a chat_template in the models file, or a chat_template.jinja in its directory'
            ) from error

    def chat_text(self, prompt: str) -> str:
        """The text that the tokenizer sees; special tokens written by a user are taken out first."""
        content = [{'type': 'image'}, {'type': 'text', 'text': self._neutral(prompt)}]
        messages = [{'role': 'user', 'content': content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def encode(self, images: Sequence[np.ndarray], prompts: Sequence[str], padding_side: str = 'left') -> Any:
        """Model inputs of a batch.

        Args:
            images: (height, width, 3) uint8 each.
            prompts: Text of the user message, one per image.
            padding_side: ``left`` or ``right``.

        Returns:
            The processor's BatchFeature of tensors: input_ids and attention_mask (batch, length) int64, pixel_values
            and whatever else the architecture takes.
        """
        self.tokenizer.padding_side = padding_side
        texts, begin = [self.chat_text(prompt) for prompt in prompts], self.tokenizer.bos_token
        encoded = self.processor(
            # Of an array 3 or 4 pixels high the processors would take the rows for channels.
            images=[[Image.fromarray(image)] for image in images],
            text=texts,
            # As in transformers' own ``apply_chat_template``: LLaVA's leaves the first token to the tokenizer.
            add_special_tokens=begin is None or not texts[0].startswith(begin),
            padding=True,
            return_tensors='pt',
        )
        encoded.pop('labels', None)  # some processors make targets of the prompt
        return encoded

    def special_token_in(self, text: str) -> str | None:
        """What the tokenizer would read as a special token somewhere in a text."""
        return next((special for special in self._special_texts if special in text), None)

    def encode_output(self, text: str) -> torch.Tensor:
        """(tokens,) int64 of an output with the end-of-sequence token, as supervised training teaches it."""
        ids, _ = self.tokenize_outputs([text])[0]
        return torch.tensor([*ids, self.tokenizer.eos_token_id])

    def tokenize_outputs(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Token ids of outputs, and where in its text (characters) each token ends; without the end of the sequence.

        An output goes on where a prompt ended. Tokenizers of the sentencepiece kind write a space before what they take
        for the beginning of a text, which the grammar would not let through: they are given a line break before it.
        """
        encoded = self.tokenizer(['\n' + text for text in texts], add_special_tokens=False,
                                 return_offsets_mapping=True)
        tokens = [[(token, end - 1) for token, (_, end) in zip(ids, offsets) if end > 1]
                  for ids, offsets in zip(encoded['input_ids'], encoded['offset_mapping'])]
        return [([token for token, _ in kept], [end for _, end in kept]) for kept in tokens]

    def check_actions(self, language: ActionLanguage, limit: int) -> None:
        """Refuse actions that could never be written in ``limit`` tokens.

        Raises:
            UserError: One holds what the tokenizer takes for a special token, or would be cut off without any thought.
        """
        if special := self.special_token_in(language.description):
            raise UserError(f'the actions "{language.description}" hold {special!r}, which the tokenizer of '
                            f'{self._source} takes for a special token: word them otherwise')
        for action in language.actions if isinstance(language, DiscreteLanguage) else ():
            count = len(self.encode_output(format_output('', action)))
            if count > limit:
                raise UserError(f'an output with the action {action!r} has {count} tokens, but decoding.max_new_tokens '
                                f'of the models file allows {limit}: word it shorter, or raise max_new_tokens')

    def _neutral(self, prompt: str) -> str:
        # Taking out one token may join the halves of another: repeat until nothing is left.
        while self.special_token_in(prompt):
            for text in self._special_texts:
                prompt = prompt.replace(text, ' ')
        return prompt


def join_outputs(
    inputs: Any, outputs: torch.Tensor, lengths: torch.Tensor, padding_side: str = 'left'
) -> dict[str, Any]:
    """Model inputs of prompts followed by their outputs, as a supervised or an update pass needs them.

    Args:
        inputs: Left-padded inputs of the prompts, as ``PromptEncoder.encode`` gives them.
        outputs: (batch, tokens) int64, padded on the right with any legal id.
        lengths: (batch,) int64, tokens of each output.
        padding_side: ``left`` keeps the outputs in the same columns for every row, ``right`` starts every row at 0.

    Returns:
        The inputs with the outputs appended. Among the token-level entries other than ids and mask, ``token_type_ids``
        continue with a type that the prompt does not have, because families let tokens of the prompt's types see
        those after them; ``cross_attention_mask`` as the prompt ends, so that what is written sees the images, too;
        others (image markers) continue with 0. What is of patches (``pixel_…``) is none, whatever its shape.
    """
    mask = (torch.arange(outputs.shape[1], device=outputs.device) < lengths[:, None]).to(inputs['attention_mask'].dtype)
    prompt_shape = inputs['input_ids'].shape
    shift = (inputs['attention_mask'] == 0).sum(dim=1, keepdim=True)
    joined = {}
    for name, value in inputs.items():
        if name == 'cross_attention_mask':  # (batch, length, images, tiles)
            tail = value[:, -1:].expand(-1, outputs.shape[1], *value.shape[2:])
        elif isinstance(value, torch.Tensor) and value.shape == prompt_shape and not name.startswith('pixel'):
            kind = int(value.max()) + 1 if name == 'token_type_ids' else 0
            tail = {'input_ids': outputs, 'attention_mask': mask}.get(name, torch.full_like(outputs, kind))
        else:
            joined[name] = value
            continue
        value = torch.cat([value, tail.to(value.dtype)], dim=1)
        if padding_side == 'right':
            columns = (torch.arange(value.shape[1], device=value.device) + shift) % value.shape[1]
            value = value[torch.arange(len(value), device=value.device)[:, None], columns]
        joined[name] = value
    return joined
