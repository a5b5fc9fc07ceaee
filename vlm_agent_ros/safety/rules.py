"""The rules that every proposed motion must pass before it reaches a robot, simulated or real.

They are not a certified safety function: speed, force and protective stops belong to the robot's safety controller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..cell import Cell
from ..limits import MAX_AHEAD_S
from ..motion.kinematics import Kinematics
from ..motion.segments import Segments
from ..types import Trajectory
from .clamps import limit_efforts, limit_positions, slow_down
from .clearance import breach
from .links import LinkMargins
from .stop import StopLatch
from .tool import JOINT_STEP, ToolMargins
from .verdict import Ages, Measured, Verdict, Violation

# Joint limits pass through text, YAML and float arithmetic; this much (rad, m) beyond them is no violation.
_ROUNDING = 1e-6
# A cubic through the points of a motion that ends at a limit may swing this far (rad, m) beyond it.
_OVERSHOOT = 1e-4
# How often a motion is changed before it is refused: once for each rule, and slower again where that was too little.
_MAX_CLAMPS = 8
_LOCK_STEP = Ages()

Clamp = Callable[[Trajectory], Trajectory]
Hit = tuple[Violation, Clamp | None]
"""A rule that was hit, and how the motion can be changed to keep it, where it can."""


class SafetyRules:
    """Checks proposals against the limits of one cell; without side effects.

    Args:
        cell: Names, limits, workspace and the section ``safety``.
        kinematics: Kinematics and position limits of the same cell.
        stop: A latch that, while active, refuses everything.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics, stop: StopLatch | None = None) -> None:
        self._robot, self._limits = cell.robot, cell.safety
        self._lower, self._upper = kinematics.lower, kinematics.upper
        self._stop = stop
        self._tool = ToolMargins(cell, kinematics)
        self._links = LinkMargins(cell, kinematics) if cell.safety.collision else None
        self._max_velocity, self._max_acceleration = cell.velocity_limits, cell.acceleration_limits
        # A proposal is a motion; a torque for the arm is none of its business.
        arm = len(cell.robot.arm_joints)
        force = np.inf if cell.safety.max_gripper_force is None else cell.safety.max_gripper_force
        self._max_effort = np.append(np.zeros(arm), np.minimum(kinematics.max_effort[arm:], force))

    def judge(self, trajectory: Trajectory, measured: Measured, *, ages: Ages = _LOCK_STEP) -> Verdict:
        """What becomes of a proposal: what may be forwarded, and the rules that it hit.

        What was clamped has to pass every rule anew, so that nothing is forwarded that would itself be refused.

        Args:
            trajectory: The proposal: all arm joints, all gripper joints, or both.
            measured: The measured joint positions that the motion starts from.
            ages: How old everything is.
        """
        clamped: list[Violation] = []
        with np.errstate(all='ignore'):  # what overflows ends as infinity or NaN, which no limit lets pass
            while (hit := self._first_hit(trajectory, measured, ages)) is not None:
                violation, clamp = hit
                allowed = self._limits.policy.get(violation.rule) == 'clamp' and len(clamped) < _MAX_CLAMPS
                if clamp is None or not allowed:
                    return Verdict(None, (*clamped, violation))
                clamped.append(replace(violation, handled='clamp'))
                trajectory = clamp(trajectory)
        return Verdict(trajectory, tuple(clamped))

    def check(self, trajectory: Trajectory, measured: Measured, *, image_age_s: float | None = None,
              joint_age_s: float | None = None) -> Violation | None:
        """The rule for which ``judge`` refuses a proposal, or None where something may be forwarded."""
        return self.judge(trajectory, measured, ages=Ages(image_age_s, joint_age_s)).rejection

    def _first_hit(self, trajectory: Trajectory, measured: Measured, ages: Ages) -> Hit | None:
        violation = (
            self._check_stop()
            or self._check_ages(ages)
            or self._check_joints(trajectory.joint_names)
            or self._check_shape(trajectory)
            or self._check_numbers(trajectory)
            or self._check_times(trajectory.times_ns)
        )
        return (violation, None) if violation is not None else self._check_motion(trajectory, measured)

    # --- what comes with a motion -------------------------------------------------------------------------------

    def _check_stop(self) -> Violation | None:
        if self._stop is None or not self._stop.active:
            return None
        return Violation('stop', self._stop.reason, 'no stop', f'stopped: {self._stop.reason}')

    def _check_ages(self, ages: Ages) -> Violation | None:
        limits = self._limits
        for rule, what, age_s, limit_s in (('age', 'image', ages.image_s, limits.max_image_age_s),
                                           ('inputs', 'joint state', ages.joint_s, limits.max_joint_age_s),
                                           ('inputs', 'task', ages.task_s, limits.max_task_age_s),
                                           ('inputs', 'proposal', ages.proposal_s, limits.max_proposal_age_s)):
            # How old something is cannot be told where two clocks disagree. NaN fails the comparison too.
            if age_s is None or -MAX_AHEAD_S <= age_s <= limit_s:
                continue
            if age_s < 0.0:
                return Violation('inputs', age_s, -MAX_AHEAD_S, f'the {what} is of a time {-age_s:.2f} s ahead: set '
                                 'the clocks of all computers alike')
            return Violation(rule, age_s, limit_s, f'the {what} is {age_s:.2f} s old, allowed are {limit_s:g} s')
        since_s = ages.since_last_s
        if since_s is not None and not since_s * limits.max_rate_hz >= 1.0:
            return Violation('rate', since_s, 1.0 / limits.max_rate_hz, f'the proposal comes {since_s:.3f} s after the '
                             f'last one, allowed are {limits.max_rate_hz:g} per second')
        return None

    # --- its form -----------------------------------------------------------------------------------------------

    def _check_joints(self, names: tuple[str, ...]) -> Violation | None:
        known = self._robot.joints
        for name in names:
            if name not in known:
                return Violation('joints', name, ', '.join(known), f'joint {name!r} is not in the cell file')
            if names.count(name) > 1:
                return Violation('joints', name, 'once', f'joint {name!r} appears more than once')
        for group in (self._robot.arm_joints, self._robot.gripper_joints):
            missing = [name for name in group if name not in names]
            if missing and (len(missing) < len(group) or not names):
                return Violation('joints', ', '.join(names), ', '.join(group), f'joint {missing[0]!r} is missing')
        return None

    def _check_shape(self, trajectory: Trajectory) -> Violation | None:
        points = len(trajectory.times_ns)
        if not 1 <= points <= self._limits.max_points:
            return Violation('points', points, self._limits.max_points,
                             f'{points} points, allowed are 1 to {self._limits.max_points}')
        expected = (points, len(trajectory.joint_names))
        for name, array in _arrays(trajectory):
            if array.shape != expected:
                return Violation('shape', str(array.shape), str(expected),
                                 f'the {name} array has the shape {array.shape} instead of {expected}')
        return None

    def _check_numbers(self, trajectory: Trajectory) -> Violation | None:
        for name, array in _arrays(trajectory):
            if not np.isfinite(array).all():
                point, joint = np.argwhere(~np.isfinite(array))[0]
                return Violation('finite', float(array[point, joint]), 'finite',
                                 f'{name} of {trajectory.joint_names[joint]} in point {point} is not a finite number')
        return None

    def _check_times(self, times_ns: np.ndarray) -> Violation | None:
        if times_ns[0] < 0:
            return Violation('time', times_ns[0] * 1e-9, 0.0, 'the first point lies before the start of the motion')
        late = times_ns[1:] <= times_ns[:-1]  # a difference could overflow
        if late.any():
            point = int(np.argmax(late)) + 1
            return Violation('time', times_ns[point] * 1e-9, times_ns[point - 1] * 1e-9,
                             f'point {point} is not later than the point before it')
        duration_s, limit_s = times_ns[-1] * 1e-9, self._limits.max_duration_s
        if duration_s > limit_s:
            return Violation('time', duration_s, limit_s,
                             f'the motion takes {duration_s:.1f} s, allowed are {limit_s:g} s')
        return None

    # --- where the joints go; every rule before has been passed -------------------------------------------------

    def _check_motion(self, trajectory: Trajectory, measured: Measured) -> Hit | None:
        names = trajectory.joint_names
        start = _measured_positions(names, measured)
        if isinstance(start, Violation):
            return start, None
        violation = self._check_start(names, trajectory.positions[0], start)
        if violation is not None:
            return violation, None
        columns = [self._robot.joints.index(name) for name in names]
        motion = self._from_measured(trajectory, start)
        return (
            self._check_velocities(names, motion, self._max_velocity[columns])
            or self._check_accelerations(names, motion, self._max_acceleration[columns])
            or self._check_positions(trajectory, motion, columns)
            or self._check_efforts(trajectory, self._max_effort[columns])
            or self._check_clearance(names, motion)
        )

    def _from_measured(self, trajectory: Trajectory, start: np.ndarray) -> Segments:
        """The whole motion, from rest at the measured position (joints,) until it rests again.

        To a first point at time 0 the set-point jumps. The arm takes a moment to follow. That of a gripper may jump: a
        set-point inside of what it holds is how it holds it. What still moves at the last point is brought to rest
        evenly, goes on meanwhile, and comes back: the last point is what the controller holds.
        """
        times_s, positions, velocities = trajectory.times_ns * 1e-9, trajectory.positions, trajectory.velocities
        if times_s[0] == 0.0:
            gripper = [name in self._robot.gripper_joints for name in trajectory.joint_names]
            start = np.where(gripper, positions[0], start)
            times_s = np.append(-self._limits.jump_time_s, times_s)
        else:
            times_s = np.append(0.0, times_s)
        if velocities[-1].any():
            braking_s, last = self._limits.jump_time_s, positions[-1]
            times_s = np.append(times_s, times_s[-1] + np.array([1.0, 3.0]) * braking_s)
            positions = np.vstack([positions, last + 0.5 * braking_s * velocities[-1], last])
            velocities = np.vstack([velocities, np.zeros((2, len(start)))])
        return Segments.through(times_s, np.vstack([start, positions]),
                                np.vstack([np.zeros_like(start), velocities]))

    def _check_start(self, names: tuple[str, ...], first: np.ndarray, start: np.ndarray) -> Violation | None:
        # A gripper may: see _from_measured.
        arm = [name in self._robot.arm_joints for name in names]
        error, limit = np.where(arm, np.abs(first - start), 0.0), self._limits.max_start_error
        joint = int(np.argmax(error))
        if error[joint] <= limit:
            return None
        return Violation('start', float(error[joint]), limit, f'the first point of {names[joint]} is '
                         f'{error[joint]:.3f} away from its measured position, allowed are {limit:g}')

    def _check_velocities(self, names: tuple[str, ...], motion: Segments, limit: np.ndarray) -> Hit | None:
        found = _largest(motion.peak_velocity, limit)
        if found is None:
            return None
        segment, joint, value = found
        violation = Violation('velocity', value, float(limit[joint]), f'{names[joint]} moves at {value:.3f} per second '
                              f'near {_when(motion, segment):.2f} s, allowed are {limit[joint]:.3f}')
        return violation, self._slower(motion, value / float(limit[joint]))

    def _check_accelerations(self, names: tuple[str, ...], motion: Segments, limit: np.ndarray) -> Hit | None:
        found = _largest(motion.peak_acceleration, limit)
        if found is None:
            return None
        segment, joint, value = found
        violation = Violation('acceleration', value, float(limit[joint]), f'{names[joint]} accelerates at {value:.3f} '
                              f'per second² near {_when(motion, segment):.2f} s, allowed are {limit[joint]:.3f}')
        return violation, self._slower(motion, np.sqrt(value / float(limit[joint])))

    def _check_positions(self, trajectory: Trajectory, motion: Segments, columns: list[int]) -> Hit | None:
        """The limits at the points to the rounding error, and between them to what the cubic adds."""
        names, lower, upper = trajectory.joint_names, self._lower[columns], self._upper[columns]
        points = np.maximum(trajectory.positions - upper, lower - trajectory.positions)
        lowest, highest = motion.extremes()
        between = np.maximum(highest - upper, lower - lowest)
        excess = np.maximum(points.max(axis=0) - _ROUNDING, between.max(axis=0) - _OVERSHOOT)
        joint = int(np.argmax(excess))
        if excess[joint] <= 0.0:
            return None
        segment = int(np.argmax(between[:, joint]))
        above = highest[segment, joint] - upper[joint] > lower[joint] - lowest[segment, joint]
        value, limit = (highest[segment, joint], upper[joint]) if above else (lowest[segment, joint], lower[joint])
        rule = 'gripper_width' if names[joint] in self._robot.gripper_joints else 'position'
        violation = Violation(rule, float(value), float(limit), f'{names[joint]} goes to {value:.3f} near '
                              f'{_when(motion, segment):.2f} s, beyond its limit {limit:.3f}')
        if rule == 'position' and not points.max() <= self._limits.position_band:
            return violation, None
        return violation, lambda proposal: limit_positions(proposal, lower, upper)

    def _check_efforts(self, trajectory: Trajectory, limit: np.ndarray) -> Hit | None:
        if trajectory.efforts is None:
            return None
        excess = np.abs(trajectory.efforts) - limit
        point, joint = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[point, joint] <= 0.0:
            return None
        value = float(trajectory.efforts[point, joint])
        violation = Violation('effort', value, float(limit[joint]), f'{trajectory.joint_names[joint]} is asked for an '
                              f'effort of {value:g} in point {point}, allowed are {limit[joint]:g}')
        return violation, lambda proposal: limit_efforts(proposal, limit)

    def _check_clearance(self, names: tuple[str, ...], motion: Segments) -> Hit | None:
        if self._robot.arm_joints[0] not in names:
            return None
        arm = motion.columns([names.index(name) for name in self._robot.arm_joints])
        steps = np.ceil((arm.peak_velocity * arm.width_s[:, None]).max(axis=1) / JOINT_STEP)
        outside = self._limits.max_outside
        violation = breach(self._tool, arm.split(np.maximum(steps, 1).astype(int)), outside)
        if violation is None and self._links is not None:
            violation = breach(self._links, arm, outside)
        if violation is None:
            return None
        too_fast = violation.rule == 'tool_speed'
        return violation, self._slower(motion, float(violation.value) / float(violation.limit)) if too_fast else None

    def _slower(self, motion: Segments, factor: float) -> Clamp | None:
        """Takes ``factor`` times as long, unless that is longer than a motion may take."""
        if not factor * (motion.start_s[-1] + motion.width_s[-1]) < self._limits.max_duration_s:
            return None
        return lambda proposal: slow_down(proposal, factor)


def _arrays(trajectory: Trajectory) -> list[tuple[str, np.ndarray]]:
    arrays = [('position', trajectory.positions), ('velocity', trajectory.velocities)]
    return arrays if trajectory.efforts is None else [*arrays, ('effort', trajectory.efforts)]


def _measured_positions(names: tuple[str, ...], measured: Measured) -> np.ndarray | Violation:
    """(joints,) float64 measured positions of ``names``, or what is wrong with the measurement."""
    for name in names:
        if name not in measured.joint_names:
            return Violation('start', name, 'measured', f'joint {name!r} is not among the measured joints')
    start = np.array([measured.joint_positions[measured.joint_names.index(name)] for name in names], dtype=np.float64)
    if not np.isfinite(start).all():
        name = names[int(np.argmin(np.isfinite(start)))]
        return Violation('finite', 'NaN or infinite', 'finite',
                         f'the measured position of {name} is not a finite number')
    return start


def _largest(peaks: np.ndarray, limit: np.ndarray) -> tuple[int, int, float] | None:
    """Segment, joint and value of the peak (segments, joints) that is farthest over its limit (joints,), if any is."""
    shares = np.where(np.isnan(peaks), np.inf, peaks / limit)
    segment, joint = np.unravel_index(int(np.argmax(shares)), shares.shape)
    if shares[segment, joint] <= 1.0:
        return None
    return int(segment), int(joint), float(peaks[segment, joint])


def _when(motion: Segments, segment: int) -> float:
    """Time (s) of the end of a segment."""
    segment = min(segment, len(motion.start_s) - 1)
    return float(motion.start_s[segment] + motion.width_s[segment])
