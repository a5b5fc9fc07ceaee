"""The gate: the only publisher of robot commands. Pure rules, no model.

In ``shadow`` it judges proposals and publishes no command; in ``approve`` it forwards what passes once an operator has
said yes; in ``auto`` it forwards what passes. A stop is latched, holds the measured position, and ends only by
``~/reset``. Every verdict is on ``/diagnostics``. While the node is not active it publishes no command. This is no
certified safety function.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.duration import Duration
from rclpy.node import Publisher
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ..cell import Cell, load_cell, motion_digest
from ..config import bounded
from ..errors import UserError
from ..safety import EvidenceFile, Gate, Ladder, Violation
from ..safety.gate import Clocks
from ..safety.supervisor import POLL_S
from ..status import ERROR, WARN, Status
from ..tasks import TaskPolicy
from ..topics import ProtectiveStop
from ..types import Trajectory
from . import interface
from .lifecycle import ManagedNode
from .messages import check_camera_info, joint_positions, outcome_from, to_ns
from .own_files import state_file
from .parameters import declare_parameters
from .peers import Peers
from .priority import run_before_others
from .publishers import SoleSource
from .ros_env import run_node
from .status_names import full_name, is_of_this_cell
from .trajectory_wire import read_trajectory, stamp_of, trajectory_bytes

_COLLECT_S = 1.0
_LAST_WORD_S = 0.5  # so long a controller may take to receive it
_THOUGHT, _CHECKPOINT = ': chain of thought', ': checkpoint'


@dataclass(frozen=True)
class Parameters:
    """Parameters of gate_node."""

    cell: str = bounded('panda_table', help='cell file: a shipped name or the path of a YAML file')
    mode: str = bounded('shadow', choices=('shadow', 'approve', 'auto'),
                        help='mode at start; it is changed by ~/set_mode with a reason')
    approve_timeout_s: float = bounded(30.0, low=0.1, high=3600.0,
                                       help='no answer of the operator for so long is a no, s')
    stop_cooldown_s: float = bounded(1.0, low=0.0, high=60.0,
                                     help='time after a stop during which ~/reset is refused, s')
    evidence_file: str = bounded('', help='JSON file of what checkpoints have shown at this cell; empty for '
                                 'vlm_agent_ros/<namespace>/<cell>.json in $XDG_STATE_HOME or ~/.local/state')
    realtime_priority: int = bounded(20, low=0, high=98, help='priority before ordinary processes (SCHED_RR) where the '
                                     'system allows it; 0 for none')
    autostart: bool = bounded(True, help='configure and activate at start instead of waiting for transitions')


class GateNode(ManagedNode):
    """Adapter of the gate."""

    def __init__(self) -> None:
        super().__init__('gate_node')
        self._settings = declare_parameters(self, Parameters, ('approve_timeout_s',))
        self._gate: Gate | None = None
        self._stopped: dict[str, str] = {}
        self._made: list[Callable[[], Any]] = []
        Peers(self, self.board, [interface.AUDIT_HEARTBEAT], own=interface.GATE_HEARTBEAT)
        self.board.tell(Status('verdict', WARN, 'no proposal yet', {'verdict': 'waiting'}))
        services = {'approve': (SetBool, self._on_approve), 'stop': (Trigger, self._on_stop),
                    'reset': (Trigger, self._on_reset), 'episode': (SetBool, self._on_episode)}
        for name, (kind, callback) in services.items():
            self.create_service(kind, f'~/{name}', callback)
        self.create_service(SetParametersAtomically, '~/set_mode', self._on_set_mode)
        self.add_post_set_parameters_callback(lambda changed: self._on_changed({p.name: p.value for p in changed}))
        if self._settings.autostart:
            self.autostart()

    def close(self) -> None:
        """A motion that is under way is held: nobody would watch it any more."""
        if self._gate is not None and self._gate.end():
            for publisher in self._commands.values():
                publisher.wait_for_all_acked(Duration(seconds=_LAST_WORD_S))

    # --- lifecycle ----------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Load the cell and listen to it."""
        settings = self._settings
        cell = load_cell(settings.cell)
        interface.check_names(self, cell.topics)
        evidence = EvidenceFile(state_file(self, settings.evidence_file, f'{cell.name}.json'), motion_digest(cell))
        ladder = Ladder(cell.autonomy, evidence, settings.mode)
        self._cell, self._tasks = cell, TaskPolicy(cell.tasks)
        self._gate = Gate(
            cell, ladder, self._send, self._tell, clocks=self._clocks(), cooldown_s=settings.stop_cooldown_s,
            approve_timeout_s=self.get_parameter('approve_timeout_s').value, stopped=self._stopped)
        self._gate.commands = False
        self._missing = {'camera': 'waits for the first message on ' + self.resolve_topic_name(interface.CAMERA_INFO),
                         'joints': 'waits for the first usable message on '
                                   + self.resolve_topic_name(interface.JOINT_STATES)}
        self._wrong: dict[str, str] = {}
        self._says_checkpoint = False
        self._camera = SoleSource(self, interface.CAMERA_INFO)
        robot = cell.robot
        self._commands = {robot.arm_joints: self._publisher(interface.ARM_COMMAND),
                          robot.gripper_joints: self._publisher(interface.GRIPPER_COMMAND)}
        self._listen(cell)
        for status in (self._gate.waiting_status(), self._gate.mode_status(), self._gate.stop_status(),
                       self._gate.inputs_status(), self._gate.agreement_status()):
            self.board.tell(status)

    def check(self) -> None:
        """What the topics of the cell say contradicts nothing that the cell file says."""
        if self._wrong:
            raise UserError('; '.join(why for _, why in sorted(self._wrong.items())))
        self._camera.check(working=self.active)
        for topic in (interface.IMAGE, interface.COMPRESSED_IMAGE):
            if not self.active:
                SoleSource(self, topic).check(working=False)

    def awaited(self) -> str:
        """The gate starts by itself once it has seen that camera and joints are those of the cell file."""
        return next(iter(self._missing.values()), '')

    def start(self) -> None:
        """From now on commands may go out. What is there by now stays: the collector need not look at it again."""
        if not run_before_others(self._settings.realtime_priority):
            self.get_logger().warning('the system allows no real-time priority (limits.conf: rtprio): commands and '
                                      'stops may come late while other processes are busy')
        gc.collect()
        gc.freeze()
        gc.disable()
        self._gate_or_raise().commands = True

    def stop(self) -> None:
        """Hold, before anything else; whoever activates the gate again resets the stop as well."""
        gate = self._gate_or_raise()
        gate.stop('inactive', 'the gate was deactivated')
        gate.commands = False
        gc.enable()

    def teardown(self) -> None:
        """Take down all that ``setup`` made; a stop stays latched."""
        if self._gate is not None:
            self._stopped = self._gate.stop_causes
        for destroy in self._made:
            destroy()
        self._made.clear()
        self._gate = None

    def _clocks(self) -> Clocks:
        clock = self.get_clock()
        if self.get_parameter('use_sim_time').value:  # a simulation's time stands still where it does
            return Clocks(lambda: clock.now().nanoseconds, motion=lambda: clock.now().nanoseconds * 1e-9)
        return Clocks(lambda: clock.now().nanoseconds)

    def _publisher(self, topic: str) -> Publisher:
        publisher = self.create_publisher(JointTrajectory, topic, interface.COMMAND_QOS)
        self._made.append(partial(self.destroy_publisher, publisher))
        return publisher

    def _listen(self, cell: Cell) -> None:
        subscriptions = [
            (JointState, interface.JOINT_STATES, self._on_joints, interface.SENSOR_QOS),
            # Stamped like the image and a thousand times smaller: the gate needs no pixels.
            (CameraInfo, interface.CAMERA_INFO, self._on_camera_info, interface.HISTORY_QOS),
            (String, interface.TASK, self._on_task, interface.LATCHED_QOS),
            (Header, interface.HEARTBEAT, self._on_heartbeat, interface.SENSOR_QOS),
            (DiagnosticArray, interface.OUTCOME, self._on_outcome, interface.EVENT_QOS),
            (DiagnosticArray, interface.DIAGNOSTICS, self._on_diagnostics, interface.EVENT_QOS),
            (JointTrajectory, interface.ARM_COMMAND, self._on_other_command, interface.COMMAND_QOS),
            (JointTrajectory, interface.GRIPPER_COMMAND, self._on_other_command, interface.COMMAND_QOS),
        ]
        stop = cell.topics.protective_stop
        if stop is not None:
            # Drivers differ: none of these serves a publisher of every quality without loss, and what was latched.
            for qos in (interface.DRIVER_QOS, interface.EVENT_QOS, interface.LATCHED_QOS):
                subscriptions.append((Bool if stop.type == 'bool' else String, stop.topic, self._protective_stop(stop),
                                      qos))
        # The executor serves what has come in this order: a proposal is judged by all that was said before it.
        subscriptions.append((JointTrajectory, interface.PROPOSAL, self._on_proposal, interface.COMMAND_QOS))
        for kind, topic, callback, qos in subscriptions:
            subscription = self.create_subscription(kind, topic, callback, qos, raw=kind is JointTrajectory)
            self._made.append(partial(self.destroy_subscription, subscription))
        for period_s, callback in ((POLL_S, self._poll), (_COLLECT_S, gc.collect)):
            self._made.append(partial(self.destroy_timer, self.create_timer(period_s, callback)))

    # --- what the cell says -------------------------------------------------------------------------------------

    def _on_joints(self, message: JointState) -> None:
        topic = self.resolve_topic_name(interface.JOINT_STATES)
        try:
            positions = joint_positions(message, topic, self._cell.robot.joints)
        except UserError as error:  # the last good state ages until the age rule refuses
            if not self.active:
                self._wrong['joints'] = str(error)
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        self._wrong.pop('joints', None)
        self._missing.pop('joints', None)
        self._gate_or_raise().joint_state(positions, to_ns(message.header.stamp))

    def _on_camera_info(self, message: CameraInfo, info: dict[str, Any]) -> None:
        self._camera.received(info)
        try:
            check_camera_info(message, self.resolve_topic_name(interface.CAMERA_INFO), self._cell.camera)
        except UserError as error:
            self._wrong['camera'] = str(error)
            return
        self._wrong.pop('camera', None)
        self._missing.pop('camera', None)
        self._gate_or_raise().image(to_ns(message.header.stamp))

    def _on_task(self, message: String) -> None:
        refusal = self._tasks.refusal(message.data)
        self._gate_or_raise().task(Violation('task', message.data[:80], 'tasks.allow', refusal) if refusal else None)

    def _on_heartbeat(self, message: Header) -> None:
        self._gate_or_raise().supervisor.heartbeat(to_ns(message.stamp))

    def _protective_stop(self, stop: ProtectiveStop) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            stopped = message.data in stop.stopped
            why = f'the driver says {message.data!r} on {self.resolve_topic_name(stop.topic)}'
            self._gate_or_raise().supervisor.protective_stop(why if stopped else '')
        return receive

    def _on_other_command(self, content: bytes) -> None:
        gate = self._gate_or_raise()
        if gate.mode != 'shadow':  # then it is our own
            return
        try:
            trajectory = read_trajectory(content, 'the robot command')
        except UserError:
            return  # what somebody else sends to a controller is not ours to judge
        if trajectory is not None:
            gate.other_command(trajectory)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Which checkpoint decides: an agent that can change it says so before it decides, others with each thought."""
        for status in (status for status in message.status if is_of_this_cell(self, status.name)):
            self._says_checkpoint = self._says_checkpoint or status.name.endswith(_CHECKPOINT)
            if status.name.endswith(_CHECKPOINT if self._says_checkpoint else _THOUGHT):
                digest = next((pair.value for pair in status.values if pair.key == 'checkpoint_sha256'), '')
                self._gate_or_raise().decided_by(digest)

    def _on_outcome(self, message: DiagnosticArray) -> None:
        try:
            outcome = outcome_from(message, self.resolve_topic_name(interface.OUTCOME))
        except UserError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        if outcome.terminated or outcome.truncated:
            self._gate_or_raise().episode_ended(outcome.success, to_ns(message.header.stamp))

    # --- proposals and commands ---------------------------------------------------------------------------------

    def _on_proposal(self, content: bytes, info: dict[str, Any]) -> None:
        gate, stamp_ns = self._gate_or_raise(), stamp_of(content)
        if not self.active:
            gate.refuse(Violation('inactive', 'inactive', 'active', 'the gate is not active'), stamp_ns)
            return
        try:
            trajectory = read_trajectory(content, self.resolve_topic_name(interface.PROPOSAL))
        except UserError as error:
            gate.refuse(Violation('shape', 'malformed', 'one position per joint', str(error)), stamp_ns)
            return
        gate.propose(trajectory, stamp_ns, (time.time_ns() - info['source_timestamp']) * 1e-9)

    def _send(self, trajectory: Trajectory | None) -> int:
        """One stamp on both halves: the controllers start them together, now or ``motion.command_lead_s`` later.

        A controller rejects what should have ended by the time it comes. A single point, with which a robot is
        stopped, gets no stamp, so that it starts whenever it arrives.
        """
        lead_ns = round(self._cell.motion.command_lead_s * 1e9)
        works = trajectory is not None and len(trajectory.times_ns) > 1
        stamp_ns = self.get_clock().now().nanoseconds + lead_ns if works else 0
        for joints, publisher in self._commands.items():
            if trajectory is None:
                publisher.publish(trajectory_bytes(None, stamp_ns))
            elif joints[0] in trajectory.joint_names:
                publisher.publish(trajectory_bytes(trajectory.select(joints), stamp_ns))
        return stamp_ns

    def _poll(self) -> None:
        gate, stop = self._gate_or_raise(), self._cell.topics.protective_stop
        if stop is not None:
            gate.supervisor.driver_publishers(self.count_publishers(self.resolve_topic_name(stop.topic)))
        if self.active:
            gate.poll()

    # --- operator -----------------------------------------------------------------------------------------------

    def _on_approve(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        return self._answer(response, lambda gate: gate.approve(request.data))

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def stop(gate: Gate) -> tuple[bool, str]:
            gate.stop('operator', 'the operator called ~/stop')
            return True, 'stopped; nothing is forwarded until ~/reset'
        return self._answer(response, stop)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, lambda gate: gate.reset())

    def _on_episode(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """The operator's verdict on an episode, where the line has no inspection that knows."""
        def judge(gate: Gate) -> tuple[bool, str]:
            if self.count_publishers(self.resolve_topic_name(interface.OUTCOME)):
                return False, f'the line judges episodes itself, on {self.resolve_topic_name(interface.OUTCOME)}'
            return True, gate.episode_ended(request.data)
        return self._answer(response, judge)

    def _on_set_mode(self, request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
                     ) -> SetParametersAtomically.Response:
        given = {parameter.name: parameter.value.string_value for parameter in request.parameters}
        answer = Trigger.Response()
        if set(given) != {'mode', 'reason'}:
            answer.message = '~/set_mode takes the string parameters mode and reason, and no others'
        else:
            self._answer(answer, lambda gate: gate.set_mode(given['mode'], given['reason']))
        response.result = SetParametersResult(successful=answer.success, reason=answer.message)
        return response

    def _answer(self, response: Any, act: Callable[[Gate], tuple[bool, str]]) -> Any:
        if self._gate is None or not self.active:
            response.success, response.message = False, 'the gate is not active and publishes no command: its reason ' \
                f'is in "{full_name(self)}: state" on /diagnostics'
        else:
            response.success, response.message = act(self._gate)
        return response

    def _on_changed(self, values: dict[str, Any]) -> None:
        if self._gate is not None and 'approve_timeout_s' in values:
            self._gate.approve_timeout_s = values['approve_timeout_s']

    def _tell(self, status: Status) -> None:
        self.board.tell(status)
        if status.level == ERROR or status.values.get('verdict') == 'refused' or status.about == 'mode':
            self.get_logger().warning(f'{status.about}: {status.message}')

    def _gate_or_raise(self) -> Gate:
        assert self._gate is not None, 'only what setup makes calls this'
        return self._gate


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros gate_node``."""
    return run_node('gate_node', GateNode, args, last_word=True)


if __name__ == '__main__':
    sys.exit(main())
