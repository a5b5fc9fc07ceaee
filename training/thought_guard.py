"""The thought guard: the simulator knows the scene, so it can check every thought and say the right one.

PPO rewards outcomes only; a thought may drift from what the image shows (thought collapse) as long as the action is
right, and a policy that is sure of something false hardly ever samples the truth. The guard needs no larger model: the
world sends the scripted expert's thought with the outcome of a turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Decision, Policy

from .episodes import Turn

TOLERANCE = 2  # cells by which a stated coordinate may be off; a cell is about 1.2 cm of the table

_NUMBER = re.compile(r'\d+')


def is_grounded(thought: str, truth: str, tolerance: int = TOLERANCE) -> bool:
    """Whether a thought states what is true: the same words, every number within the tolerance."""
    if _NUMBER.sub('#', thought) != _NUMBER.sub('#', truth):
        return False
    return all(abs(int(a) - int(b)) <= tolerance for a, b in zip(_NUMBER.findall(thought), _NUMBER.findall(truth)))


def grounding_rate(turns: Iterable[Turn]) -> float | None:
    """Share of thoughts that agree with the true scene; None where no simulator says what is true."""
    checked = [is_grounded(turn.decision.thought, turn.outcome.expert_thought)
               for turn in turns if turn.outcome is not None and turn.outcome.expert_thought]
    return sum(checked) / len(checked) if checked else None


def corrections(turns: Iterable[Turn], policy: Policy) -> list[Decision | None]:
    """What should have been written, for every turn whose thought was false; None for the others.

    Turns of a group share their observation: it is corrected once. A correction that the action language does not
    know is left out.
    """
    seen: set[tuple[str, bytes]] = set()
    found: list[Decision | None] = []
    for turn in turns:
        outcome, key = turn.outcome, (turn.input.prompt, turn.input.image.tobytes())
        right = None
        if outcome is not None and outcome.expert_thought and key not in seen and not is_grounded(
                turn.decision.thought, outcome.expert_thought):
            seen.add(key)
            written = policy.written(format_output(outcome.expert_thought, outcome.expert_action))
            right = written if written.legal else None
        found.append(right)
    return found
