"""The user message of a decision: instruction and state put into a template that belongs to the model."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from difflib import get_close_matches

from ..actions import ActionLanguage
from ..config import bounded
from ..errors import UserError

DETAILED_TEMPLATE = """\
You control a robot arm with a parallel gripper. The image is the view of a fixed camera over the table.
Task: {task}
Gripper: {state}
Possible actions: {actions}
Examples of actions: {examples}
First think: name what you have to grasp or where it has to go, and its position in the image.
Then decide on one action.
Answer with JSON only: {"thoughts": "<what you see and conclude>", "action": "<one action>"}"""

_PREVIOUS_CHARS = 400  # of the previous output; a model without grammar may write anything
_PLACEHOLDERS = ('task', 'state', 'previous', 'actions', 'examples')
_PLACEHOLDER = re.compile(rf'\{{({"|".join(_PLACEHOLDERS)})\}}')
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+')


@dataclass(frozen=True)
class PromptTemplate:
    """Template with the placeholders ``{task}``, ``{state}``, ``{previous}``, ``{actions}`` and ``{examples}``.

    Other braces stay, unless what they hold looks like one of these misspelt.
    A pretrained VLM needs the detailed default; the small one was trained on a short text of its own.
    """

    template: str = bounded(DETAILED_TEMPLATE, help='text of the user message; the image comes before it')
    max_task_chars: int = bounded(200, low=10, high=4000, help='the untrusted instruction is cut to this length')

    def __post_init__(self) -> None:
        for word in set(re.findall(r'\{(\w+)\}', self.template)).difference(_PLACEHOLDERS):
            if meant := get_close_matches(word, _PLACEHOLDERS, 1):  # the model would never be told it
                raise UserError(f'prompt.template holds {{{word}}}, which nothing takes the place of: write '
                                f'{{{meant[0]}}}, or {{ {word} }} for the words themselves')

    def render(self, task: str, state: str, language: ActionLanguage, previous: str = '') -> str:
        """The text of the user message.

        Args:
            task: The instruction, untrusted: control and invisible characters become spaces, the rest is cut to
                ``max_task_chars``. What the tokenizer would read as a special token is taken out by the encoder,
                which knows the tokenizer.
            state: Short text, e.g. ``open`` or ``holding``.
            language: Gives ``{actions}`` and ``{examples}``.
            previous: What the policy said of its turn before in this episode (``Decision.memory``), its only memory:
                what it holds is out of the camera's view. Empty at the first turn, which reads ``nothing``.
        """
        values = {
            'task': _one_line(task)[: self.max_task_chars],
            'state': state,
            'previous': _memory(previous),
            'actions': language.description,
            'examples': ', '.join(language.examples),
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.template)

    @property
    def remembers(self) -> bool:
        """It tells what was said of the turn before."""
        return '{previous}' in self.template

    def with_previous(self, prompt: str, previous: str) -> str:
        """A message that ``render`` gave, with another memory; if white space was stripped off it, it is again.

        Raises:
            ValueError: The message is none of this template.
        """
        parts = _PLACEHOLDER.split(self.template)
        texts, names = parts[::2], parts[1::2]
        pattern, new = '(.*)'.join(map(re.escape, texts)), [texts[0]]
        leads = _stripped(texts, names)
        tails = [space[::-1] for space in _stripped([text[::-1] for text in texts[::-1]], names[::-1])]
        whole = (lead + prompt + tail for lead in leads for tail in tails)
        match = next(filter(None, (re.fullmatch(pattern, text, re.DOTALL) for text in whole)), None)
        if match is None:
            raise ValueError(f'the prompt {prompt!r} is none of the template {self.template!r}')
        for name, said, text in zip(names, match.groups(), texts[1:]):
            new += [_memory(previous) if name == 'previous' else said, text]
        told = ''.join(new)
        return told if match[0] == prompt else told.strip()

    def digest(self) -> str:
        """SHA-256 (hex) of everything that defines the prompt; a checkpoint is bound to it."""
        return hashlib.sha256(f'{self.max_task_chars}\n{self.template}'.encode()).hexdigest()


def _stripped(texts: list[str], names: list[str]) -> list[str]:
    """White space that may have been stripped off the beginning of a message: none, or as far as values are empty.

    Args:
        texts: Of the template around its placeholders.
        names: Of the placeholders between them.
    """
    found, space = [''], ''
    for text, name in zip(texts, [*names, '']):
        blank = text[:len(text) - len(text.lstrip())]
        space += blank
        if space != found[-1]:
            found.append(space)
        if blank != text or name not in ('task', 'state'):
            break  # the others are never empty
    return found


def _memory(previous: str) -> str:
    return _one_line(previous)[:_PREVIOUS_CHARS] or 'nothing'


def _one_line(text: str) -> str:
    """Control and invisible characters as spaces, one between words."""
    return ' '.join(_CONTROL.sub(' ', text).split())
