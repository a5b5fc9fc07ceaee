"""Corrections that were shown and not written: the actions of demonstrations, from the joint states of a log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlm_agent_ros.audit.log import AuditLog, Logged
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.motion.demonstration import demonstrated_action
from vlm_agent_ros.topic_names import CORRECTION, JOINT_STATES


def demonstrations(log: AuditLog, cell: Cell) -> dict[int, str]:
    """Actions of the demonstrations that came without one, by the stamp (ns) of the image that was decided on.

    Those that show no action are left out. The log is read twice, and only if there are any.
    """
    wanted = [(said, logged.time_ns) for logged in log.messages([CORRECTION]) if (said := _shown(logged))]
    if not wanted:
        return {}
    kinematics, found = Kinematics(cell), {}
    for said, ended_ns in wanted:
        stamp_ns = int(said['image_stamp_ns'])
        try:
            found[stamp_ns] = demonstrated_action(cell, kinematics, _states(log, cell, stamp_ns, ended_ns))
        except UserError:
            continue
    return found


def _shown(logged: Logged) -> dict[str, Any] | None:
    """A correction that is a demonstration without an action."""
    try:
        said = json.loads(logged.message.data)
        return said if said['demonstrated'] and not said.get('action') and int(said['image_stamp_ns']) else None
    except (ValueError, KeyError, TypeError):
        return None


def _states(log: AuditLog, cell: Cell, begun_ns: int, ended_ns: int) -> Iterator[np.ndarray]:
    """Joint positions from the image that was decided on until the correction was received."""
    for logged in log.messages([JOINT_STATES]):
        if logged.time_ns > ended_ns:
            return
        positions = dict(zip(logged.message.name, logged.message.position))
        if logged.stamp_ns >= begun_ns and all(name in positions for name in cell.robot.joints):
            yield np.array([positions[name] for name in cell.robot.joints])
