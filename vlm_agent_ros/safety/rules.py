"""The rules that every proposed motion must pass before it reaches a robot, simulated or real.

They are not a certified safety function: speed, force and protective stops belong to the robot's safety controller.
"""

from __future__ import annotations

import numpy as np

from ..cell import Cell
from ..motion.kinematics import Kinematics
from ..types import Trajectory
from .stop import StopLatch
from .verdict import Ages, Measured, Verdict, Violation

# Largest way (rad, m) of a joint between two samples of the motion. The workspace box is convex, so between samples
# inside it the tool can leave it only by the curvature of its path: 3 mm if all seven joints move at once.
_JOINT_STEP = 0.02
# Joint limits pass through text, YAML and float arithmetic; this much (rad, m) beyond them is no violation.
_ROUNDING = 1e-6
_LOCK_STEP = Ages()


class SafetyRules:
    """Checks proposals against the limits of one cell; without side effects.

    Args:
        cell: Names, velocity limits, workspace box and the section ``safety``.
        kinematics: Forward kinematics and the URDF's position limits of the same cell.
        stop: A latch that, while active, refuses everything.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics, stop: StopLatch | None = None) -> None:
        self._robot, self._workspace, self._limits = cell.robot, cell.workspace, cell.safety
        self._kinematics = kinematics
        self._stop = stop
        self._max_velocity = np.array(cell.robot.max_velocity) * (1.0 + cell.safety.velocity_tolerance)

    def judge(self, trajectory: Trajectory, measured: Measured, *, ages: Ages = _LOCK_STEP) -> Verdict:
        """What becomes of a proposal: what may be forwarded, and the rules that it hit.

        Args:
            trajectory: The proposal: all arm joints, all gripper joints, or both.
            measured: The measured joint positions that the motion starts from.
            ages: How old everything is.
        """
        violation = (
            self._check_stop()
            or self._check_age('image', ages.image_s, self._limits.max_image_age_s)
            or self._check_age('joint state', ages.joint_s, self._limits.max_joint_age_s)
            or self._check_joints(trajectory.joint_names)
            or self._check_shape(trajectory)
            or self._check_numbers(trajectory)
            or self._check_times(trajectory.times_ns)
            or self._check_motion(trajectory, measured)
        )
        return Verdict(trajectory) if violation is None else Verdict(None, (violation,))

    def check(self, trajectory: Trajectory, measured: Measured, *, image_age_s: float | None = None,
              joint_age_s: float | None = None) -> Violation | None:
        """The rule for which ``judge`` refuses a proposal, or None where it may be forwarded."""
        return self.judge(trajectory, measured, ages=Ages(image_age_s, joint_age_s)).rejection

    def _check_stop(self) -> Violation | None:
        if self._stop is None or not self._stop.active:
            return None
        return Violation('stop', self._stop.reason, 'no stop', f'stopped: {self._stop.reason}')

    def _check_age(self, what: str, age_s: float | None, limit_s: float) -> Violation | None:
        # An age far below zero is as wrong as a large one: two clocks disagree. NaN fails the comparison too.
        if age_s is None or abs(age_s) <= limit_s:
            return None
        return Violation('age', age_s, limit_s, f'the {what} is {age_s:.2f} s old, allowed are {limit_s:g} s')

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
        for name, array in (('positions', trajectory.positions), ('velocities', trajectory.velocities)):
            if array.shape != expected:
                return Violation('shape', str(array.shape), str(expected),
                                 f'{name} have the shape {array.shape} instead of {expected}')
        return None

    def _check_numbers(self, trajectory: Trajectory) -> Violation | None:
        for name, array in (('position', trajectory.positions), ('velocity', trajectory.velocities)):
            if not np.isfinite(array).all():
                point, joint = np.argwhere(~np.isfinite(array))[0]
                return Violation('finite', float(array[point, joint]), 'finite',
                                 f'{name} of {trajectory.joint_names[joint]} in point {point} is not a finite number')
        return None

    def _check_times(self, times_ns: np.ndarray) -> Violation | None:
        if times_ns[0] < 0:
            return Violation('time', times_ns[0] * 1e-9, 0.0, 'the first point lies before the start of the motion')
        steps = np.diff(times_ns)
        if (steps <= 0).any():
            point = int(np.argmax(steps <= 0)) + 1
            return Violation('time', times_ns[point] * 1e-9, times_ns[point - 1] * 1e-9,
                             f'point {point} is not later than the point before it')
        duration_s, limit_s = times_ns[-1] * 1e-9, self._limits.max_duration_s
        if duration_s > limit_s:
            return Violation('time', duration_s, limit_s,
                             f'the motion takes {duration_s:.1f} s, allowed are {limit_s:g} s')
        return None

    def _check_motion(self, trajectory: Trajectory, measured: Measured) -> Violation | None:
        """The rules on where the joints go; every rule before has been passed."""
        names, positions = trajectory.joint_names, trajectory.positions
        start = _measured_positions(names, measured)
        if isinstance(start, Violation):
            return start
        columns = [self._robot.joints.index(name) for name in names]
        violation = (
            self._check_start(names, positions[0], start)
            or self._check_velocities(trajectory, start, self._max_velocity[columns])
        )
        if violation is not None:
            return violation
        times_s, samples = _sample(trajectory)
        return (
            self._check_positions(names, times_s, samples, columns)
            or self._check_workspace(names, times_s, samples)
        )

    def _check_start(self, names: tuple[str, ...], first: np.ndarray, start: np.ndarray) -> Violation | None:
        error, limit = np.abs(first - start), self._limits.max_start_error
        joint = int(np.argmax(error))
        if error[joint] <= limit:
            return None
        return Violation('start', float(error[joint]), limit, f'the first point of {names[joint]} is '
                         f'{error[joint]:.3f} away from its measured position, allowed are {limit:g}')

    def _check_positions(self, names: tuple[str, ...], times_s: np.ndarray, samples: np.ndarray, columns: list[int]
                         ) -> Violation | None:
        lower, upper = self._kinematics.lower[columns], self._kinematics.upper[columns]
        excess = np.maximum(samples - upper, lower - samples)
        sample, joint = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[sample, joint] <= _ROUNDING:
            return None
        value = float(samples[sample, joint])
        limit = float(upper[joint] if value > upper[joint] else lower[joint])
        return Violation('position', value, limit, f'{names[joint]} goes to {value:.3f} at {times_s[sample]:.2f} s, '
                         f'beyond its limit {limit:.3f}')

    def _check_velocities(self, trajectory: Trajectory, start: np.ndarray, limit: np.ndarray) -> Violation | None:
        """Bounds the velocity of the cubic through positions and velocities, which is what the controller follows.

        Its ends are the declared velocities and its mean is the difference quotient, so that a false velocity field
        hides nothing. The way from the measured position to a first point later than 0 counts as well.
        """
        times, positions, velocities = trajectory.times_ns, trajectory.positions, trajectory.velocities
        if times[0] > 0:
            times, positions = np.append(0, times), np.vstack([start, positions])
            velocities = np.vstack([np.zeros_like(start), velocities])
        peak = np.abs(velocities)
        if len(times) > 1:
            peak = np.maximum(peak[1:], _cubic_peak_velocity(times, positions, velocities))
        point, joint = np.unravel_index(int(np.argmax(peak / limit)), peak.shape)
        if peak[point, joint] <= limit[joint]:
            return None
        value, allowed = float(peak[point, joint]), float(limit[joint])
        return Violation('velocity', value, allowed, f'{trajectory.joint_names[joint]} moves at {value:.3f} per second '
                         f'near {times[min(point + 1, len(times) - 1)] * 1e-9:.2f} s, allowed are {allowed:.3f}')

    def _check_workspace(self, names: tuple[str, ...], times_s: np.ndarray, samples: np.ndarray) -> Violation | None:
        if self._robot.arm_joints[0] not in names:
            return None
        arm = samples[:, [names.index(name) for name in self._robot.arm_joints]]
        tool = np.array([self._kinematics.forward(joints)[0] for joints in arm])
        low, high = np.array(self._workspace.low), np.array(self._workspace.high)
        excess = np.maximum(tool - high, low - tool)
        sample, axis = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[sample, axis] <= _ROUNDING:
            return None
        value = float(tool[sample, axis])
        limit = float(high[axis] if value > high[axis] else low[axis])
        return Violation('workspace', value, limit, f'the tool reaches {"xyz"[axis]} = {value:.3f} m at '
                         f'{times_s[sample]:.2f} s, outside the workspace limit {limit:g} m')


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


def _cubic_peak_velocity(times_ns: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """(points - 1, joints) largest absolute velocity on the cubic Hermite segment between consecutive points.

    With s in [0, 1] over a segment, mean velocity m and end velocities a and b, the velocity is the parabola
    a + (6m - 4a - 2b) s + (3a + 3b - 6m) s².
    """
    with np.errstate(all='ignore'):  # what overflows ends as NaN, which no limit lets pass
        mean = np.diff(positions, axis=0) / (np.diff(times_ns) * 1e-9)[:, None]
        a, b = velocities[:-1], velocities[1:]
        linear, quadratic = 6 * mean - 4 * a - 2 * b, 3 * a + 3 * b - 6 * mean
        vertex = -linear / (2 * quadratic)
        inside = np.where((vertex > 0) & (vertex < 1), vertex, 0.0)  # s = 0 adds nothing to the ends
        return np.maximum.reduce([np.abs(a), np.abs(b), np.abs(a + linear * inside + quadratic * inside**2)])


def _sample(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Times (samples,) in s and positions (samples, joints) along the cubics, in joint steps below ``_JOINT_STEP``."""
    times_s, positions, velocities = trajectory.times_ns * 1e-9, trajectory.positions, trajectory.velocities
    # A bound of the way within each segment; the difference of its ends would miss a motion to and fro.
    way = _cubic_peak_velocity(trajectory.times_ns, positions, velocities) * np.diff(times_s)[:, None]
    counts = np.maximum(1, np.ceil(way.max(axis=1, initial=0.0) / _JOINT_STEP)).astype(int)
    segment = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    s = ((np.arange(len(segment)) - (ends - counts)[segment] + 1) / counts[segment])[:, None]
    width = np.diff(times_s)[segment][:, None]
    inner = ((1 + 2 * s) * (1 - s) ** 2 * positions[segment] + s**2 * (3 - 2 * s) * positions[segment + 1]
             + width * s * (1 - s) * ((1 - s) * velocities[segment] - s * velocities[segment + 1]))
    return (np.append(times_s[:1], times_s[segment] + (width * s)[:, 0]), np.concatenate([positions[:1], inner]))
