"""A line on which a pilot takes place: simulated here, a running cell in ``cell_line``."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Protocol

from vlm_agent_ros.checkpoint import load_policy, policy_digest
from vlm_agent_ros.errors import UserError

from ..evaluation.evaluate import EvaluationSchedule, Suite
from ..session import use_threads
from ..worlds.environment import CellEnvironment
from ..worlds.episodes import Episode, Player
from .plan import LABELS, Plan
from .results import PilotEpisode


class Line(Protocol):
    """Plays one episode after the other."""

    def play(self, number: int) -> PilotEpisode:
        """The episode of this number of the plan, by the checkpoint and on the task that the plan says.

        One that cannot be finished comes back with the reason in ``lost``.

        Raises:
            UserError: The line is unusable.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class SimulatedLine:
    """Worlds in this process, played as ``vlm-agent evaluate`` plays them; every episode is another held-out scene.

    Args:
        plan: Checkpoints, tasks and world.

    Raises:
        UserError: A checkpoint, a task or the world does not exist or does not fit, or both checkpoints are the same.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._digests = {label: policy_digest(plan.source(label)) for label in LABELS}
        if self._digests['A'] == self._digests['B']:
            raise UserError(f'a ({plan.a}) and b ({plan.b}) are the same policy: name two different checkpoints')
        use_threads(1)
        environment = CellEnvironment(plan.tasks, [plan.world], 'in-process')
        policies = {label: load_policy(plan.source(label), language=environment.language) for label in LABELS}
        self._pool = environment.open(1)
        self._players = {label: Player(policy, self._pool, environment.commanders(policy.prompt, 'auto'))
                         for label, policy in policies.items()}

    def play(self, number: int) -> PilotEpisode:
        """See Line."""
        plan, started = self._plan, time.time()
        label, task = plan.label(number), plan.task(number)
        schedule = EvaluationSchedule(Suite(task, plan.world), [plan.scene(number)])
        player, blank = self._players[label], PilotEpisode(number, label, self._digests[label], task, started)
        played = list(player.play(schedule, temperature=plan.temperature or 1.0, greedy=not plan.temperature))
        if not played:
            return replace(blank, lost=player.losses[-1])
        return _record(played[0], blank)

    def close(self) -> None:
        """See Line."""
        self._pool.close()


def open_line(plan: Plan) -> Line:
    """The line of a plan.

    Raises:
        UserError: It cannot be opened.
    """
    if plan.line == 'simulated':
        return SimulatedLine(plan)
    from ..worlds.transport import prepare

    prepare('ros')
    from .cell_line import RosCellLine

    return RosCellLine(plan)


def _record(episode: Episode, blank: PilotEpisode) -> PilotEpisode:
    kpi = Counter[str]()
    for outcome in episode.outcomes:
        kpi.update(outcome.kpi)
    thinking_s = sum(turn.latency_s for turn in episode.turns)
    return replace(blank, reached=episode.success, turns=len(episode.turns),
                   total_reward=sum(outcome.reward for outcome in episode.outcomes),
                   cycle_s=thinking_s + kpi.get('cycle_time', 0.0), kpi=dict(kpi),
                   gate_hits=sum(turn.command.rejection == 'refused' for turn in episode.turns))
