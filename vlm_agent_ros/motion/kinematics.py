"""Forward and inverse kinematics of the cell's arm with Pinocchio."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pinocchio as pin

from ..cell import Cell
from ..errors import UserError
from .chain import Chain

_DAMPING = 1e-4
_MAX_ITERATIONS = 200


class MotionError(ValueError):
    """A command that the arm cannot carry out; the message says why."""


class Kinematics:
    """Kinematics of the arm up to the tool frame, with the joint limits of URDF and cell file, the stricter of both.

    Attributes:
        lower, upper: (joints,) float64 position limits of ``cell.robot.joints``, rad or m.
        max_effort: (joints,) float64 effort limits of the URDF, Nm or N.
        chain: The arm as rigid bodies, for many positions at once.
    """

    def __init__(self, cell: Cell) -> None:
        robot = cell.robot
        try:
            # Pinocchio's parser prints what it thinks of a file that is none.
            if ElementTree.parse(cell.urdf_path).getroot().tag != 'robot':
                raise ValueError('no robot element')
            full = pin.buildModelFromUrdf(str(cell.urdf_path))
        except (ValueError, RuntimeError, ElementTree.ParseError) as error:
            raise UserError(f'{cell.urdf_path} is not a readable URDF: correct robot.urdf of {cell.path}') from error
        for name in (*robot.joints,):
            if not full.existJointName(name):
                raise UserError(f'{cell.path}: joint {name!r} is not in {cell.urdf_path.name}: correct robot.*_joints')
            if full.joints[full.getJointId(name)].nq != 1:
                raise UserError(f'{cell.urdf_path}: joint {name!r} has no end stops (continuous, planar or floating), '
                                'which the rules need: make it revolute or prismatic, with the limits it may use')
        for frame in (robot.base_frame, robot.tool_frame):
            if not full.existFrame(frame):
                raise UserError(f'{cell.path}: frame {frame!r} is not a link of {cell.urdf_path.name}: correct '
                                'robot.base_frame or robot.tool_frame')
        indices = [full.joints[full.getJointId(name)].idx_q for name in robot.joints]
        self.lower = np.maximum(full.lowerPositionLimit[indices], robot.min_position or -np.inf)
        self.upper = np.minimum(full.upperPositionLimit[indices], robot.max_position or np.inf)
        speeds = [full.joints[full.getJointId(name)].idx_v for name in robot.joints]
        self.max_effort = full.effortLimit[speeds].copy()
        for name, declared, limit in zip(robot.joints, robot.max_velocity, full.velocityLimit[speeds]):
            if declared > limit:
                raise UserError(f'{cell.path}: robot.max_velocity of {name} is {declared:g}, but {cell.urdf_path.name} '
                                f'limits it to {limit:g}: lower it')
        fingers, arm = robot.gripper_joints, len(robot.arm_joints)
        home = zip(robot.joints, [*robot.home, *[robot.gripper_open] * len(fingers)], self.lower, self.upper)
        shut = zip(fingers, [robot.gripper_closed] * len(fingers), self.lower[arm:], self.upper[arm:])
        for name, value, low, high in (*home, *shut):
            if not low <= value <= high:
                key = 'robot.home' if name in robot.arm_joints else 'robot.gripper_open or robot.gripper_closed'
                raise UserError(f'{cell.path}: {key} puts {name} at {value:g}, but '
                                f'its limits are {low:g} … {high:g} (the stricter of {cell.urdf_path.name} and '
                                'robot.min_position, robot.max_position): correct one of them')
        # Only the arm moves the tool; every other joint is locked at its neutral position.
        locked = [i for i, name in enumerate(full.names) if i > 0 and name not in robot.arm_joints]
        self._model = pin.buildReducedModel(full, locked, pin.neutral(full))
        order = [self._model.joints[self._model.getJointId(name)].idx_q for name in robot.arm_joints]
        if order != list(range(len(order))):
            raise UserError(f'{cell.path}: robot.arm_joints must follow the kinematic chain of {cell.urdf_path.name}')
        self._data = self._model.createData()
        self._tool = self._model.getFrameId(robot.tool_frame)
        self._base = self._model.getFrameId(robot.base_frame)
        if self._model.frames[self._base].parentJoint:
            raise UserError(f'{cell.path}: robot.base_frame {robot.base_frame!r} is moved by a joint: '
                            'name the root link')
        self.chain = Chain(self._model, self._base)
        self.arm_lower, self.arm_upper = self.lower[:len(order)], self.upper[:len(order)]
        tool, space = self.forward(np.array(robot.home))[0], cell.workspace
        if not ((tool >= space.low) & (tool <= space.high)).all():
            place = ', '.join(f'{value:.3f}' for value in tool)
            raise UserError(f'{cell.path}: at robot.home the tool is at ({place}) m, outside of workspace.low and '
                            'high, from where every motion would be refused: correct one of them')
        for box in space.keep_out:
            if ((tool >= box.low) & (tool <= box.high)).all():
                raise UserError(f'{cell.path}: at robot.home the tool is in workspace.keep_out {box.name!r}, from '
                                'where every motion would be refused: correct one of them')

    def forward(self, arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose of the tool frame.

        Args:
            arm: (arm joints,) float64, rad.

        Returns:
            Position (3,) in metres and rotation (3, 3), both in the base frame.
        """
        pose = self._pose(np.asarray(arm, dtype=np.float64))
        return pose.translation.copy(), pose.rotation.copy()

    def inverse(self, position: np.ndarray, rotation: np.ndarray, seed: np.ndarray, *, tolerance: float = 1e-4
                ) -> np.ndarray:
        """Arm joints that bring the tool frame to a pose: damped least squares on SE(3), clipped to the limits.

        Args:
            position: (3,) metres, base frame.
            rotation: (3, 3), base frame.
            seed: (arm joints,) rad; the solution is continuous with it.
            tolerance: Largest remaining error, metres and radians.

        Returns:
            (arm joints,) float64, rad, within the URDF's limits.

        Raises:
            MotionError: The pose is out of reach within the joint limits.
        """
        goal = pin.SE3(np.asarray(rotation, dtype=np.float64), np.asarray(position, dtype=np.float64))
        joints = np.clip(np.asarray(seed, dtype=np.float64), self.arm_lower, self.arm_upper)
        for _ in range(_MAX_ITERATIONS):
            error = pin.log6(self._pose(joints).actInv(goal)).vector
            if np.abs(error).max() < tolerance:
                return joints
            jacobian = pin.computeFrameJacobian(self._model, self._data, joints, self._tool, pin.LOCAL)
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING * np.eye(6), error)
            joints = np.clip(joints + np.clip(step, -0.3, 0.3), self.arm_lower, self.arm_upper)
        x, y, z = position
        raise MotionError(f'the arm cannot reach ({x:.3f}, {y:.3f}, {z:.3f}) m within its joint limits')

    def body_of(self, link: str) -> tuple[int, np.ndarray, np.ndarray]:
        """Where a link is on the arm.

        Returns:
            The body of ``chain`` that it belongs to, and the link's rotation (3, 3) and origin (3,) in it, metres.
        """
        frame = self._model.frames[self._model.getFrameId(link)]
        body = int(frame.parentJoint)
        pose = frame.placement if body else self._model.frames[self._base].placement.actInv(frame.placement)
        return body, pose.rotation.copy(), pose.translation.copy()

    def _pose(self, arm: np.ndarray) -> pin.SE3:
        pin.framesForwardKinematics(self._model, self._data, arm)
        return self._data.oMf[self._base].actInv(self._data.oMf[self._tool])
