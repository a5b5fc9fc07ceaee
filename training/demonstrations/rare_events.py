"""Rare events: what a decision has to answer that seldom happens, found from what the simulator knows.

Nearly all decisions of an expert follow from a scene in order. Those that put things right again are few, and a policy
that is to recover from its own mistakes needs more of them than there are: ``weights`` of ``vlm-agent sft``.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlm_agent_ros.types import Outcome

RARE_EVENTS = {
    'recovery': 'the turn before carried out another action than the expert asked for',
    'wrong_object_held': 'the gripper holds an object that the task does not call for',
    'dropped': 'an object that was held has left the gripper, though no place had been carried out',
    'regrasp': 'the pick of the turn before has left the gripper empty',
    'collision': 'the arm touched the table in the turn before',
    'out_of_view': 'an object that is not held lies outside the image',
    'corrected': 'an operator has said at the cell what would have been right, and the decision is that',
    'rejected': 'an operator has rejected what the agent proposed',
    'demonstrated': 'the operator has shown it by guiding the arm',
    'approved': 'an operator has released it, and the episode succeeded',
}
"""Names with their meaning, for the decision that follows the event; the last four come from a cell's log."""


@dataclass(frozen=True)
class PastTurn:
    """The turn before a decision.

    Attributes:
        action: What the expert asked for.
        executed: What was carried out.
        held: The gripper held something before it.
        outcome: What it led to.
    """

    action: str
    executed: str
    held: bool
    outcome: Outcome


def rare_events(past: PastTurn | None, *, held: bool, out_of_view: bool) -> tuple[str, ...]:
    """The rare events that a decision answers to, in the order of ``RARE_EVENTS``.

    Args:
        past: The turn before; None at the start of an episode.
        held: The gripper holds something now.
        out_of_view: An object that is not held lies outside the image.
    """
    found = {'out_of_view': out_of_view}
    if past is not None:
        skill, kpi = past.executed.split()[0], past.outcome.kpi
        found |= {
            'recovery': past.executed != past.action,
            'wrong_object_held': kpi.get('wrong_object', 0.0) > 0.0,
            'dropped': past.held and not held and skill not in ('place', 'stack'),
            'regrasp': skill == 'pick' and not held,
            'collision': kpi.get('safety', 0.0) > 0.0,
        }
    return tuple(name for name in RARE_EVENTS if found.get(name))
