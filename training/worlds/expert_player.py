"""Episodes of the scripted expert, in the form in which those of a policy are evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from sim_worlds.expert import Demonstration, demonstrate
from sim_worlds.world import CellWorld
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Decision
from vlm_agent_ros.types import Observation, Outcome

from .commands import CommanderOf
from .episodes import Episode, Schedule, Turn


class ExpertPlayer:
    """Plays a schedule with the expert, in this process: it needs the true scene, which no ROS interface gives.

    Args:
        world: World file.
        commander_of: Planner and safety rules by world file; the expert's motions pass the same rules as a policy's.
    """

    checkpoint = 'expert'

    def __init__(self, world: str, commander_of: CommanderOf) -> None:
        self._world, self.commander_of = CellWorld(world), commander_of

    def play(self, schedule: Schedule, *, temperature: float = 1.0, greedy: bool = True) -> Iterator[Episode]:
        """Finished episodes, in the order of the schedule; nothing is sampled."""
        while (slot := schedule.next(0, 0)) is not None:
            episode, commander = Episode(0, slot), self.commander_of(slot.request.world)
            observation: Observation = self._world.reset(slot.request)
            outcome: Outcome | None = None
            episode.instruction = observation.task
            while outcome is None or not (outcome.terminated or outcome.truncated):
                started, seen = time.perf_counter(), commander.observe(observation)
                decision = _decision(demonstrate(self._world.truth()))
                latency_s = time.perf_counter() - started
                command = commander.command(decision, observation, 0)
                observation, outcome = self._world.execute(command.move)
                episode.turns.append(Turn(seen, decision, command, latency_s, outcome))
            episode.final = commander.observe(observation)
            yield episode

    def close(self) -> None:
        """Give the physics server back."""
        self._world.close()


def _decision(shown: Demonstration) -> Decision:
    """What the expert says, as if a policy without tokens had written it."""
    nothing = np.zeros(0, np.float32)
    return Decision(format_output(shown.thought, shown.action), shown.thought, shown.action, True,
                    nothing.astype(np.int64), nothing, nothing.astype(bool), 0.0)
