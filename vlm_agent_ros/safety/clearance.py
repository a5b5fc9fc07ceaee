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
        may_return: A motion that begins with the margin a little negative passes if it leads back; see ``breach``.
    """

    rule: str
    what: str
    limit: float
    sign: float = 1.0
    tolerance: float = 5e-4
    unit: str = 'm'
    may_return: bool = False


class Margins(Protocol):
    """Some margins of an arm."""

    @property
    def margins(self) -> Sequence[Margin]:
        """What the columns of ``sample`` and ``change`` are about; those of one rule are neighbours."""
        ...

    def sample(self, arm: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """(samples, margins) at arm positions and velocities (samples, joints)."""
        ...

    def change(self, motion: Segments) -> np.ndarray:
        """(segments, margins) the most that each margin can change within a segment, to and fro."""
        ...


def breach(found: Margins, motion: Segments, max_outside: float = 0.0) -> Violation | None:
    """The first rule found whose margin becomes negative, or None where it is certain that none does.

    Args:
        found: What is judged.
        motion: The arm's motion; finite numbers.
        max_outside: So far below zero a margin that ``may_return`` may begin, m, if it is not negative at the end and
            on the way never lower than it was before, to twice the tolerance. Otherwise an arm that a servo's error or
            a stop has left a hair outside could never move again.
    """
    margins = found.sample(np.concatenate([motion.positions[0, :1], motion.positions[1]]),
                           np.concatenate([motion.velocities[0, :1], motion.velocities[1]]))
    tolerance = np.array([margin.tolerance for margin in found.margins])
    returns = np.array([margin.may_return for margin in found.margins]) & (margins[0] >= -max_outside)
    best = np.maximum.accumulate(margins, axis=0)[:-1]
    granted = np.where(returns & (best < 0.0), tolerance - best, 0.0)  # (segments, margins)
    at_samples = np.concatenate([granted[:1], granted[:-1], np.zeros_like(granted[:1])])
    if (margins + at_samples < -_ROUNDING).any():
        times = np.append(motion.start_s[:1], motion.start_s + motion.width_s)
        return _worst(found.margins, margins, at_samples + _ROUNDING, times)
    ends = np.stack([margins[:-1], margins[1:]]) + granted
    samples = 0
    while True:
        doubtful = ((ends.sum(axis=0) - found.change(motion)) / 2 < -tolerance).any(axis=1)
        if not doubtful.any():
            return None
        motion, ends, granted = motion.rows(doubtful), ends[:, doubtful], granted[doubtful]
        motion, granted = motion.split(np.full(len(motion.width_s), _PARTS)), np.repeat(granted, _PARTS, axis=0)
        inner = np.arange(len(motion.start_s)).reshape(-1, _PARTS)[:, 1:].ravel()
        margins = found.sample(motion.positions[0, inner], motion.velocities[0, inner])
        samples += len(inner)
        allowed = granted[inner] + tolerance
        if samples > _MAX_SAMPLES or (margins < -allowed).any():
            return _worst(found.margins, margins, allowed, motion.start_s[inner])
        inside = (margins + granted[inner]).reshape(-1, _PARTS - 1, margins.shape[1])
        knots = np.concatenate([ends[0][:, None], inside, ends[1][:, None]], axis=1)
        ends = np.stack([part.reshape(-1, margins.shape[1]) for part in (knots[:, :-1], knots[:, 1:])])


def _worst(kinds: Sequence[Margin], margins: np.ndarray, allowed: np.ndarray, times: np.ndarray) -> Violation:
    """Of the first rule that is broken, the margin that is least; where none is, the one that is least of all.

    Args:
        kinds: What the columns are about.
        margins: (samples, margins)
        allowed: (samples, margins) by how much each may be negative.
        times: (samples,) s.
    """
    broken = (margins < -allowed).any(axis=0)
    first = kinds[int(np.argmax(broken) if broken.any() else np.argmin(margins.min(axis=0)))]
    columns = [i for i, kind in enumerate(kinds) if kind.rule == first.rule]
    left = (margins + allowed)[:, columns] if broken.any() else margins[:, columns]
    sample, among = np.unravel_index(int(np.argmin(left)), left.shape)
    kind = kinds[columns[among]]
    value = kind.limit + kind.sign * float(margins[sample, columns[among]])
    uncertain = '' if broken.any() else 'too close to a limit for too long to be certain: '
    return Violation(kind.rule, value, kind.limit, f'{uncertain}{kind.what} {value:.3f} {kind.unit} at '
                     f'{times[sample]:.2f} s, its limit is {kind.limit:g} {kind.unit}')
