"""The gate: the only publisher of robot commands. Pure rules, no model.

In ``shadow`` it judges proposals and publishes no command; in ``approve`` it forwards what passes once an operator has
said yes; in ``auto`` it forwards what passes. A stop is latched, holds the measured position, and ends only by
``~/reset``. Every verdict is on ``/diagnostics``. This is no certified safety function.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ..cell import load_cell
from ..config import bounded
from ..cot import escape
from ..errors import UserError
from ..motion import Kinematics
from ..safety import SafetyRules, StopLatch, Violation
from ..types import Trajectory
from . import interface
from .messages import joint_positions, to_ns, trajectory_from, trajectory_message
from .parameters import declare_parameters, read_parameters
from .ros_env import run_node

_HOLD_S = 0.1  # time given to the arm to come to rest where it was measured
_REMEMBERED_IMAGES = 512
_LEVELS = {'stopped': DiagnosticStatus.ERROR, 'refused': DiagnosticStatus.WARN}


@dataclass(frozen=True)
class Parameters:
    """Parameters of gate_node."""

    cell: str = bounded('panda_table', help='cell file: a shipped name or the path of a YAML file')
    mode: str = bounded('shadow', choices=('shadow', 'approve', 'auto'),
                        help='what happens to proposals that pass: nothing, wait for ~/approve, or forward')
    approve_timeout_s: float = bounded(30.0, low=0.1, high=3600.0,
                                       help='no answer of the operator for so long is a no, s')
    stop_cooldown_s: float = bounded(1.0, low=0.0, high=60.0,
                                     help='time after a stop during which ~/reset is refused, s')


@dataclass(frozen=True)
class Measured:
    """The newest joint state."""

    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    stamp_ns: int


@dataclass(frozen=True)
class Pending:
    """A proposal that waits for the operator."""

    trajectory: Trajectory
    stamp_ns: int
    since_ns: int


class GateNode(Node):
    """Adapter of the safety rules."""

    def __init__(self) -> None:
        super().__init__('gate_node')
        settings = declare_parameters(self, Parameters, ('mode', 'approve_timeout_s'))
        self._cell = load_cell(settings.cell)
        self._stop = StopLatch(settings.stop_cooldown_s)
        self._rules = SafetyRules(self._cell, Kinematics(self._cell), self._stop)
        self._measured: Measured | None = None
        self._images: deque[int] = deque(maxlen=_REMEMBERED_IMAGES)
        self._pending: Pending | None = None
        self._counts: Counter[str] = Counter()
        self._verdict: tuple[str, str, dict[str, str]] = ('waiting', 'no proposal yet', {})
        robot = self._cell.robot
        self._commands = {
            robot.arm_joints: self.create_publisher(JointTrajectory, interface.ARM_COMMAND, interface.COMMAND_QOS),
            robot.gripper_joints: self.create_publisher(
                JointTrajectory, interface.GRIPPER_COMMAND, interface.COMMAND_QOS)}
        self._diagnostics = self.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        self.create_subscription(JointTrajectory, interface.PROPOSAL, self._on_proposal, interface.COMMAND_QOS)
        self.create_subscription(JointState, interface.JOINT_STATES, self._on_joints, interface.SENSOR_QOS)
        # Stamped like the image and a thousand times smaller: the gate needs no pixels.
        self.create_subscription(CameraInfo, interface.CAMERA_INFO, self._on_camera_info, interface.HISTORY_QOS)
        self.create_service(SetBool, '~/approve', self._on_approve)
        self.create_service(Trigger, '~/stop', self._on_stop)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_timer(0.2, self._expire)
        self.create_timer(1.0, self._publish_verdict)

    def close(self) -> None:
        """Nothing is left to do: the robot finishes the motion that it was given."""

    # --- what the cell says -------------------------------------------------------------------------------------

    def _on_joints(self, message: JointState) -> None:
        try:
            names = self._cell.robot.joints
            positions = joint_positions(message, self.resolve_topic_name(interface.JOINT_STATES), names)
            self._measured = Measured(names, positions, to_ns(message.header.stamp))
        except UserError as error:  # the last good state ages until the age rule refuses
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._images.append(to_ns(message.header.stamp))

    # --- proposals ----------------------------------------------------------------------------------------------

    def _on_proposal(self, message: JointTrajectory) -> None:
        stamp_ns = to_ns(message.header.stamp)
        try:
            trajectory = trajectory_from(message, self.resolve_topic_name(interface.PROPOSAL))
        except UserError as error:
            self._refuse(Violation('shape', 'malformed', 'one position per joint', str(error)))
            return
        if trajectory is None:
            self._refuse(Violation('points', 0, self._cell.safety.max_points, 'the proposal has no points'))
            return
        violation = self._check(trajectory, stamp_ns)
        if violation is not None:
            self._refuse(violation)
            return
        mode = read_parameters(self, Parameters).mode
        if mode == 'auto':
            self._forward(trajectory, 'passed every rule')
        elif mode == 'approve':
            self._pending = Pending(trajectory, stamp_ns, self.get_clock().now().nanoseconds)
            self._set_verdict('pending', 'waits for ~/approve')
        else:
            self._set_verdict('shadow', 'would pass every rule; nothing is forwarded in shadow mode')

    def _check(self, trajectory: Trajectory, stamp_ns: int | None) -> Violation | None:
        """The rules; without a stamp the age of the image is not judged, because an operator looks at the cell."""
        now_ns = self.get_clock().now().nanoseconds
        if self._measured is None:
            return Violation('age', 'none', self._cell.safety.max_joint_age_s, 'no usable joint state has come yet')
        image_age_s = None
        if stamp_ns is not None:
            image_age_s = (now_ns - stamp_ns) * 1e-9
            if stamp_ns not in self._images and not self._stop.active:
                return Violation('age', image_age_s, self._cell.safety.max_image_age_s,
                                 'the camera has published no image of the stamp that the proposal rests on')
        return self._rules.check(trajectory, self._measured, image_age_s=image_age_s,
                                 joint_age_s=(now_ns - self._measured.stamp_ns) * 1e-9)

    def _forward(self, trajectory: Trajectory, reason: str) -> None:
        """One stamp on both halves: the controllers start them together, now."""
        stamp_ns = self.get_clock().now().nanoseconds
        for joints, publisher in self._commands.items():
            if joints[0] in trajectory.joint_names:
                publisher.publish(trajectory_message(trajectory.select(joints), stamp_ns))
        self._set_verdict('forwarded', reason)

    def _refuse(self, violation: Violation) -> None:
        self._pending = None
        self._set_verdict('stopped' if violation.rule == 'stop' else 'refused', violation.message, {
            'rule': violation.rule, 'value': str(violation.value), 'limit': str(violation.limit)})

    # --- operator -----------------------------------------------------------------------------------------------

    def _on_approve(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        pending, self._pending = self._pending, None
        if pending is None:
            response.success, response.message = False, 'no proposal waits for approval'
            return response
        if not request.data:
            self._refuse(Violation('approval', 'no', 'yes', 'the operator said no'))
            response.success, response.message = True, 'the proposal is refused'
            return response
        violation = self._check(pending.trajectory, None)
        if violation is not None:
            self._refuse(violation)
            response.success, response.message = False, violation.message
            return response
        self._forward(pending.trajectory, 'approved by the operator')
        response.success, response.message = True, 'the proposal is forwarded'
        return response

    def _expire(self) -> None:
        if self._pending is None:
            return
        limit_s = read_parameters(self, Parameters).approve_timeout_s
        waited_s = (self.get_clock().now().nanoseconds - self._pending.since_ns) * 1e-9
        if waited_s > limit_s:
            self._refuse(Violation('approval', waited_s, limit_s, f'the operator gave no answer in {limit_s:g} s'))

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._pending = None
        self._stop.trigger('the operator called ~/stop')
        if read_parameters(self, Parameters).mode != 'shadow':
            self._hold()
        self._set_verdict('stopped', f'stopped: {self._stop.reason}', {'rule': 'stop'})
        response.success, response.message = True, 'stopped; nothing is forwarded until ~/reset'
        return response

    def _hold(self) -> None:
        """Command the measured position. Zeros would be a slam to the zero pose; silence would let the motion go on."""
        stamp_ns, measured = self.get_clock().now().nanoseconds, self._measured
        for joints, publisher in self._commands.items():
            hold = None  # a trajectory without points: the controller holds what it has
            if measured is not None:
                positions, time_ns = measured.joint_positions[None], int(_HOLD_S * 1e9)
                hold = Trajectory(measured.joint_names, np.array([time_ns]), positions, np.zeros_like(positions))
                hold = hold.select(joints)
            publisher.publish(trajectory_message(hold, stamp_ns))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._stop.reset()
        if response.success:
            self._set_verdict('waiting', response.message)
        return response

    # --- verdicts -----------------------------------------------------------------------------------------------

    def _set_verdict(self, verdict: str, message: str, values: dict[str, str] | None = None) -> None:
        self._verdict = verdict, message, values or {}
        self._counts[verdict] += 1
        if verdict in _LEVELS:
            self.get_logger().warning(f'{verdict}: {message}')
        self._publish_verdict()

    def _publish_verdict(self) -> None:
        verdict, message, values = self._verdict
        shown = {'verdict': verdict, 'mode': read_parameters(self, Parameters).mode, **values,
                 **{name: str(self._counts[name]) for name in ('forwarded', 'refused', 'stopped')}}
        level = DiagnosticStatus.ERROR if self._stop.active else _LEVELS.get(verdict, DiagnosticStatus.OK)
        array = DiagnosticArray(status=[DiagnosticStatus(
            level=level, name=f'{self.get_name()}: verdict', message=escape(message), hardware_id=self._cell.name,
            values=[KeyValue(key=key, value=escape(value)) for key, value in shown.items()])])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros gate_node``."""
    return run_node('gate_node', GateNode, args)


if __name__ == '__main__':
    sys.exit(main())
