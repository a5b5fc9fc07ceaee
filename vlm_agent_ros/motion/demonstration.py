"""What an operator who guides the arm has shown, as an action of the skill language."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..cell import Cell
from ..errors import UserError
from .kinematics import Kinematics


def demonstrated_action(cell: Cell, kinematics: Kinematics, states: Iterable[np.ndarray]) -> str:
    """``pick`` or ``place`` where the tool was when the gripper changed last.

    It is a pick where the gripper closed and a place where it opened; its cell is that of ``action_at``.

    Args:
        cell: Camera, gripper and plane.
        kinematics: Of its arm.
        states: (joints,) float64 each, measured in the order of ``cell.robot.joints``, rad or m: from the decision that
            is corrected to the end of the demonstration; the two ends are enough if nothing moved after the change.

    Raises:
        UserError: The gripper did not change, or the tool was where the camera does not look.
    """
    names = cell.robot.joints
    was_open, shown = None, None
    for positions in states:
        is_open = cell.gripper_state(names, positions) == 'open'
        if was_open is not None and is_open != was_open:
            shown = ('place' if is_open else 'pick'), positions
        was_open = is_open
    if shown is None:
        raise UserError('the demonstration neither closed nor opened the gripper, so that it shows no action: guide '
                        'the arm to the place, close or open the gripper there, and then confirm')
    return action_at(cell, kinematics, *shown)


def action_at(cell: Cell, kinematics: Kinematics, skill: str, positions: np.ndarray) -> str:
    """A skill where the tool is.

    Its cell is that in which the camera sees the point of the mapping plane below the tool, from which the planner
    would go back to where the tool is.

    Args:
        cell: Camera and plane.
        kinematics: Of its arm.
        skill: ``pick`` or ``place``.
        positions: (joints,) float64 measured in the order of ``cell.robot.joints``, rad or m.

    Raises:
        UserError: The tool is where the camera does not look.
    """
    x, y, _ = kinematics.forward(positions[:len(cell.robot.arm_joints)])[0]
    point = np.array([x, y, cell.workspace.plane_z])
    u, v = cell.camera.project(point)
    if not (0.0 <= u < cell.camera.width and 0.0 <= v < cell.camera.height):
        raise UserError(f'the demonstration ended at x {x:.3f} m, y {y:.3f} m, which the camera does not see: '
                        'demonstrate within its view')
    column, row = cell.point_to_cell(point)
    return f'{skill} {column:02d} {row:02d}'
