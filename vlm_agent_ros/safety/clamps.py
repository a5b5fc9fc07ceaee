"""The harmless motion near one that breaks a limit, for the rules that the cell file lets clamp."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import Trajectory

# A motion that was brought exactly to its limit would fail the same rule by rounding.
_MARGIN = 1e-6


def slow_down(trajectory: Trajectory, factor: float) -> Trajectory:
    """The same path in ``factor`` times the time, factor above 1."""
    factor *= 1.0 + _MARGIN
    times_ns = np.ceil(trajectory.times_ns * factor).astype(np.int64)
    return replace(trajectory, times_ns=times_ns, velocities=trajectory.velocities / factor)


def limit_positions(trajectory: Trajectory, lower: np.ndarray, upper: np.ndarray) -> Trajectory:
    """Points brought back within (joints,) limits, where the joints then rest.

    A joint that moves through its limit between two points inside rests at both of them.
    """
    positions = np.clip(trajectory.positions, lower, upper)
    outward = (((positions >= upper) & (trajectory.velocities > 0.0))
               | ((positions <= lower) & (trajectory.velocities < 0.0)))
    moved = outward | (positions != trajectory.positions)
    return replace(trajectory, positions=positions, velocities=np.where(moved, 0.0, trajectory.velocities))


def limit_efforts(trajectory: Trajectory, limit: np.ndarray) -> Trajectory:
    """Efforts brought back within plus and minus (joints,) limits."""
    assert trajectory.efforts is not None
    return replace(trajectory, efforts=np.clip(trajectory.efforts, -limit, limit))
