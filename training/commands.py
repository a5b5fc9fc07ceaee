"""The agent's side of a turn without its policy: from a decision to a motion that the safety rules let pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vlm_agent_ros.actions import ActionError
from vlm_agent_ros.agent import Agent
from vlm_agent_ros.motion import MotionError
from vlm_agent_ros.policy.policy import Decision, PolicyInput
from vlm_agent_ros.safety.rules import SafetyRules
from vlm_agent_ros.types import Observation, Trajectory

REJECTIONS = ('illegal', 'unplannable', 'refused')


@dataclass(frozen=True)
class Command:
    """What becomes of a decision.

    Attributes:
        trajectory: The motion, or None for a turn without one.
        rejection: Empty, or why there is no motion: ``illegal`` (no action of the language), ``unplannable`` (out of
            reach or of the workspace) or ``refused`` (by the rules of the gate).
        detail: The reason as a sentence.
    """

    trajectory: Trajectory | None
    rejection: str = ''
    detail: str = ''


class Commander:
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

    def observe(self, observation: Observation) -> PolicyInput:
        """What the policy sees of an observation."""
        return self.agent.policy_input(observation)

    def command(self, decision: Decision, observation: Observation) -> Command:
        """Plan a decision from the state that it was made in, and check the plan."""
        action = decision.action
        if not decision.legal:
            match = self._search.search(decision.text) if self._search else None
            if match is None:
                return Command(None, 'illegal', 'the output holds no legal action')
            action = match[0]
        try:
            trajectory = self.agent.plan(action, observation)
        except ActionError as error:
            return Command(None, 'illegal', str(error))
        except MotionError as error:
            return Command(None, 'unplannable', str(error))
        violation = self.rules.check(trajectory, observation) if trajectory is not None else None
        if violation is not None:
            return Command(None, 'refused', violation.message)
        return Command(trajectory)


CommanderOf = Callable[[str], Commander]
"""The commander of a world file, by the world's name."""
