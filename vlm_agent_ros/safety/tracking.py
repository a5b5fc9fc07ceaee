"""Whether the arm is where it was commanded to be, and whether a motion is under way."""

from __future__ import annotations

from collections import deque

import numpy as np

from ..cell import Cell
from ..motion.cubic import positions_at, velocities_at
from ..motion.monitor import MotionMonitor
from ..types import Trajectory

_APART_NS = 20_000_000  # of two joint states from which a speed follows: encoders are noisy, and stamps uneven
_GRIPPER_COMMANDS = 4  # remembered: a stop may follow soon after another
_SAMPLES = 9  # of the stretch of the motion on which a robot that lags may be


class Speedometer:
    """How fast the arm moves.

    Attributes:
        rates: (arm joints,) float64 velocities, rad/s; None before the first joint state.
    """

    def __init__(self) -> None:
        self.rates: np.ndarray | None = None
        self._before: tuple[int, np.ndarray] | None = None

    def update(self, arm: np.ndarray, stamp_ns: int) -> None:
        """Take a joint state in: (arm joints,) float64 measured, rad, and its stamp."""
        before_ns, before = self._before or (stamp_ns, arm)
        if self.rates is None or stamp_ns < before_ns:  # time has jumped: nothing is known
            self.rates, self._before = np.zeros_like(arm), (stamp_ns, arm.copy())
        elif stamp_ns - before_ns >= _APART_NS:
            self.rates = (arm - before) / ((stamp_ns - before_ns) * 1e-9)
            self._before = stamp_ns, arm.copy()


class Tracking:
    """Follows the arm along the motion that was commanded last.

    All times are seconds of one monotonic clock.
    """

    def __init__(self, cell: Cell) -> None:
        self._arm_joints = cell.robot.arm_joints
        self._latency_s = cell.autonomy.tracking_latency_s
        self._monitor = MotionMonitor(cell)
        self._arm: Trajectory | None = None
        self._started_s = 0.0
        self._gripper_joints = cell.robot.gripper_joints
        self._gripper: deque[tuple[Trajectory, float]] = deque(maxlen=_GRIPPER_COMMANDS)

    @property
    def moving(self) -> bool:
        """A motion was commanded, and no joint state has shown yet that it has ended."""
        return self._monitor.moving

    def command(self, trajectory: Trajectory, now_s: float) -> None:
        """A motion goes to the robot, which has to be at its first point at ``now_s``, now or soon."""
        self._monitor.command(trajectory, round(now_s * 1e9))
        if self._arm_joints[0] in trajectory.joint_names:
            self._arm, self._started_s = trajectory.select(self._arm_joints), now_s
        if self._gripper_joints[0] in trajectory.joint_names:
            self._gripper.append((trajectory.select(self._gripper_joints), now_s))

    def commanded(self, now_s: float) -> tuple[np.ndarray, np.ndarray] | None:
        """(arm joints,) rad and rad/s that the controller wants of the arm now; None where nothing moves it."""
        if self._arm is None or not self.moving:
            return None
        since = np.array([now_s - self._started_s])
        return positions_at(self._arm, since)[0], velocities_at(self._arm, since)[0]

    def gripper_commanded(self, now_s: float) -> np.ndarray | None:
        """(gripper joints,) rad or m where the controller wants the gripper now, or later; None where none was
        commanded."""
        if not self._gripper:
            return None
        trajectory, started_s = self._gripper[-1]
        return positions_at(trajectory, np.array([now_s - started_s]))[0]

    def gripper_was_commanded(self, at_s: float) -> np.ndarray | None:
        """(gripper joints,) where the controller wanted the gripper then, for certain; None where nobody knows.

        On the way to a single point it is not known where that begins: until then the command before it counts.
        """
        for trajectory, started_s in reversed(self._gripper):
            known_s = started_s + (trajectory.times_ns[0] * 1e-9 if len(trajectory.times_ns) == 1 else 0.0)
            if at_s >= known_s:
                return positions_at(trajectory, np.array([at_s - started_s]))[0]
        return None

    def forget_gripper(self) -> None:
        """What was commanded of the gripper holds no longer."""
        self._gripper.clear()

    def update(self, arm: np.ndarray, now_s: float) -> tuple[str, float]:
        """Take a joint state in.

        Args:
            arm: (arm joints,) float64 measured, rad.
            now_s: When it came.

        Returns:
            The joint that is farthest from the stretch of the motion commanded within the allowed latency, and how
            far, in rad; 0 while nothing moves.
        """
        self._monitor.update(round(now_s * 1e9), arm)
        if self._arm is None or not self.moving:
            return self._arm_joints[0], 0.0
        stretch = positions_at(self._arm, now_s - self._started_s - np.linspace(0.0, self._latency_s, _SAMPLES))
        error = np.maximum(stretch.min(axis=0) - arm, arm - stretch.max(axis=0))
        joint = int(np.argmax(error))
        return self._arm_joints[joint], max(0.0, float(error[joint]))
