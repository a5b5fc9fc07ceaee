"""How a moving arm comes to rest: no farther on than its limits of acceleration make it go."""

from __future__ import annotations

import numpy as np

from ..cell import Cell
from ..motion.kinematics import Kinematics
from ..types import Trajectory

# A controller starts from its own position and speed, which differ from those that joint states tell, because these are
# old: by dp and dv its acceleration is larger by 6 dp / t^2 + 4 dv / t. That is left to it, and at least so much time;
# an arm that rests, or nearly, has it too.
_SHARE = 0.8
_LEAST_S = 0.15
_MEASURED_S = 0.05  # a speed is a difference of two joint states, and so old that it lags behind by some of this


class Brake:
    """Brings the arm of one cell to rest.

    All joints brake evenly and for the same time, so that the tool goes straight on; the one that is fastest for its
    limit brakes with most of ``robot.max_acceleration``.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics) -> None:
        arm = len(cell.robot.arm_joints)
        self._joints = cell.robot.arm_joints
        self._lower, self._upper = kinematics.lower[:arm], kinematics.upper[:arm]
        self._acceleration = np.array(cell.robot.max_acceleration[:arm])
        # Nothing moves faster than the gate lets it: a larger figure is an encoder that has jumped.
        self._velocity = cell.velocity_limits[:arm]

    def rates_now(self, measured: np.ndarray | None, commanded: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """(arm joints,) rad/s: what is commanded now, as far as the arm can have got there since it was measured.

        Args:
            measured: (arm joints,) rad/s; None where nothing is.
            commanded: (arm joints,) rad and rad/s; None where nothing is.
        """
        measured = np.zeros(len(self._joints)) if measured is None else measured
        if commanded is None:
            return measured
        reach = self._acceleration * _MEASURED_S
        return np.clip(commanded[1], measured - reach, measured + reach)

    def stop(self, position: np.ndarray, velocity: np.ndarray) -> Trajectory:
        """From moving to rest.

        Args:
            position: (arm joints,) float64 where the arm is, rad.
            velocity: (arm joints,) float64 rad/s.

        Returns:
            Two points: now, and at rest. Commanded is the second one alone: a controller comes from where it is.
        """
        velocity = np.clip(velocity, -self._velocity, self._velocity)
        braking_s = max(_LEAST_S, float(np.max(np.abs(velocity) / (_SHARE * self._acceleration))))
        # No farther than a limit; a joint that is measured beyond it stays where it is.
        end = np.clip(position + velocity * braking_s / 2.0, np.minimum(position, self._lower),
                      np.maximum(position, self._upper))
        return Trajectory(self._joints, np.array([0, round(braking_s * 1e9)]), np.stack([position, end]),
                          np.stack([velocity, np.zeros_like(velocity)]))


def last_point(trajectory: Trajectory) -> Trajectory:
    """Where a motion ends, as a motion."""
    return Trajectory(trajectory.joint_names, trajectory.times_ns[-1:], trajectory.positions[-1:],
                      trajectory.velocities[-1:])
