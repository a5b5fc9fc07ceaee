"""Skills as joint trajectories: waypoints by inverse kinematics, timing by Ruckig under the cell's limits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import ruckig

from ..actions import ActionError, Command, Done, Pick, Place, Push, Stack
from ..cell import Cell
from ..types import Trajectory
from .kinematics import Kinematics, MotionError

# Tool z down, the fingers closing along the base frame's y axis.
TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
_OPEN_SHARE = 0.05  # of its stroke by which a gripper may be closed that holds nothing
_DIRECTIONS = {'left': (-1.0, 0.0), 'right': (1.0, 0.0), 'up': (0.0, -1.0), 'down': (0.0, 1.0)}


@dataclass(frozen=True)
class _Waypoint:
    arm: np.ndarray  # (arm joints,) rad
    gripper: float  # m or rad


class SkillPlanner:
    """Plans the motion of one command from the measured joint positions; deterministic and free of state."""

    def __init__(self, cell: Cell, kinematics: Kinematics | None = None) -> None:
        self.cell = cell
        self.kinematics = kinematics or Kinematics(cell)
        self._home = np.array(cell.robot.home)

    def plan(self, command: Command, joint_names: tuple[str, ...], joint_positions: np.ndarray) -> Trajectory | None:
        """The trajectory of arm and gripper that carries out a command and returns to the home pose.

        Args:
            command: A command of the skill language.
            joint_names: Names of the measured joints.
            joint_positions: (joints,) float64 measured positions, rad or m.

        Returns:
            A trajectory over ``cell.robot.joints`` from the measured position, or None where nothing is to move.

        Raises:
            MotionError: The target is outside the workspace box or out of reach.
            ActionError: The command is no skill.
        """
        if isinstance(command, Done):
            return None
        robot = self.cell.robot
        measured = self._measured(joint_names, joint_positions)
        arm, gripper = measured[:len(robot.arm_joints)], float(measured[len(robot.arm_joints)])
        if isinstance(command, Pick):
            waypoints = self._pick(command)
        elif isinstance(command, (Place, Stack)):
            # What is held stays squeezed: a set-point at the measured finger position would let it slip.
            closest = min if robot.gripper_closed < robot.gripper_open else max
            gripper = closest(gripper, robot.gripper_closed)
            waypoints = self._release(command, gripper)
        elif isinstance(command, Push):
            waypoints = self._push(command)
        else:
            raise ActionError(f'{command} is not a command of the skill language')
        start = _Waypoint(np.clip(arm, self.kinematics.arm_lower, self.kinematics.arm_upper), gripper)
        return self._time([start, *waypoints])

    def hold(self, joint_names: tuple[str, ...], joint_positions: np.ndarray) -> Trajectory:
        """A motion that goes nowhere: one point over ``cell.robot.joints``, after 1 ms, of arguments as for ``plan``.

        What is held stays squeezed, and a gripper that is where it opens to stays open.
        """
        robot = self.cell.robot
        position = self._measured(joint_names, joint_positions)
        fingers = position[len(robot.arm_joints):]
        if ((robot.gripper_open - fingers) / (robot.gripper_open - robot.gripper_closed)).max() > _OPEN_SHARE:
            fingers[:] = robot.gripper_closed
        return Trajectory(robot.joints, np.array([1_000_000]),
                          np.clip(position, self.kinematics.lower, self.kinematics.upper)[None],
                          np.zeros((1, len(position))))

    def _measured(self, joint_names: tuple[str, ...], joint_positions: np.ndarray) -> np.ndarray:
        """(joints,) float64 in the order of ``cell.robot.joints``; a copy."""
        return np.array([joint_positions[joint_names.index(name)] for name in self.cell.robot.joints], dtype=np.float64)

    def _pick(self, command: Pick) -> list[_Waypoint]:
        motion, robot = self.cell.motion, self.cell.robot
        above, at = self._column(command.column, command.row, motion.grasp_height)
        opened, closed = robot.gripper_open, robot.gripper_closed
        return [_Waypoint(above, opened), _Waypoint(at, opened), _Waypoint(at, closed), _Waypoint(above, closed),
                _Waypoint(self._home, closed)]

    def _release(self, command: Place | Stack, held: float) -> list[_Waypoint]:
        motion = self.cell.motion
        height = motion.stack_height if isinstance(command, Stack) else motion.release_height
        above, at = self._column(command.column, command.row, height)
        opened = self.cell.robot.gripper_open
        return [_Waypoint(above, held), _Waypoint(at, held), _Waypoint(at, opened), _Waypoint(above, opened),
                _Waypoint(self._home, opened)]

    def _push(self, command: Push) -> list[_Waypoint]:
        motion, closed = self.cell.motion, self.cell.robot.gripper_closed
        target = self.cell.cell_to_table(command.column, command.row)
        rotation = self.cell.camera.rotation
        image_x, image_y = rotation[:2, 0], rotation[:2, 1]
        du, dv = _DIRECTIONS[command.direction]
        direction = du * image_x / np.linalg.norm(image_x) + dv * image_y / np.linalg.norm(image_y)
        start, end = target.copy(), target.copy()
        start[:2] -= direction * motion.push_distance
        end[:2] += direction * motion.push_distance
        table = self.cell.workspace.table_z
        above_start = self._solve(start, table + motion.approach_height, self._home)
        at_start = self._solve(start, table + motion.grasp_height, above_start)
        at_end = self._solve(end, table + motion.grasp_height, at_start)
        above_end = self._solve(end, table + motion.approach_height, at_end)
        return [_Waypoint(arm, closed) for arm in (above_start, at_start, at_end, above_end, self._home)]

    def _column(self, column: int, row: int, height: float) -> tuple[np.ndarray, np.ndarray]:
        """Arm joints above an image cell and at a height (m) over the table in it."""
        point = self.cell.cell_to_table(column, row)
        table = self.cell.workspace.table_z
        above = self._solve(point, table + self.cell.motion.approach_height, self._home)
        return above, self._solve(point, table + height, above)

    def _solve(self, point: np.ndarray, z: float, seed: np.ndarray) -> np.ndarray:
        target = np.array([point[0], point[1], z])
        low, high = self.cell.workspace.low, self.cell.workspace.high
        if np.any(target < low) or np.any(target > high):
            raise MotionError('({:.3f}, {:.3f}, {:.3f}) m is outside the workspace box'.format(*target))
        return self.kinematics.inverse(target, TOOL_DOWN, seed)

    def _time(self, waypoints: list[_Waypoint]) -> Trajectory:
        """Rest-to-rest segments between waypoints, sampled every ``point_period_s``."""
        rest = np.zeros(len(self.cell.robot.joints))
        times, positions, velocities = [0], [self._joints(waypoints[0])], [rest]
        for before, after in itertools.pairwise(waypoints):
            segment = self._segment(self._joints(before), self._joints(after))
            # A gripper that closes on something never arrives: it is given a fixed time instead.
            hold_s = self.cell.motion.gripper_time_s if before.gripper != after.gripper else 0.0
            offset = times[-1]
            for seconds in self._samples(segment.duration, hold_s):
                position, velocity, _ = segment.at_time(min(seconds, segment.duration))
                times.append(offset + round(seconds * 1e9))
                positions.append(np.array(position))
                velocities.append(np.array(velocity) if seconds < segment.duration else rest)
        lower, upper = self.kinematics.lower, self.kinematics.upper
        return Trajectory(self.cell.robot.joints, np.array(times, dtype=np.int64),
                          np.clip(np.array(positions), lower, upper), np.array(velocities))

    def _joints(self, waypoint: _Waypoint) -> np.ndarray:
        """(joints,) of a waypoint, at which all fingers are at the same position."""
        return np.append(waypoint.arm, [waypoint.gripper] * len(self.cell.robot.gripper_joints))

    def _samples(self, duration: float, hold_s: float) -> list[float]:
        """Times (s) of a segment's points after its start; the last one ends it, holding included."""
        period = self.cell.motion.point_period_s
        inner = [period * i for i in range(1, int(duration / period) + 1) if duration - period * i > 0.2 * period]
        return inner + [max(duration, 1e-3)] + ([max(duration, 1e-3) + hold_s] if hold_s else [])

    def _segment(self, start: np.ndarray, goal: np.ndarray) -> ruckig.Trajectory:
        joints, robot = len(start), self.cell.robot
        request = ruckig.InputParameter(joints)
        request.current_position, request.target_position = start.tolist(), goal.tolist()
        request.max_velocity, request.max_acceleration = list(robot.max_velocity), list(robot.max_acceleration)
        request.max_jerk = list(robot.max_jerk)
        trajectory = ruckig.Trajectory(joints)
        result = ruckig.Ruckig(joints).calculate(request, trajectory)
        if result not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise MotionError(f'no trajectory within the limits ({result.name}): check robot.max_* of the cell file')
        return trajectory
