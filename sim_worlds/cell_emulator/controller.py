"""A controller that behaves like joint_trajectory_controller of ros2_control behind the limits of a robot's driver."""

from __future__ import annotations

import numpy as np

from vlm_agent_ros.motion.cubic import positions_at, velocities_at
from vlm_agent_ros.types import Trajectory

# A driver takes no command that would make the arm jump (rad or m); the gate's own limit is tighter.
_START_TOLERANCE = 0.15
_ROUNDING = 1e-6  # joint limits pass through text and float arithmetic; so much beyond them is no violation, rad or m


class Refused(ValueError):
    """The controller does not take a trajectory; the message says why."""


class TrajectoryController:
    """Follows the trajectory that it was given last, and holds its last point.

    Args:
        joints: Names, in the order of every array here.
        lower: (joints,) float64 position limits, rad or m.
        upper: (joints,) float64.
        position: (joints,) float64 that is held at first.

    Attributes:
        accepted: Trajectories that were taken, requests to hold included.
        refused: Trajectories that were not.
        reason: Why the last of them was refused; empty before the first.
    """

    def __init__(self, joints: tuple[str, ...], lower: np.ndarray, upper: np.ndarray, position: np.ndarray) -> None:
        self.joints = joints
        self.accepted = self.refused = 0
        self.reason = ''
        self._lower, self._upper = lower, upper
        self.hold(position)

    @property
    def moving(self) -> bool:
        """The last point has not been reached in time."""
        return self._time_s < self._trajectory.duration_s

    def hold(self, position: np.ndarray) -> None:
        """Forget the trajectory and hold (joints,) rad or m."""
        self._trajectory = Trajectory(self.joints, np.zeros(1, np.int64), position[None].copy(),
                                      np.zeros((1, len(self.joints))))
        self._time_s = 0.0

    def receive(self, trajectory: Trajectory | None, late_s: float, measured: np.ndarray) -> None:
        """Take a trajectory in place of the one before.

        Args:
            trajectory: In any order of the joints; None, a trajectory without points, to hold where the arm is.
            late_s: Time (s) since the stamp of its header, at which it has to start; 0 where it has none.
            measured: (joints,) float64, rad or m.

        Raises:
            Refused: It is none that a robot can follow; the one before goes on.
        """
        try:
            wanted = None if trajectory is None else self._checked(trajectory, late_s, measured)
        except Refused as error:
            self.refuse(str(error))
            raise
        self.accepted += 1
        if wanted is None:
            self.hold(measured)
        else:
            self._trajectory, self._time_s = wanted, late_s

    def refuse(self, reason: str) -> None:
        """Count a trajectory that never got as far as ``receive``."""
        self.refused += 1
        self.reason = reason

    def update(self, period_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Let a control period pass.

        Returns:
            Set-points (joints,) of position and velocity, rad or m and per second.
        """
        self._time_s += period_s
        times_s = np.array([self._time_s])
        return positions_at(self._trajectory, times_s)[0], velocities_at(self._trajectory, times_s)[0]

    def _checked(self, trajectory: Trajectory, late_s: float, measured: np.ndarray) -> Trajectory:
        """The trajectory in the controller's order of joints, from where the arm is."""
        names = trajectory.joint_names
        for name in names:
            if name not in self.joints:
                raise Refused(f'joint {name!r} is not one of this controller')
        for name in self.joints:
            if names.count(name) != 1:
                raise Refused(f'joint {name!r} must be in the trajectory once')
        wanted = trajectory.select(self.joints)
        if not (np.isfinite(wanted.positions).all() and np.isfinite(wanted.velocities).all()):
            raise Refused('a position or velocity is not a finite number')
        if wanted.times_ns[0] < 0 or (np.diff(wanted.times_ns) <= 0).any():
            raise Refused('the times of the points are not strictly increasing from 0 on')
        if late_s > 0.0 and late_s > wanted.duration_s:
            raise Refused(f'it ended {late_s - wanted.duration_s:.2f} s ago')
        excess = np.maximum(wanted.positions - self._upper, self._lower - wanted.positions).max(axis=0)
        if excess.max() > _ROUNDING:
            raise Refused(f'joint {self.joints[int(excess.argmax())]!r} would go {excess.max():.3f} beyond its limit')
        if wanted.times_ns[0] * 1e-9 > late_s:
            return self._led_in(wanted, late_s, measured)
        error = np.abs(positions_at(wanted, np.array([late_s]))[0] - measured)
        if error.max() > _START_TOLERANCE:
            raise Refused(f'joint {self.joints[int(error.argmax())]!r} would jump by {error.max():.3f}')
        return wanted

    def _led_in(self, wanted: Trajectory, late_s: float, measured: np.ndarray) -> Trajectory:
        """With the way from the measured position and the present set velocity to a first point yet to come."""
        _, velocity = self.update(0.0)
        return Trajectory(self.joints, np.append(round(late_s * 1e9), wanted.times_ns),
                          np.vstack([measured, wanted.positions]), np.vstack([velocity, wanted.velocities]))
