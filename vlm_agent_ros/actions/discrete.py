"""The ``discrete`` language: a fixed list of texts, for any environment with a Discrete action space."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from .language import ActionError, Discrete


class DiscreteLanguage:
    """One text per action index.

    Args:
        actions: Non-empty, single-line texts without quotes or backslashes, no two of them the same but for blanks and
            the way in which Unicode writes them (NFKC).
    """

    name = 'discrete'

    def __init__(self, actions: Sequence[str]) -> None:
        if not actions:
            raise ValueError('the list of actions is empty: give at least one action text')
        for action in actions:
            if action != action.strip() or not action.isprintable() or not action or set('"\\') & set(action):
                raise ValueError(f'action {action!r} must be printable, without quotes, backslashes or outer spaces')
        # As a reader sees them: an accent may be one character or two, a ligature is its letters, and of blanks it is
        # not seen how many there are. Letters of different scripts that look alike are not compared.
        seen = [' '.join(unicodedata.normalize('NFKC', action).split()) for action in actions]
        if len(set(seen)) != len(seen):
            twice = next(action for i, action in enumerate(seen) if action in seen[:i])
            raise ValueError(f'the list of actions is ambiguous: two actions have the text {twice!r}, word one of them '
                             'otherwise')
        self.actions = tuple(actions)
        self.regex = '(' + '|'.join(re.escape(action) for action in actions) + ')'
        self.description = ' | '.join(actions)
        self.examples = self.actions[:4]

    def parse(self, text: str) -> Discrete:
        """The index of the action.

        Raises:
            ActionError: The text is not in the list.
        """
        if text not in self.actions:
            raise ActionError(f'{text!r} is not one of: {self.description}')
        return Discrete(self.actions.index(text))

    def digest(self) -> str:
        """SHA-256 of name and actions."""
        return hashlib.sha256('\n'.join((self.name, *self.actions)).encode()).hexdigest()
