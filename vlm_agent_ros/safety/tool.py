"""Margins of the tool: the workspace box, the keep-out boxes and its speed."""

from __future__ import annotations

import numpy as np

from ..cell import Cell
from ..motion.kinematics import Kinematics
from ..motion.segments import Segments
from .clearance import Margin
from .shapes import box_distance

# The tool is sampled in steps of a joint of at most this much (rad, m). The workspace box is convex, so between samples
# inside it the tool can leave it only by the curvature of its path, and that far (m) it may.
JOINT_STEP = 0.02
_CURVATURE = 3e-3


class ToolMargins:
    """See ``Margins``.

    Args:
        cell: Workspace, keep-out boxes and tool speed.
        kinematics: Of the same cell.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics) -> None:
        self._chain, workspace = kinematics.chain, cell.workspace
        self._body, _, self._point = kinematics.body_of(cell.robot.tool_frame)
        self._low, self._high = np.array(workspace.low), np.array(workspace.high)
        self._boxes = [(np.array(box.low), np.array(box.high)) for box in workspace.keep_out]
        self._max_speed = cell.safety.max_tool_speed * (1.0 + cell.safety.velocity_tolerance)
        self._reach = self._chain.reach(self._body, self._point)
        joints = np.arange(self._chain.joints)
        self._lever = self._reach[np.maximum.outer(joints, joints)]
        self.margins = [
            *(Margin('workspace', f'the tool reaches {axis} =', limit, sign, _CURVATURE, may_return=True)
              for sign, corner in ((1.0, workspace.low), (-1.0, workspace.high)) for axis, limit in zip('xyz', corner)),
            *(Margin('keep_out', f'the tool enters the box {box.name!r}: distance', 0.0) for box in workspace.keep_out),
            Margin('tool_speed', 'the tool moves at', self._max_speed, -1.0, 5e-3, 'm/s')]

    def sample(self, arm: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """See Margins."""
        poses = self._chain.poses(arm)
        tool = poses[0][self._body] @ self._point + poses[1][self._body]
        speed = np.linalg.norm(self._chain.velocity(poses, tool, rates), axis=1)
        return np.column_stack([tool - self._low, self._high - tool,
                                *(box_distance(tool, low, high) for low, high in self._boxes),
                                self._max_speed - speed])

    def change(self, motion: Segments) -> np.ndarray:
        """See Margins."""
        velocity = motion.peak_velocity
        way = (velocity @ self._reach) * motion.width_s
        # The acceleration of the tool is J a + J' v: of two joints, the one nearer to the base turns the other's column
        # of the Jacobian, whose length is the other's reach.
        turned = np.einsum('si,ij,sj->s', velocity, self._lever, velocity)
        acceleration = motion.peak_acceleration @ self._reach + turned
        return np.column_stack([way] * (len(self.margins) - 1) + [acceleration * motion.width_s])
