"""Forward kinematics of many arm positions at once: what the safety rules need of a whole motion."""

from __future__ import annotations

import numpy as np
import pinocchio as pin


class Chain:
    """A serial arm as rigid bodies: body 0 is the base, body j is what joint j moves (j from 1).

    Args:
        model: The arm alone, one degree of freedom per joint.
        base: Index of the base frame, which no joint moves.

    Attributes:
        joints: Number of joints.
        axes: (joints, 3) float64 axis of each in the frame of the body that it moves.
        revolute: (joints,) bool, False for prismatic joints.
    """

    def __init__(self, model: pin.Model, base: int) -> None:
        self.joints = model.nv
        placements = [model.jointPlacements[j] for j in range(1, model.njoints)]
        placements[0] = model.frames[base].placement.actInv(placements[0])
        # How far a prismatic joint can move its body, which lengthens the levers of the joints before it.
        self._travel = np.maximum(np.abs(model.lowerPositionLimit), np.abs(model.upperPositionLimit))
        self._translations = np.array([placement.translation for placement in placements])
        data = model.createData()
        neutral = pin.neutral(model)
        self.axes = np.empty((self.joints, 3))
        self.revolute = np.empty(self.joints, dtype=bool)
        # Rodrigues: R = 1 + sin(q) K + (1 - cos(q)) K², behind the fixed transform of the joint.
        self._constant, self._sine, self._cosine = (np.zeros((self.joints, 4, 4)) for _ in range(3))
        self._constant[:, :3, 3], self._constant[:, 3, 3] = self._translations, 1.0
        for j, placement in enumerate(placements):
            column = pin.computeJointJacobian(model, data, neutral, j + 1)[:, j]  # in the joint's own frame
            revolute = bool(np.abs(column[3:]).max() > 0.5)
            axis = column[3:] if revolute else column[:3]
            cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
            square = cross @ cross if revolute else np.zeros((3, 3))
            self.axes[j], self.revolute[j] = axis, revolute
            self._constant[j, :3, :3] = placement.rotation @ (np.eye(3) + square)
            self._sine[j, :3, :3] = placement.rotation @ (cross if revolute else np.zeros((3, 3)))
            self._cosine[j, :3, :3] = placement.rotation @ -square

    def poses(self, arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Poses of all bodies in the base frame.

        Args:
            arm: (samples, joints) float64, rad or m.

        Returns:
            Rotations (joints + 1, samples, 3, 3) and origins (joints + 1, samples, 3) in metres.
        """
        sine, cosine = (of(arm).T[:, :, None, None] for of in (np.sin, np.cos))
        local = self._constant[:, None] + sine * self._sine[:, None] + cosine * self._cosine[:, None]
        for j in np.flatnonzero(~self.revolute).tolist():
            local[j, :, :3, 3] += (self._constant[j, :3, :3] @ self.axes[j]) * arm[:, j, None]
        poses = np.empty((self.joints + 1, len(arm), 4, 4))
        poses[0] = np.eye(4)
        for j in range(self.joints):
            np.matmul(poses[j], local[j], out=poses[j + 1])
        return np.ascontiguousarray(poses[..., :3, :3]), np.ascontiguousarray(poses[..., :3, 3])

    def velocity(self, poses: tuple[np.ndarray, np.ndarray], point: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """Velocity of a point of the last body.

        Args:
            poses: Of ``samples`` arm positions.
            point: (samples, 3) the point in the base frame, m.
            rates: (samples, joints) joint velocities, rad/s or m/s.

        Returns:
            (samples, 3) m/s in the base frame.
        """
        directions = np.einsum('jsab,jb->jsa', poses[0][1:], self.axes)
        turning = np.cross(directions, point - poses[1][1:])
        columns = np.where(self.revolute[:, None, None], turning, directions)
        return np.einsum('jsa,sj->sa', columns, rates)

    def reach(self, body: int, point: np.ndarray) -> np.ndarray:
        """Bounds how far a point moves per unit of each joint, in any position of the arm.

        Args:
            body: The body that the point belongs to.
            point: (3,) metres in the frame of the body.

        Returns:
            (joints,) float64, m/rad for revolute joints, 1 for prismatic ones, 0 for those that do not move it.
        """
        lengths = np.linalg.norm(self._translations, axis=1) + np.where(self.revolute, 0.0, self._travel)
        reach = np.zeros(self.joints)
        for j in range(body):
            reach[j] = np.linalg.norm(point) + lengths[j + 1:body].sum() if self.revolute[j] else 1.0
        return reach
