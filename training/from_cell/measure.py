"""Success in a simulated counterpart of the cell, before and after."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vlm_agent_ros.policy.policy import Policy

from ..evaluation.evaluate import Suite, evaluate
from ..progress import Progress
from ..seeds import evaluation_seeds
from ..worlds.environment import CellEnvironment
from ..worlds.episodes import Player
from ..worlds.pool import WorldPool
from ..worlds.transport import prepare
from .config import CellTrainConfig


class Measurement:
    """Held-out episodes of a task in a world; the worlds start with the first evaluation.

    Args:
        config: Task, transport and number of worlds and episodes.
        world: World file.
        logs: Folder for what worlds have to say.

    Raises:
        UserError: Task or world do not exist, or ROS is not installed.
    """

    def __init__(self, config: CellTrainConfig, world: str, logs: Path) -> None:
        prepare(config.transport)
        self.world, self._config, self._logs = world, config, logs
        self._environment = CellEnvironment([config.task], [world], config.transport)
        self._pool: WorldPool | None = None

    def evaluate(self, policy: Policy, name: str) -> dict[str, Any]:
        """The result, as JSON holds it."""
        config = self._config
        if self._pool is None:
            self._pool = self._environment.open(config.worlds, self._logs)
        player = Player(policy, self._pool, self._environment.commanders(policy.prompt, config.illegal_rule),
                        checkpoint=name)
        with Progress(sys.stderr) as progress:
            phase = progress.phase(name, config.eval_episodes)
            result = evaluate(player, Suite(config.task, self.world), evaluation_seeds(config.eval_episodes),
                              temperature=config.eval_temperature, on_episode=lambda _: phase.advance())
            phase.end(result.words())
        return result.to_json()

    def close(self) -> None:
        """End the worlds."""
        if self._pool is not None:
            self._pool.close()
