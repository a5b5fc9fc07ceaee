"""The agent's side of a turn without its policy: from an observation to what the policy sees, and from its decision to
what the world carries out. In the cell, that is a motion that the safety rules let pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from vlm_agent_ros.actions import ActionError, Pick, Place, Push, Stack
from vlm_agent_ros.agent import Agent
from vlm_agent_ros.motion import MotionError
from vlm_agent_ros.policy.policy import Decision, PolicyInput
from vlm_agent_ros.safety.rules import SafetyRules
from vlm_agent_ros.types import Observation

REJECTIONS = ('illegal', 'unplannable', 'refused')


@dataclass(frozen=True)
class Command:
    """What becomes of a decision.

    Attributes:
        move: What the world carries out: a trajectory of the cell, the index of an action of a Gymnasium environment,
            or None for a turn in which nothing is wanted to move. What a cell cannot carry out becomes a motion that
            goes nowhere, for a task may end where the policy wants no motion.
        rejection: Empty, or what was wrong with the decision: ``illegal`` (no admissible action), ``unplannable`` (out
            of reach or of the workspace) or ``refused`` (by the rules of the gate).
        detail: The reason as a sentence.
    """

    move: Any
    rejection: str = ''
    detail: str = ''


class Commander(Protocol):
    """Belongs to a pool of worlds: it alone knows what their observations hold and what they carry out."""

    def observe(self, observation: Any, previous: str = '') -> PolicyInput:
        """What the policy sees of an observation, given what it said of the turn before."""
        ...

    def command(self, decision: Decision, observation: Any, seed: int) -> Command:
        """What becomes of a decision.

        Args:
            decision: Of the policy.
            observation: On which it was made.
            seed: Of anything random; a function of episode and turn.
        """
        ...

    def marker(self, action: str) -> tuple[float, float] | None:
        """Where in the image an action points, as shares of width and height, or None."""
        ...


class CellCommander:
    """Turns decisions into commands of one cell, under the same rules as the gate.

    Args:
        agent: Prompt, action language and planner of the cell.
        rules: Safety rules of the cell.
        illegal_rule: ``lost_turn``, or ``first_match``: the first legal action found anywhere in an illegal output
            counts, as in RL4VLM's ALFWorld runs.
    """

    def __init__(self, agent: Agent, rules: SafetyRules, illegal_rule: str = 'lost_turn') -> None:
        self.agent, self.rules = agent, rules
        self._search = re.compile(agent.language.regex) if illegal_rule == 'first_match' else None

    def observe(self, observation: Observation, previous: str = '') -> PolicyInput:
        """See Commander."""
        return self.agent.policy_input(observation, previous)

    def command(self, decision: Decision, observation: Observation, seed: int) -> Command:
        """Plan a decision from the state that it was made in, and check the plan."""
        action = decision.action
        if not decision.legal:
            match = self._search.search(decision.text) if self._search else None
            if match is None:
                return self._rejected(observation, 'illegal', 'the output holds no legal action')
            action = match[0]
        try:
            trajectory = self.agent.plan(action, observation)
        except ActionError as error:
            return self._rejected(observation, 'illegal', str(error))
        except MotionError as error:
            return self._rejected(observation, 'unplannable', str(error))
        if trajectory is None:
            return Command(None)
        verdict = self.rules.judge(trajectory, observation)
        if verdict.rejection is not None:
            return self._rejected(observation, 'refused', verdict.rejection.message)
        return Command(verdict.trajectory)

    def _rejected(self, observation: Observation, rejection: str, detail: str) -> Command:
        return Command(self.agent.hold(observation), rejection, detail)

    def marker(self, action: str) -> tuple[float, float] | None:
        """See Commander."""
        try:
            command = self.agent.language.parse(action)
        except ActionError:
            return None
        if not isinstance(command, (Pick, Place, Push, Stack)):
            return None
        return (command.column + 0.5) / self.agent.cell.grid, (command.row + 0.5) / self.agent.cell.grid


CommanderOf = Callable[[str], Commander]
"""The commander of a world, by the name that episode requests give it."""
