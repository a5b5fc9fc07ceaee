"""The section ``tasks`` of a cell file: which instructions the cell works on. A task is untrusted text."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from .config import bounded
from .errors import UserError

_PLACEHOLDER = re.compile(r'\{([^{}]*)\}')
_MAX_SHOWN = 80


@dataclass(frozen=True)
class Tasks:
    """An allow-list of instructions, as templates with words to fill in."""

    allow: tuple[str, ...] = bounded((), help='allowed instructions, e.g. "put the {colour} cube on the {colour} pad"; '
                                     'every placeholder stands for any of its words; empty: any single line')
    words: dict[str, tuple[str, ...]] = bounded({}, help='words by placeholder, e.g. colour: [red, green]')
    max_length: int = bounded(200, low=1, high=10_000, help='longest instruction, characters')

    def __post_init__(self) -> None:
        used = set()
        for template in self.allow:
            for name in _PLACEHOLDER.findall(template):
                used.add(name)
                if not self.words.get(name):
                    raise UserError(f'tasks.allow: {template!r} has the placeholder {{{name}}}, but tasks.words.{name} '
                                    'has no words: add them')
            if not template.strip() or set('{}') & set(_PLACEHOLDER.sub('', template)):
                raise UserError(f'tasks.allow: {template!r} is empty or has a brace without its partner: correct it')
            if len(_PLACEHOLDER.sub('', template)) > self.max_length:
                raise UserError(f'tasks.allow: {template[:_MAX_SHOWN]!r}… is longer than tasks.max_length '
                                f'({self.max_length}), so that it would be refused: raise that, or shorten it')
        for name, words in self.words.items():
            if name not in used:
                raise UserError(f'tasks.words.{name} is used by no template of tasks.allow: remove it or correct '
                                'the name')
            if not all(word.strip() for word in words):
                raise UserError(f'tasks.words.{name} has an empty word: remove it')


class TaskPolicy:
    """Decides whether an instruction may be worked on.

    The whole text has to be one of the allowed instructions, character by character: nothing is normalised, so that
    what passes is exactly what the model reads.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._patterns = [re.compile(_pattern(template, tasks.words)) for template in tasks.allow]

    def refusal(self, text: str) -> str:
        """Why an instruction is refused, as a sentence that shows its beginning; empty if it is allowed."""
        shown = repr(text[:_MAX_SHOWN])[1:-1] + ('…' if len(text) > _MAX_SHOWN else '')
        if len(text) > self._tasks.max_length:
            return f'the task {shown!r} has {len(text)} characters, allowed are {self._tasks.max_length}'
        # Line breaks of every script, control, formatting and invisible characters are not printable.
        if not text.strip() or not text.isprintable():
            return f'the task {shown!r} is not a single line of printable text'
        if self._patterns and not any(pattern.fullmatch(text) for pattern in self._patterns):
            return (f'the task {shown!r} is none of those that tasks.allow of the cell file lists, such as '
                    f'{self._tasks.allow[0]!r}')
        return ''


def _pattern(template: str, words: dict[str, tuple[str, ...]]) -> str:
    """A regular expression for exactly the texts of a template."""
    parts = _PLACEHOLDER.split(template)  # text, name, text, name, …, text
    pairs = itertools.zip_longest(parts[::2], parts[1::2])
    return ''.join(re.escape(text) + (f'(?:{"|".join(map(re.escape, words[name]))})' if name else '')
                   for text, name in pairs)
