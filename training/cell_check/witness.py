"""What was commanded, how the arm moved, and what was said on ``/diagnostics``, seen by somebody who takes no part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.cell import Cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion.cubic import positions_at
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import joint_positions, trajectory_from
from vlm_agent_ros.types import Trajectory

_PATH_POINTS = 200
_FRESH_S = 0.1  # by which time an arm may be somewhere else
_EVERY = 3  # of so many joint states one is compared with the path


@dataclass(frozen=True)
class Said:
    """A status that was received; ``at`` is monotonic time in s."""

    at: float
    name: str
    message: str
    values: dict[str, str]


def measured_before(states: Sequence[tuple[float, np.ndarray]], at: float) -> tuple[np.ndarray, np.ndarray] | None:
    """What the joint states before a time (s) tell: (joints,) positions, and velocities as the last two differ.

    Args:
        states: Time (s) and (joints,) positions, in order.
        at: Of the same clock.

    Returns:
        None where there are fewer than two, or the last is too old to tell where an arm is now.
    """
    past = [state for state in states if state[0] <= at][-2:]
    if len(past) < 2 or at - past[1][0] > _FRESH_S or past[1][0] <= past[0][0]:
        return None
    (before, there), (then, here) = past
    return here, (here - there) / (then - before)


class ArmRecord:
    """What the arm was told and what it did; all times are monotonic, in s.

    Attributes:
        commands: Time and trajectory of every command.
        states: Time and (arm joints,) rad of every joint state.
    """

    def __init__(self, arm_joints: tuple[str, ...]) -> None:
        self.arm_joints = arm_joints
        self.commands: list[tuple[float, Trajectory]] = []
        self.states: list[tuple[float, np.ndarray]] = []

    def stray(self, since: float) -> float:
        """Largest distance (rad, of any joint) of the arm from the path of what was commanded last or just before."""
        largest = 0.0
        paths = [self._path(trajectory) for _, trajectory in self.commands]
        for at, arm in self.states[::_EVERY]:
            past = [path for (received, _), path in zip(self.commands, paths) if received <= at]
            if at >= since and past:
                largest = max(largest, min(float(np.abs(path - arm).max(axis=1).min()) for path in past[-2:]))
        return largest

    def rests(self, now: float, for_s: float, within: float = 0.004) -> bool:
        """Whether the last command is over in time, and the arm has moved by less than so much (rad) for some time (s).

        An arm may rest in the middle of a motion as well, while the gripper closes.
        """
        if self.commands and now <= self.commands[-1][0] + self.commands[-1][1].duration_s:
            return False
        recent = [arm for at, arm in self.states if at > now - for_s]
        earlier = any(at <= now - for_s for at, _ in self.states)
        return earlier and len(recent) > 2 and bool(np.ptp(np.array(recent), axis=0).max() < within)

    def _path(self, trajectory: Trajectory) -> np.ndarray:
        wanted = trajectory.select(self.arm_joints)
        times_s = np.linspace(wanted.times_ns[0] * 1e-9, wanted.duration_s, _PATH_POINTS)
        return positions_at(wanted, times_s)


class Witness(ArmRecord):
    """Listens to a cell; times are those of reception.

    Attributes:
        said: Every status on ``/diagnostics``.
    """

    def __init__(self, node: Node, cell: Cell) -> None:
        super().__init__(cell.robot.arm_joints)
        self.said: list[Said] = []
        node.create_subscription(JointTrajectory, interface.ARM_COMMAND, self._on_command, interface.COMMAND_QOS)
        node.create_subscription(JointState, interface.JOINT_STATES, self._on_joints, interface.SENSOR_QOS)
        node.create_subscription(DiagnosticArray, interface.DIAGNOSTICS, self._on_diagnostics, interface.EVENT_QOS)

    def forget(self) -> None:
        """Start anew, but with the last command, which may still be under way."""
        del self.commands[:-1]
        self.states.clear()
        self.said.clear()

    def statuses(self, name: str, since: float = 0.0) -> list[Said]:
        """What was said under a name."""
        return [said for said in self.said if said.name == name and said.at >= since]

    def _on_command(self, message: JointTrajectory) -> None:
        trajectory = trajectory_from(message, interface.ARM_COMMAND)
        if trajectory is not None:
            self.commands.append((time.monotonic(), trajectory))

    def _on_joints(self, message: JointState) -> None:
        try:
            arm = joint_positions(message, interface.JOINT_STATES, self.arm_joints)
        except UserError:  # a faulty driver is what the checks make
            return
        self.states.append((time.monotonic(), arm))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        self.said += [Said(now, status.name, status.message, {value.key: value.value for value in status.values})
                      for status in message.status]
