"""A policy on a very small VLM, and observations for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.policy import Policy, PolicyInput
from vlm_agent_ros.policy.prompt import PromptTemplate

RANK_4 = LoraSettings(rank=4)


@pytest.fixture
def make_policy(vlm_folder: Path) -> Callable[..., Policy]:
    """A policy whose adapters and value head are no longer at their initial zeros."""

    def make(constrained: bool = True, lora: LoraSettings | None = RANK_4, **decoding: Any) -> Policy:
        settings = {'constrained': constrained, 'max_thought_chars': 30, 'max_new_tokens': 80, **decoding}
        config = ModelConfig(base=str(vlm_folder), prompt=PromptTemplate('task: {task}\ngripper: {state}'),
                             decoding=Decoding(**settings), lora=lora, value_width=8)
        policy = Policy(config, SkillLanguage(48), torch.device('cpu'))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return policy

    return make


@pytest.fixture(scope='session')
def inputs() -> list[PolicyInput]:
    """Different images and prompts of different length."""
    rng = np.random.default_rng(0)
    tasks = ('pick up the red cube', 'put it on the green pad', 'done ?', 'ünïcode 立方体 ' * 3, 'push')
    return [PolicyInput(rng.integers(0, 256, (32, 32, 3), np.uint8), f'task: {task}\ngripper: open') for task in tasks]
