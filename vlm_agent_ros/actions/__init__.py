"""Action languages: the texts that a policy may write, as data (name, grammar, examples, parser)."""

from .discrete import DiscreteLanguage
from .language import ActionError, ActionLanguage, Command, Discrete, Done, Pick, Place, Push, Stack
from .skills import SkillLanguage

__all__ = ['ActionError', 'ActionLanguage', 'Command', 'Discrete', 'DiscreteLanguage', 'Done', 'Pick', 'Place', 'Push',
           'SkillLanguage', 'Stack']
