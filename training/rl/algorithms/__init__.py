"""The learning algorithms, one readable file each; ``algorithm:`` in a training file chooses."""

from __future__ import annotations

from ...config import TrainConfig
from .base import Algorithm, Batch, Correction, Sample
from .gigpo import GiGPO
from .grpo import GRPO
from .ppo import PPO
from .turn_ppo import TurnPPO

_ALGORITHMS: dict[str, type[Algorithm]] = {'ppo': PPO, 'turn_ppo': TurnPPO, 'grpo': GRPO, 'gigpo': GiGPO}

__all__ = ['Algorithm', 'Batch', 'Correction', 'Sample', 'make_algorithm']


def make_algorithm(config: TrainConfig) -> Algorithm:
    """The algorithm that a configuration names."""
    return _ALGORITHMS[config.algorithm](config)
