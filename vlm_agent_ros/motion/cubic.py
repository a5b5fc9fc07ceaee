"""The cubic through the positions and velocities of a trajectory, which joint_trajectory_controller follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import Trajectory


def positions_at(trajectory: Trajectory, times_s: np.ndarray) -> np.ndarray:
    """Where a controller wants the joints; before the first and after the last point it is at that point.

    Args:
        trajectory: At least one point, times rising.
        times_s: (times,) float64, from the start of the motion.

    Returns:
        (times, joints) float64, rad or m.
    """
    knots, positions, velocities = trajectory.times_ns * 1e-9, trajectory.positions, trajectory.velocities
    if len(knots) == 1:
        return np.repeat(positions, len(times_s), axis=0)
    times = np.clip(times_s, knots[0], knots[-1])
    segment = np.clip(np.searchsorted(knots, times, side='right') - 1, 0, len(knots) - 2)
    width = (knots[segment + 1] - knots[segment])[:, None]
    s = (times[:, None] - knots[segment, None]) / width
    return ((1 + 2 * s) * (1 - s) ** 2 * positions[segment] + s**2 * (3 - 2 * s) * positions[segment + 1]
            + width * s * (1 - s) * ((1 - s) * velocities[segment] - s * velocities[segment + 1]))


def slowed(trajectory: Trajectory, share: float) -> Trajectory:
    """The same path at a share of the speed, 0 < share <= 1: no velocity or acceleration gets larger."""
    if share >= 1.0:
        return trajectory
    times_ns = np.ceil(trajectory.times_ns / share).astype(np.int64)
    return replace(trajectory, times_ns=times_ns, velocities=trajectory.velocities * share)


def velocities_at(trajectory: Trajectory, times_s: np.ndarray) -> np.ndarray:
    """How fast a controller wants the joints to be; zero before the first and after the last point.

    Args:
        trajectory: At least one point, times rising.
        times_s: (times,) float64, from the start of the motion.

    Returns:
        (times, joints) float64, rad/s or m/s.
    """
    knots, positions, velocities = trajectory.times_ns * 1e-9, trajectory.positions, trajectory.velocities
    if len(knots) == 1:
        return np.zeros((len(times_s), positions.shape[1]))
    segment = np.clip(np.searchsorted(knots, times_s, side='right') - 1, 0, len(knots) - 2)
    width = (knots[segment + 1] - knots[segment])[:, None]
    s = (times_s[:, None] - knots[segment, None]) / width
    inner = (6 * s * (1 - s) * (positions[segment + 1] - positions[segment]) / width
             + (1 - s) * (1 - 3 * s) * velocities[segment] + s * (3 * s - 2) * velocities[segment + 1])
    return np.where(((times_s >= knots[0]) & (times_s <= knots[-1]))[:, None], inner, 0.0)
