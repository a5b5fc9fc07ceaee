"""What the rules are asked and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..types import Trajectory

# Rules that tell something about the operator, the cell, or the instruction that it was given.
_OF_OTHERS = ('approval', 'superseded', 'stop', 'driver', 'inactive', 'inputs', 'task')


def is_gate_hit(rule: str) -> bool:
    """Whether it is the proposal, and so the checkpoint, that is to blame where a rule is hit."""
    return rule not in _OF_OTHERS


@dataclass(frozen=True)
class Ages:
    """How old a proposal and what it rests on are, in seconds; None where nothing ages, as in lock step.

    Attributes:
        image_s: Of the image that the proposal rests on.
        joint_s: Of the measured joint positions that it is checked against.
        task_s: Of the task text.
        proposal_s: Of the proposal itself, since it was received: one that waits for the operator ages.
        since_last_s: Since the proposal before this one, whatever became of it.
    """

    image_s: float | None = None
    joint_s: float | None = None
    task_s: float | None = None
    proposal_s: float | None = None
    since_last_s: float | None = None


@dataclass(frozen=True)
class Violation:
    """A rule that a proposal broke.

    Attributes:
        rule: Name of the rule as in docs/gate.md, e.g. ``velocity``.
        value: What was proposed.
        limit: What is allowed.
        message: Both in one sentence, with the joint or axis and the time in the motion.
        handled: ``reject``, or ``clamp`` where the motion was changed so that it keeps the limit.
    """

    rule: str
    value: float | str
    limit: float | str
    message: str
    handled: str = 'reject'


@dataclass(frozen=True)
class Verdict:
    """What becomes of a proposal.

    Attributes:
        trajectory: What may be forwarded, clamped where the cell file says so; None if the proposal is refused.
        violations: Every rule that was hit, in the order in which they were; a rejection can only be the last.
    """

    trajectory: Trajectory | None
    violations: tuple[Violation, ...] = ()

    @property
    def rejection(self) -> Violation | None:
        """The rule for which the proposal is refused, if it is."""
        return self.violations[-1] if self.trajectory is None else None


class Measured(Protocol):
    """The measured joints; an ``Observation`` is one."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """(joints,) names."""
        ...

    @property
    def joint_positions(self) -> np.ndarray:
        """(joints,) float64, rad or m."""
        ...
