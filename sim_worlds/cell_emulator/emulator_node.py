"""An emulated cell as a ROS 2 node: it speaks the topics of a real cell, by the names of the cell file, and no others.

Camera driver, joint state broadcaster, two joint trajectory controllers, the robot's driver, and the line with or
without an inspection. There is no reset and no simulated clock, and nothing is told that a cell could not know.
``ros2 param set /cell_emulator fault protective_stop`` lets something go wrong, ``none`` puts it right.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.config import bounded
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import (
    camera_info_message,
    image_message,
    joint_state_message,
    outcome_message,
    to_ns,
    trajectory_from,
)
from vlm_agent_ros.nodes.parameters import declare_parameters
from vlm_agent_ros.nodes.process import end_with_parent
from vlm_agent_ros.nodes.ros_env import run_node
from vlm_agent_ros.nodes.status_names import full_name
from vlm_agent_ros.types import EpisodeRequest, Outcome, Trajectory

from .cell import FAULTS, EmulatedCell
from .controller import Refused
from .delay import DelayLine
from .line import LineSettings
from .robot import ARM, GRIPPER

_REPORT_S = 1.0


@dataclass(frozen=True)
class Parameters(LineSettings):
    """Parameters of cell_emulator."""

    world: str = bounded('panda_table', help='world file: a shipped name or the path of a YAML file')
    task: str = bounded('place', help='task of the episodes')
    split: str = bounded('', help='what the episodes draw, such as unseen-wording; empty for what training draws')
    seed: int = bounded(0, low=0, help='seed of the first episode, and of all delays; each next episode adds 1')
    fault: str = bounded('none', choices=FAULTS, help='what is wrong with camera, joint states or robot')
    joint_rate_hz: float = bounded(100.0, low=1.0, high=1000.0, help='joint states per second, Hz')
    camera_rate_hz: float = bounded(15.0, low=0.1, high=120.0, help='images per second, Hz')
    command_latency_s: float = bounded(0.01, low=0.0, high=2.0, help='shortest way of a command to the robot, s')
    command_jitter_s: float = bounded(0.01, low=0.0, high=2.0, help='what may be added to that, s')
    camera_latency_s: float = bounded(0.03, low=0.0, high=2.0, help='shortest time from exposure to publication, s')
    camera_jitter_s: float = bounded(0.02, low=0.0, high=2.0, help='what may be added to that, s')
    dropped_frames: float = bounded(0.02, low=0.0, high=1.0, help='share of images that are lost')
    late_frames: float = bounded(0.02, low=0.0, high=1.0, help='share of images that come late')
    late_frame_s: float = bounded(0.15, low=0.0, high=10.0, help='how much later those come, s')
    parent_pid: int = bounded(0, low=0, help='end with this process, which must be the parent; 0 for none')


@dataclass(frozen=True)
class Command:
    """A trajectory on its way to a controller; ``stamp_ns`` is 0 where it shall start at once."""

    group: str
    trajectory: Trajectory | None
    stamp_ns: int


@dataclass(frozen=True)
class Frame:
    """An image on its way from the camera, with the outcome of a turn where an inspection took it."""

    image: np.ndarray | None
    stamp_ns: int
    outcome: Outcome | None = None


class EmulatorNode(Node):
    """Adapter of an EmulatedCell."""

    def __init__(self) -> None:
        super().__init__('cell_emulator')
        self._settings = settings = declare_parameters(self, Parameters, ('fault',))
        end_with_parent(settings.parent_pid)
        self._cell = EmulatedCell(settings.world, EpisodeRequest(settings.seed, settings.task, split=settings.split),
                                  settings)
        self._cell.fault = settings.fault
        self._rng = np.random.default_rng(settings.seed)
        self._commands: DelayLine[Command] = DelayLine(settings.command_latency_s, settings.command_jitter_s, self._rng)
        self._frames: DelayLine[Frame] = DelayLine(settings.camera_latency_s, settings.camera_jitter_s, self._rng)
        self._then_s = self._next_frame_s = time.monotonic()
        self._open_topics()
        self._tasks.publish(String(data=self._cell.task))
        self.add_post_set_parameters_callback(self._on_parameters)
        self.create_timer(1.0 / settings.joint_rate_hz, self._tick)
        self.create_timer(_REPORT_S, self._report)

    def close(self) -> None:
        """Give the physics server back."""
        self._cell.close()

    def _open_topics(self) -> None:
        names = dict(interface.remappings(self._cell.cell.topics))

        def named(topic: str) -> str:
            return names.get(topic, topic)

        self._images = self.create_publisher(Image, named(interface.IMAGE), interface.SENSOR_QOS)
        self._camera_infos = self.create_publisher(CameraInfo, named(interface.CAMERA_INFO), interface.SENSOR_QOS)
        self._joint_states = self.create_publisher(JointState, named(interface.JOINT_STATES), interface.SENSOR_QOS)
        self._tasks = self.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        if self._settings.inspection:
            self._outcomes = self.create_publisher(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        for group, topic in ((ARM, interface.ARM_COMMAND), (GRIPPER, interface.GRIPPER_COMMAND)):
            self.create_subscription(JointTrajectory, named(topic), self._receiver(group, named(topic)),
                                     interface.COMMAND_QOS)
        self._protective = self._cell.cell.topics.protective_stop
        if self._protective is not None:
            self._stops = self.create_publisher(Bool if self._protective.type == 'bool' else String,
                                                self._protective.topic, interface.LATCHED_QOS)
            self._tell_protective_stop()
            if self._protective.max_age_s:  # the driver of this cell repeats its word
                self.create_timer(self._protective.max_age_s / 4.0, self._tell_protective_stop)

    # --- robot --------------------------------------------------------------------------------------------------

    def _receiver(self, group: str, topic: str) -> Callable[[JointTrajectory], None]:
        def receive(message: JointTrajectory) -> None:
            try:
                command = Command(group, trajectory_from(message, topic), to_ns(message.header.stamp))
            except UserError as error:
                self._cell.robot.controllers[group].refuse(str(error))
                self._complain(group, str(error))
                return
            self._commands.push(command, time.monotonic())
        return receive

    def _carry_out(self, command: Command) -> None:
        late_s = (self._now_ns() - command.stamp_ns) * 1e-9 if command.stamp_ns else 0.0
        try:
            self._cell.receive(command.group, command.trajectory, late_s)
        except Refused as error:
            self._complain(command.group, str(error))

    def _complain(self, group: str, reason: str) -> None:
        self.get_logger().error(f'{group} controller: trajectory rejected: {reason}')

    def _on_parameters(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == 'fault':
                self._cell.fault = parameter.value
                self._tell_protective_stop()

    def _tell_protective_stop(self) -> None:
        if self._protective is None:
            return
        stopped = self._protective.stopped
        if self._protective.type == 'bool':
            self._stops.publish(Bool(data=stopped[0] if self._cell.robot.protective_stop else not stopped[0]))
        else:
            self._stops.publish(String(data=stopped[0] if self._cell.robot.protective_stop else 'NORMAL'))

    # --- what passes with time ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = time.monotonic()
        for command in self._commands.due(now_s):
            self._carry_out(command)
        event = self._cell.advance(now_s - self._then_s)
        self._then_s = now_s
        positions = self._cell.joint_positions()
        if positions is not None:
            self._joint_states.publish(
                joint_state_message(self._cell.cell.robot.joints, positions, self._now_ns()))
        if isinstance(event, Outcome):
            self._frames.push(Frame(self._cell.image(), self._now_ns(), event), now_s)
        elif event is not None:
            self._tasks.publish(String(data=event))
        if now_s >= self._next_frame_s:
            self._next_frame_s = max(self._next_frame_s + 1.0 / self._settings.camera_rate_hz, now_s)
            self._expose(now_s)
        for frame in self._frames.due(now_s):
            self._show(frame)

    def _expose(self, now_s: float) -> None:
        if self._rng.random() >= self._settings.dropped_frames:
            late = self._rng.random() < self._settings.late_frames
            self._frames.push(Frame(self._cell.image(), self._now_ns()), now_s, self._settings.late_frame_s * late)

    def _show(self, frame: Frame) -> None:
        camera = self._cell.cell.camera
        if frame.image is not None and self._cell.fault != 'camera_freeze':
            self._camera_infos.publish(camera_info_message(camera, frame.stamp_ns))
            self._images.publish(image_message(frame.image, frame.stamp_ns, camera.frame))
        if frame.outcome is not None:
            self._outcomes.publish(outcome_message(frame.outcome, frame.stamp_ns))

    def _report(self) -> None:
        """What a controller manager tells, and the driver's state once more for those who came late."""
        stopped = self._cell.robot.protective_stop
        statuses = []
        for group, controller in self._cell.robot.controllers.items():
            values = {'accepted': controller.accepted, 'rejected': controller.refused, 'reason': controller.reason}
            statuses.append(DiagnosticStatus(
                level=DiagnosticStatus.ERROR if stopped else DiagnosticStatus.OK,
                name=f'{full_name(self)}: {group} controller', hardware_id=self._cell.cell.name,
                message='protective stop' if stopped else 'moving' if controller.moving else 'holding',
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()]))
        array = DiagnosticArray(status=statuses)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
        self._tell_protective_stop()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros cell_emulator``."""
    return run_node('cell_emulator', EmulatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
