"""How fast arm and gripper move, as joint states tell, whether another motion may begin then, and how they are held."""

from __future__ import annotations

import math

import numpy as np

from ..cell import Cell
from ..motion.kinematics import Kinematics
from ..motion.segments import Segments
from ..types import Trajectory
from .braking import Brake, last_point
from .supervisor import Supervisor
from .tracking import Speedometer
from .verdict import Violation

_MAX_AHEAD_S = 0.1  # so old may a joint state be from which follows where a moving arm is
_SQUEEZES = 0.02  # a set-point so much of the stroke farther closed than fingers that rest holds something between them
_FINGERS_REST = 0.1  # of the speed at which motion.gripper_time_s opens the gripper


class Moving:
    """Arm and gripper of one cell."""

    def __init__(self, cell: Cell, kinematics: Kinematics) -> None:
        self._cell = cell
        self._arm, self._fingers, self._brake = Speedometer(), Speedometer(), Brake(cell, kinematics)
        self._max_change = cell.acceleration_limits[:len(cell.robot.arm_joints)]

    def joint_state(self, positions: np.ndarray, stamp_ns: int) -> None:
        """A usable joint state: (joints,) float64 in the cell file's order."""
        arm, fingers = np.split(positions, [len(self._cell.robot.arm_joints)])
        self._arm.update(arm, stamp_ns)
        self._fingers.update(fingers, stamp_ns)

    def check_start(self, trajectory: Trajectory, positions: np.ndarray) -> Violation | None:
        """What the rules, which judge from rest, do not see: an arm on its way must be able to pass over into a motion.

        Args:
            trajectory: That is to begin.
            positions: (joints,) measured.
        """
        cell, rates = self._cell, self._arm.rates
        joints = cell.robot.arm_joints
        if rates is None or joints[0] not in trajectory.joint_names or np.abs(rates).max() <= cell.motion.rest_velocity:
            return None
        first = trajectory.select(joints)
        after_s = first.times_ns[0] * 1e-9 or cell.safety.jump_time_s
        change = Segments.through(np.array([0.0, after_s]), np.stack([positions[:len(joints)], first.positions[0]]),
                                  np.stack([rates, first.velocities[0]])).peak_acceleration[0]
        joint = int(np.argmax(change / self._max_change))
        value, limit = float(change[joint]), float(self._max_change[joint])
        return None if value <= limit else Violation(
            'start', value, limit, f'{joints[joint]} moves at {rates[joint]:.3f} rad/s when the motion is to begin and '
            f'would have to pass over into it with {value:.1f} rad/s², allowed are {limit:.1f}')

    def hold(self, positions: np.ndarray, supervisor: Supervisor, now_s: float
             ) -> list[tuple[Trajectory, Trajectory]] | None:
        """Bring everything to rest.

        Where the arm is and how fast follows from the measurement. If that is old, what the controller is about to
        command is the nearest to the truth.

        Args:
            positions: (joints,) of the newest joint state.
            supervisor: Knows how old it is, and what is commanded.
            now_s: Time of the supervisor's ``motion_clock``.

        Returns:
            Motions, and what is to be commanded of each. None where no motion of ours is under way and the position is
            old: it would be a new motion.
        """
        robot, tracking = self._cell.robot, supervisor.tracking
        commanded, fresh = tracking.commanded(now_s), supervisor.joints_are_fresh
        if not (fresh or commanded is not None):
            return None
        arm, gripper = np.split(positions, [len(robot.arm_joints)])
        if fresh or commanded is None:
            rates = self._brake.rates_now(self._arm.rates, commanded)
            commanded = arm + rates * min(supervisor.joints_age_s, _MAX_AHEAD_S), rates
        braking = self._brake.stop(*commanded)
        motions = [(braking, last_point(braking))]
        wanted, end = (tracking.gripper_commanded(at_s) for at_s in (now_s, math.inf))
        if wanted is not None and end is not None:  # else it is where somebody else wants it, perhaps around something
            times_ns, goal = braking.times_ns[-1:], gripper if fresh else wanted
            before = tracking.gripper_was_commanded(now_s - self._cell.motion.gripper_time_s)
            if fresh and before is not None and self._squeezes(gripper, wanted, before):
                # It stays squeezed: a set-point at the measured finger position would let it slip.
                times_ns = np.array([round(self._cell.motion.gripper_time_s * 1e9)])
                goal = (np.minimum if robot.gripper_closed < robot.gripper_open else np.maximum)(wanted, end)
            stay = Trajectory(robot.gripper_joints, times_ns, goal[None], np.zeros((1, len(gripper))))
            motions.append((stay, stay))
        return motions

    def _squeezes(self, gripper: np.ndarray, wanted: np.ndarray, before: np.ndarray) -> bool:
        """Fingers, measured (gripper joints,), rest on something although the set-point is farther closed.

        It has been so for a while, ``before`` is where it was then: fingers that have only just been told to close rest
        as well, because a command takes its time.
        """
        robot, rates = self._cell.robot, self._fingers.rates
        stroke = robot.gripper_open - robot.gripper_closed
        slow = _FINGERS_REST * abs(stroke) / self._cell.motion.gripper_time_s
        rest = rates is None or bool((np.abs(rates) < slow).all())
        return rest and all(bool(((gripper - position) / stroke > _SQUEEZES).any()) for position in (wanted, before))
