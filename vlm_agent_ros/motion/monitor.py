"""When a motion has ended: the same rule at the cell as in the simulated worlds."""

from __future__ import annotations

import numpy as np

from ..cell import Cell
from ..types import Trajectory


class MotionMonitor:
    """Follows the motion that was commanded last.

    It has ended when its time is over and the arm is at its last point and at rest, or when ``motion.time_limit_s``
    more have passed: a gripper that holds something, or a robot that was stopped, never arrives.

    All times are nanoseconds of one clock, that of the stamps of the joint states.
    """

    def __init__(self, cell: Cell) -> None:
        self._motion, self._joints = cell.motion, cell.robot.arm_joints
        self._goal: np.ndarray | None = None
        self._end_ns = 0
        self._moving = False
        self._last: tuple[int, np.ndarray] | None = None

    @property
    def moving(self) -> bool:
        """A motion was commanded and has not ended yet."""
        return self._moving

    def command(self, trajectory: Trajectory, now_ns: int) -> None:
        """A command was sent to a controller; it replaces the motion before, its other half extends it."""
        end_ns = now_ns + (int(trajectory.times_ns[-1]) if len(trajectory.times_ns) else 0)
        if all(name in trajectory.joint_names for name in self._joints):
            self._goal = trajectory.select(self._joints).positions[-1]
            self._end_ns = end_ns
        else:
            self._end_ns = max(self._end_ns, end_ns) if self._moving else end_ns
        self._moving = True

    def update(self, stamp_ns: int, positions: np.ndarray) -> bool:
        """Judge by a joint state.

        Args:
            stamp_ns: Stamp of the joint state.
            positions: (arm joints,) float64 measured, rad.

        Returns:
            True if the motion ended with this joint state.
        """
        before, self._last = self._last, (stamp_ns, positions)
        if not self._moving or stamp_ns < self._end_ns:
            return False
        late = stamp_ns > self._end_ns + int(self._motion.time_limit_s * 1e9)
        self._moving = not (late or (self._arrived(positions) and self._at_rest(before)))
        return not self._moving

    def _arrived(self, positions: np.ndarray) -> bool:
        return self._goal is None or bool(np.abs(positions - self._goal).max() < self._motion.settle_tolerance)

    def _at_rest(self, before: tuple[int, np.ndarray] | None) -> bool:
        """By the difference to the joint state before: not every driver measures velocities."""
        assert self._last is not None
        if before is None or self._last[0] <= before[0]:
            return False
        speed = np.abs(self._last[1] - before[1]).max() / ((self._last[0] - before[0]) * 1e-9)
        return bool(speed < self._motion.rest_velocity)
