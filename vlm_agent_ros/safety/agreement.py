"""What was done at the cell against what the agent proposed: the score of the shadow mode."""

from __future__ import annotations

import numpy as np

from ..cell import Cell
from ..motion.kinematics import Kinematics
from ..types import Trajectory

_PAUSE_S = 1.0  # a program may rest for a moment within one handling


class _Handling:
    """What a motion comes to: where the tool was farthest from its start, and whether the gripper is open at the end.

    Farthest is where something is grasped or released, or where a push ends.
    """

    def __init__(self, kinematics: Kinematics, arm: np.ndarray) -> None:
        self._kinematics = kinematics
        self._start = self.place = kinematics.forward(arm)[0]
        self.opened: bool | None = None

    def add(self, arm: np.ndarray) -> None:
        """The arm is, or shall be, here: (arm joints,) rad."""
        tool = self._kinematics.forward(arm)[0]
        if np.linalg.norm(tool - self._start) > np.linalg.norm(self.place - self._start):
            self.place = tool

    def agrees_with(self, other: _Handling, distance_m: float) -> bool:
        """Both come to the same; a gripper that one of them says nothing about is not compared."""
        same = None in (self.opened, other.opened) or self.opened == other.opened
        return same and bool(np.linalg.norm(self.place - other.place) <= distance_m)


class Agreement:
    """Compares the handlings of an operator or a program with the proposals that were made before them.

    A handling begins when the arm leaves its rest or a controller gets a command, and ends when the arm has rested
    for a second and the time of every command is over. It is compared with the last proposal before it began.

    Times are seconds of the clock by which the robot moves.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics) -> None:
        self._cell, self._kinematics = cell, kinematics
        self._proposed: Trajectory | None = None
        self._compared: Trajectory | None = None
        self._handling: _Handling | None = None
        self._rest: np.ndarray | None = None
        self._last: tuple[float, np.ndarray] | None = None
        self._busy_until_s = 0.0
        self.agreed = self.disagreed = 0

    def propose(self, trajectory: Trajectory) -> None:
        """The agent would do this now."""
        if self._cell.robot.arm_joints[0] in trajectory.joint_names:
            self._proposed = trajectory

    def command(self, trajectory: Trajectory, now_s: float) -> None:
        """Somebody else has commanded a controller."""
        robot, handling = self._cell.robot, self._begin()
        if handling is None:
            return
        self._busy_until_s = max(self._busy_until_s, now_s + trajectory.duration_s + _PAUSE_S)
        if all(name in trajectory.joint_names for name in robot.arm_joints):
            for arm in trajectory.select(robot.arm_joints).positions:
                handling.add(arm)
        if all(name in trajectory.joint_names for name in robot.gripper_joints):
            handling.opened = self._ends_open(trajectory)

    def measured(self, positions: np.ndarray, now_s: float) -> bool:
        """Take a joint state in: (joints,) float64 in the cell's order; whether a handling ended and was scored."""
        arm = positions[:len(self._cell.robot.arm_joints)]
        before, self._last = self._last, (now_s, arm)
        if before is None or self._rest is None:
            self._rest = arm
            return False
        moving = np.abs(arm - before[1]).max() > self._cell.motion.rest_velocity * max(now_s - before[0], 1e-6)
        if moving and np.abs(arm - self._rest).max() > self._cell.motion.settle_tolerance:
            self._begin()
            self._busy_until_s = max(self._busy_until_s, now_s + _PAUSE_S)
        if self._handling is None:
            self._rest = self._rest if moving else arm
            return False
        self._handling.add(arm)
        return now_s >= self._busy_until_s and self._end(positions)

    def values(self) -> dict[str, str]:
        """The score so far, to be shown."""
        scored = self.agreed + self.disagreed
        return {'agreed': str(self.agreed), 'disagreed': str(self.disagreed), 'scored': str(scored),
                'agreement': f'{self.agreed / scored:.3f}' if scored else 'none'}

    def _begin(self) -> _Handling | None:
        """The handling that is under way, or one that begins now; None where nobody knows where the arm is."""
        if self._handling is None and self._rest is not None:
            self._handling = _Handling(self._kinematics, self._rest)
            self._compared, self._proposed = self._proposed, None
        return self._handling

    def _end(self, positions: np.ndarray) -> bool:
        done, self._handling, self._rest = self._handling, None, positions[:len(self._cell.robot.arm_joints)]
        if self._compared is None or done is None:
            return False
        if done.opened is None:
            done.opened = self._is_open(positions[len(self._cell.robot.arm_joints)])
        arms = self._compared.select(self._cell.robot.arm_joints).positions
        proposed = _Handling(self._kinematics, arms[0])
        for arm in arms[1:]:
            proposed.add(arm)
        if self._cell.robot.gripper_joints[0] in self._compared.joint_names:
            proposed.opened = self._ends_open(self._compared)
        agrees = done.agrees_with(proposed, self._cell.autonomy.agreement_distance_m)
        self.agreed += agrees
        self.disagreed += not agrees
        return True

    def _ends_open(self, trajectory: Trajectory) -> bool:
        return self._is_open(trajectory.select(self._cell.robot.gripper_joints).positions[-1, 0])

    def _is_open(self, position: float) -> bool:
        joint = self._cell.robot.gripper_joints[:1]
        return self._cell.gripper_state(joint, np.array([position])) == 'open'
