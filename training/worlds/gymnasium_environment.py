"""A Gymnasium environment for the trainer: its actions as a language, its prompt, its worlds and their commander."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import numpy as np

from vlm_agent_ros.actions import DiscreteLanguage
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Decision, PolicyInput
from vlm_agent_ros.policy.prompt import PromptTemplate
from vlm_agent_ros.types import EpisodeRequest

from ..config import EnvironmentConfig
from ..seeds import training_seed
from .commands import Command, CommanderOf
from .gymnasium_worlds import GymnasiumObservation, GymnasiumWorlds

GENERAL_PROMPT = """\
{task}
Possible actions: {actions}
Answer with JSON only: {"thoughts": "<what you see and conclude>", "action": "<one action>"}"""

_MAX_TEXT = 4000  # characters of a step's text that the policy reads


class GymnasiumEnvironment:
    """See Environment.

    Args:
        config: Which.

    Raises:
        UserError: Module, id, spaces or actions do not fit, as making it and playing one turn has shown.
    """

    def __init__(self, config: EnvironmentConfig) -> None:
        self._config = config
        try:
            self.language = DiscreteLanguage(config.actions)
        except ValueError as error:
            raise UserError(f'actions does not do as texts of actions: {error}') from error
        template = config.prompt or GENERAL_PROMPT
        # A text of the step must reach the policy even where the user did not think of a place for it.
        self.prompt = PromptTemplate(template if '{task}' in template else template + '\n{task}', _MAX_TEXT)
        pool = self.open(1)
        pool.reset({0: EpisodeRequest(training_seed(0, 0, 0), config.env_id)})
        observation, _ = pool.collect([0])[0]
        pool.execute({0: observation.admissible[0] if observation.admissible else 0})
        pool.collect([0])
        pool.close()

    def open(self, count: int, logs: Path | None = None) -> GymnasiumWorlds:
        """See Environment."""
        config = self._config
        return GymnasiumWorlds(count, config.env_id, config.import_, config.actions)

    def commanders(self, prompt: PromptTemplate, illegal_rule: str) -> CommanderOf:
        """See Environment."""
        commander = GymnasiumCommander(self.language, prompt, illegal_rule)
        return lambda world: commander

    def digest(self, world: str) -> str:
        """See Environment."""
        return ''

    def expert(self) -> NoReturn:
        """See Environment."""
        raise UserError('the expert of a Gymnasium environment can be recorded, but not evaluated: name a model or a '
                        'checkpoint')


class GymnasiumCommander:
    """See Commander.

    Args:
        language: All actions.
        prompt: ``{task}`` is the text of the step, ``{actions}`` are the admissible actions.
        illegal_rule: ``first_match`` takes the first admissible action found in what an illegal output says of the
            action, or, if it has no such part, anywhere in it, as RL4VLM's ALFWorld runs do. Otherwise, and where there
            is none, the action is drawn at random, as in its card games.
    """

    def __init__(self, language: DiscreteLanguage, prompt: PromptTemplate, illegal_rule: str = 'random') -> None:
        self._language, self._prompt, self._illegal_rule = language, prompt, illegal_rule

    def observe(self, observation: GymnasiumObservation, previous: str = '') -> PolicyInput:
        """See Commander."""
        language = self._admissible(observation)
        prompt = self._prompt.render(observation.task, '', language, previous).strip()
        return PolicyInput(observation.image, prompt, None if observation.admissible is None else language)

    def command(self, decision: Decision, observation: GymnasiumObservation, seed: int) -> Command:
        """See Commander."""
        if decision.legal:
            return Command(self._language.parse(decision.action).index)
        actions = self._admissible(observation).actions
        if self._illegal_rule == 'first_match':
            # Longer texts first, so that a `10` is not taken for a `1`; and whole words, no `s` of `thoughts`.
            words = '|'.join(map(_whole, sorted(actions, key=len, reverse=True)))
            found = re.search(words, decision.action or decision.text)
            if found:
                return Command(self._language.parse(found[0]).index)
        action = actions[np.random.default_rng(seed).integers(len(actions))]
        return Command(self._language.parse(action).index, 'illegal', f'no admissible action, so {action} at random')

    def marker(self, action: str) -> tuple[float, float] | None:
        """See Commander; the actions point nowhere."""
        return None

    def _admissible(self, observation: GymnasiumObservation) -> DiscreteLanguage:
        if observation.admissible is None:
            return self._language
        return _language(tuple(self._language.actions[i] for i in observation.admissible))


def _whole(action: str) -> str:
    """Pattern of an action that is no part of a longer word."""
    before, after = (r'(?<!\w)' if action[0].isalnum() else ''), (r'(?!\w)' if action[-1].isalnum() else '')
    return before + re.escape(action) + after


@lru_cache(maxsize=1024)
def _language(actions: tuple[str, ...]) -> DiscreteLanguage:
    return DiscreteLanguage(actions)
