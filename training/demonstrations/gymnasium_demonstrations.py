"""Demonstrations of an environment that has an expert of its own, for supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from vlm_agent_ros.policy.prompt import PromptTemplate
from vlm_agent_ros.types import EpisodeRequest

from ..worlds.gymnasium_environment import GymnasiumEnvironment


def demonstrations(environment: GymnasiumEnvironment, prompt: PromptTemplate, seeds: Iterable[int]
                   ) -> Iterator[tuple[np.ndarray, str, str, str]]:
    """Every decision of the expert in the episodes of these seeds.

    Args:
        environment: Its unwrapped environment has a method ``demonstrate`` that gives ``thought`` and ``action``.
        prompt: Template of the user message.
        seeds: Episodes, see ``seeds.DEMONSTRATION_START``.

    Yields:
        Image (height, width, 3) uint8, prompt, thought and action.
    """
    pool, commander = environment.open(1), environment.commanders(prompt, 'auto')('')
    for seed in seeds:
        pool.reset({0: EpisodeRequest(seed, '')})
        observation, outcome = pool.collect([0])[0]
        while outcome is None or not (outcome.terminated or outcome.truncated):
            seen, shown = commander.observe(observation), pool.demonstrate(0)
            yield seen.image, seen.prompt, shown.thought, shown.action
            pool.execute({0: environment.language.parse(shown.action).index})
            observation, outcome = pool.collect([0])[0]
    pool.close()
