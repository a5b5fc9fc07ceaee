"""Whether tool and links stay where they may be during a whole motion, not only at its points.

Every rule is a margin (m, or m/s for the speed of the tool) that must not become negative. How far a margin can change
within a segment is bounded. Between two samples it is therefore at least (margin + margin' - bound of the change) / 2;
where that leaves a doubt the segment is split, until there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..motion.segments import Segments
from .verdict import Violation

# Computed positions are rounded; this much (m, m/s) beyond a limit is no violation.
_ROUNDING = 1e-6
_PARTS = 4
# More samples than a motion of the planner needs by far: a proposal that keeps the rules busy is refused.
_MAX_SAMPLES = 20_000


@dataclass(frozen=True)
class Margin:
    """What one margin is about; its value is ``limit + sign * margin``.

    Attributes:
        rule: ``workspace``, ``tool_speed``, ``keep_out`` or ``collision``.
        what: Beginning of the message.
        limit: The limit that the value is compared with, in ``unit``.
        sign: 1 where the value must not fall below the limit, -1 where it must not rise above it.
        tolerance: By how much the margin may be uncertain, or negative, between two samples; splitting has to end.
        unit: ``m`` or ``m/s``.
    """

    rule: str
    what: str
    limit: float
    sign: float = 1.0
    tolerance: float = 5e-4
    unit: str = 'm'


class Margins(Protocol):
    """Some margins of an arm."""

    margins: Sequence[Margin]

    def sample(self, arm: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """(samples, margins) at arm positions and velocities (samples, joints)."""
        ...

    def change(self, motion: Segments) -> np.ndarray:
        """(segments, margins) the most that each margin can change within a segment, to and fro."""
        ...


def breach(found: Margins, motion: Segments) -> Violation | None:
    """The first rule found whose margin becomes negative, or None where it is certain that none does.

    Args:
        found: What is judged.
        motion: The arm's motion; finite numbers.
    """
    margins = found.sample(np.concatenate([motion.positions[0, :1], motion.positions[1]]),
                           np.concatenate([motion.velocities[0, :1], motion.velocities[1]]))
    if (margins < -_ROUNDING).any():
        times = np.append(motion.start_s[:1], motion.start_s + motion.width_s)
        return _worst(found.margins, margins, times, np.full(len(found.margins), _ROUNDING))
    tolerance = np.array([margin.tolerance for margin in found.margins])
    ends = np.stack([margins[:-1], margins[1:]])
    samples = 0
    while True:
        doubtful = ((ends.sum(axis=0) - found.change(motion)) / 2 < -tolerance).any(axis=1)
        if not doubtful.any():
            return None
        motion, ends = motion.rows(doubtful), ends[:, doubtful]
        motion = motion.split(np.full(len(motion.width_s), _PARTS))
        inner = np.arange(len(motion.start_s)).reshape(-1, _PARTS)[:, 1:].ravel()
        margins = found.sample(motion.positions[0, inner], motion.velocities[0, inner])
        samples += len(inner)
        if samples > _MAX_SAMPLES or (margins < -tolerance).any():
            return _worst(found.margins, margins, motion.start_s[inner], tolerance)
        knots = np.concatenate([ends[0][:, None], margins.reshape(-1, _PARTS - 1, margins.shape[1]), ends[1][:, None]],
                               axis=1)
        ends = np.stack([part.reshape(-1, margins.shape[1]) for part in (knots[:, :-1], knots[:, 1:])])


def _worst(kinds: Sequence[Margin], margins: np.ndarray, times: np.ndarray, tolerance: np.ndarray) -> Violation:
    """Of the first rule that is broken, the margin that is least; where none is, the one that is least of all."""
    broken = (margins < -tolerance).any(axis=0)
    first = kinds[int(np.argmax(broken) if broken.any() else np.argmin(margins.min(axis=0)))]
    columns = [i for i, kind in enumerate(kinds) if kind.rule == first.rule]
    sample, among = np.unravel_index(int(np.argmin(margins[:, columns])), (len(margins), len(columns)))
    kind = kinds[columns[among]]
    value = kind.limit + kind.sign * float(margins[sample, columns[among]])
    uncertain = '' if broken.any() else 'too close to a limit for too long to be certain: '
    return Violation(kind.rule, value, kind.limit, f'{uncertain}{kind.what} {value:.3f} {kind.unit} at '
                     f'{times[sample]:.2f} s, its limit is {kind.limit:g} {kind.unit}')
