"""The agent: a vision-language model that looks, thinks, and proposes one motion at a time to the gate.

A lifecycle node. ``configure`` loads the model, ``activate`` starts deciding, ``deactivate`` stops at once; while it
is not active it publishes nothing, unless it refuses to be: then it says why. Inference runs in one worker thread,
never in a callback.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from ..config import bounded
from ..errors import UserError
from ..limits import MAX_AHEAD_S, Safety
from ..motion.monitor import MotionMonitor
from ..refusals import Refusals
from ..safety.supervisor import HEARTBEAT_S
from ..status import OK, WARN, Status
from ..tasks import TaskPolicy
from ..types import Observation
from . import interface
from .cot import REPEAT_S, CotPublisher
from .decider import Decided, Decider
from .lifecycle import ManagedNode
from .messages import image_array, joint_positions, to_ns
from .parameters import declare_parameters
from .peers import Peers, pulse
from .publishers import SoleSource
from .releases import CHANGEABLE, Releases, ReleaseSettings
from .ros_env import run_node
from .status_names import GATE
from .trajectory_wire import read_trajectory, trajectory_bytes

_POLL_S = 0.05
_SET_BACK_NS = 1_000_000_000  # a clock that is merely kept in time goes back by less


@dataclass(frozen=True)
class Parameters(ReleaseSettings):
    """Parameters of agent_node."""

    max_rate_hz: float = bounded(2.0, low=0.01, high=30.0, help='decisions per second at most, Hz')
    proposal_timeout_s: float = bounded(
        2.0, low=0.1, high=7200.0,
        help='decide anew if the gate has not forwarded a proposal by then; longer than its approve_timeout_s, s')
    refusal_wait_s: float = bounded(1.0, low=0.0, high=60.0, help='after the gate has refused a proposal decide '
                                    'nothing for so long, and twice as long after each further one in a row, s')
    max_refusal_wait_s: float = bounded(30.0, low=0.0, high=3600.0, help='that wait grows no longer than this, s')
    image_transport: str = bounded('raw', choices=('raw', 'compressed'), help='which image topic to subscribe to')
    autostart: bool = bounded(False, help='configure and activate at start instead of waiting for transitions')


class AgentNode(ManagedNode):
    """Adapter of the agent; at most one decision and one motion are under way at a time."""

    def __init__(self) -> None:
        super().__init__('agent_node')
        self._settings = declare_parameters(self, Parameters, CHANGEABLE)
        self._releases: Releases | None = None
        self._refusals = Refusals(self._settings.refusal_wait_s, self._settings.max_refusal_wait_s)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix='inference')
        self._task = self._task_refusal = ''
        self._task_since_ns = self._newest_ns = 0
        self._task_since_s = 0.0  # monotonic
        self._complaint = ''
        self._thinking: tuple[Future[Decided], Observation] | None = None
        self._forget()
        self._inputs: list[Subscription] = []
        # Wakes the executor at once when the worker has decided.
        self._decided = self.create_guard_condition(self._finish_if_decided)
        self._active_entities: tuple[list[Publisher], CotPublisher, list[Timer]] | None = None
        Peers(self, self.board, [interface.GATE_HEARTBEAT, interface.AUDIT_HEARTBEAT])
        if self._settings.autostart:
            self.autostart()

    def close(self) -> None:
        """Stop deciding; a decision that is being computed is not waited for."""
        self._silence()
        self._worker.shutdown(wait=False, cancel_futures=True)

    # --- lifecycle ----------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Load cell, planner and checkpoint."""
        started = time.monotonic()
        settings = replace(self._settings, readmit=self.get_parameter('readmit').value)  # since the start, perhaps
        self._releases = Releases(self, settings, self._switch, self._on_verdict)
        decider = self._releases.deciding
        interface.check_names(self, decider.cell.topics)
        self._monitor = MotionMonitor(decider.cell)
        self._tasks = TaskPolicy(decider.cell.tasks)
        self._subscribe()
        self.get_logger().info(f'{decider.checkpoint} loaded in {time.monotonic() - started:.1f} s')

    def check(self) -> None:
        """There is one camera."""
        self._camera.check(working=self.active)

    def start(self) -> None:
        """Start deciding, from images exposed from now on, and show that the agent lives."""
        self._forget()
        self._not_before_ns = self._now_ns()
        cot = CotPublisher(self)
        heartbeat = self.create_publisher(Header, interface.HEARTBEAT, interface.SENSOR_QOS)
        proposals = self.create_publisher(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS)

        def beat() -> None:
            heartbeat.publish(pulse(self))
        timers = [self.create_timer(_POLL_S, self._step), self.create_timer(REPEAT_S, cot.repeat),
                  self.create_timer(HEARTBEAT_S, beat)]
        self._active_entities = [proposals, heartbeat], cot, timers
        if self._releases is not None:
            self._releases.show()

    def stop(self) -> None:
        """Stop deciding at once; a motion that the gate has forwarded is the gate's to stop."""
        self._silence()

    def teardown(self) -> None:
        """Let the model go."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs.clear()
        if self._releases is not None:
            self._releases.close()
            self._releases = None

    @property
    def _decider(self) -> Decider | None:
        """What decides, while there is something."""
        return self._releases.deciding if self._releases is not None else None

    def _silence(self) -> None:
        """Take everything down that could publish; the result of a running inference is dropped."""
        self._thinking = None
        if self._releases is not None:
            self._releases.hide()
        self.board.forget(self._refusals.status().about)
        if self._active_entities is not None:
            publishers, cot, timers = self._active_entities
            self._active_entities = None
            for timer in timers:
                self.destroy_timer(timer)
            cot.close()
            for publisher in publishers:
                self.destroy_publisher(publisher)

    # --- what the cell says -------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        compressed = self._settings.image_transport == 'compressed'
        self._image_name = interface.COMPRESSED_IMAGE if compressed else interface.IMAGE
        image_type = CompressedImage if compressed else Image
        self._camera = SoleSource(self, self._image_name)
        commands = ((topic, self._on_command) for topic in (interface.ARM_COMMAND, interface.GRIPPER_COMMAND))
        self._inputs = [
            self.create_subscription(image_type, self._image_name, self._on_image, interface.NEWEST_QOS),
            self.create_subscription(JointState, interface.JOINT_STATES, self._on_joints, interface.SENSOR_QOS),
            self.create_subscription(String, interface.TASK, self._on_task, interface.LATCHED_QOS),
            self.create_subscription(String, interface.CORRECTION.replace('~', GATE),
                                     lambda _: self._refusals.forget(), interface.EVENT_QOS),
            # What the gate forwards, or anyone else: the arm must be at rest before the next decision.
            *(self.create_subscription(JointTrajectory, topic, callback, interface.COMMAND_QOS, raw=True)
              for topic, callback in commands),
        ]

    def _forget(self) -> None:
        self._image: Image | CompressedImage | None = None
        self._joints: JointState | None = None
        self._thinking = None
        self._not_before_ns = 0
        self._awaited_until_ns = 0
        self._refusals.forget()
        self._next_decision = 0.0
        self._memory = ''

    def _on_image(self, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        self._camera.received(info)
        self._image = message
        if self._active_entities is not None:
            self._step()

    def _on_task(self, message: String) -> None:
        self._task, self._task_refusal = message.data, self._tasks.refusal(message.data)
        # An image from before may still be on its way, of parts that this instruction is not about.
        self._task_since_ns, self._task_since_s = self._now_ns(), time.monotonic()
        self._not_before_ns = max(self._not_before_ns, self._task_since_ns)
        self._memory = ''  # with an instruction an episode begins
        self._refusals.forget()
        if self._releases is not None:
            self._releases.new_task()

    def _on_verdict(self, values: dict[str, str]) -> None:
        """The gate has judged: unless it has let the motion begin, there is none to wait for."""
        if self.active and self._refusals.verdict(values):
            if values['verdict'] in ('refused', 'shadow'):  # after a refusal another wait begins
                self._awaited_until_ns = 0
            elif values['verdict'] == 'stopped':  # until somebody resets it; no sooner again than after a refusal
                self._awaited_until_ns = self._now_ns() + int(self._settings.refusal_wait_s * 1e9)
            self.board.tell(self._refusals.status())

    def _on_command(self, content: bytes) -> None:
        try:
            trajectory = read_trajectory(content, 'the robot command')
        except UserError as error:
            self._complain(error)
            return
        if trajectory is not None:
            self._awaited_until_ns = 0
            self._monitor.command(trajectory, self._now_ns())

    def _on_joints(self, message: JointState) -> None:
        self._joints = message
        decider = self._decider
        if decider is None or not self._monitor.moving:
            return
        try:
            positions = joint_positions(message, interface.JOINT_STATES, decider.cell.robot.arm_joints)
        except UserError as error:
            self._complain(error)
            return
        if self._monitor.update(to_ns(message.header.stamp), positions):
            self._not_before_ns = to_ns(message.header.stamp)

    # --- deciding -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Take the next step that is possible: finish a decision, or start one on a fresh image of an arm at rest."""
        if self._thinking is not None:
            self._finish_if_decided()
            return
        self._switch()
        releases, now_ns = self._releases, self._now_ns()
        if now_ns < self._newest_ns - _SET_BACK_NS:
            self._begin_anew(now_ns)
        self._newest_ns = now_ns
        if releases is None or not releases.may_decide:
            return
        if self._monitor.moving or now_ns < self._awaited_until_ns or time.monotonic() < self._next_decision \
                or self._refusals.waiting:
            return
        observation = self._observe()
        if observation is not None:
            self._next_decision = time.monotonic() + 1.0 / self._settings.max_rate_hz
            future = self._worker.submit(releases.deciding.decide, observation, self._memory)
            self._thinking = future, observation
            future.add_done_callback(lambda _: self._decided.trigger())
            releases.begin()

    def _begin_anew(self, now_ns: int) -> None:
        """The clock was set back: every stamp from before is of a time that may not come for hours."""
        self._forget()
        self._task_since_ns = self._not_before_ns = now_ns
        if self._decider is not None:
            self._monitor = MotionMonitor(self._decider.cell)
        self.get_logger().warning('the clock was set back: what was known by it is forgotten')

    def _finish_if_decided(self) -> None:
        if self._thinking is not None and self._thinking[0].done():
            self._finish(*self._thinking)

    def _switch(self) -> None:
        """Let a checkpoint take over that waits for it, unless a decision or a motion is under way."""
        ready = self._thinking is None and not self._monitor.moving
        if ready and self._releases is not None and self._releases.take():
            self._refusals.forget()

    def _observe(self) -> Observation | None:
        """Everything that a decision needs, if it is there and usable."""
        image, joints, decider = self._image, self._joints, self._decider
        if image is None or joints is None or decider is None or not self._task:
            return None
        if self._task_refusal:
            self._complain(UserError(self._task_refusal))
            return None
        stamp_ns = to_ns(image.header.stamp)
        if stamp_ns <= self._not_before_ns:
            return None
        names = decider.cell.robot.joints
        image_topic, joint_topic = map(self.resolve_topic_name, (self._image_name, interface.JOINT_STATES))
        try:
            # The gate would refuse what rests on these, and images after such a one be ignored.
            for topic, ahead_ns in ((image_topic, stamp_ns), (joint_topic, to_ns(joints.header.stamp))):
                if (ahead_s := (ahead_ns - self._now_ns()) * 1e-9) > MAX_AHEAD_S:
                    raise UserError(f'{topic}: the newest message is of a time {ahead_s:.1f} s ahead: set the clocks '
                                    'of both computers alike')
            self._refuse_old(joints, joint_topic, decider.cell.safety)
            observation = Observation(image_array(image, image_topic, decider.cell.camera), names,
                                      joint_positions(joints, joint_topic, names), self._task, stamp_ns)
        except UserError as error:
            self._complain(error)
            return None
        self._settle_complaint()
        return observation

    def _refuse_old(self, joints: JointState, topic: str, limits: Safety) -> None:
        """The gate would refuse what rests on these: a robot that is off, a line at rest, is no checkpoint's fault."""
        if (self._now_ns() - to_ns(joints.header.stamp)) * 1e-9 > limits.max_joint_age_s:
            raise UserError(f"{topic}: the newest joint state is more than {limits.max_joint_age_s:g} s old: see that "
                            "the robot's driver runs, and that the clocks of both computers agree")
        if time.monotonic() - self._task_since_s > limits.max_task_age_s:
            raise UserError(f'{self.resolve_topic_name(interface.TASK)}: the instruction is more than '
                            f'{limits.max_task_age_s:g} s old: publish it again if it still holds')

    def _finish(self, future: Future[Decided], observation: Observation) -> None:
        self._thinking = None
        try:
            decided = future.result()
        except UserError as error:
            self._complain(error)
            return
        releases = self._releases
        if self._active_entities is None or releases is None or not releases.may_decide:
            return  # deactivated, or stopped because of what was decided before
        if self._task != observation.task or observation.stamp_ns <= self._task_since_ns:
            return  # decided on an instruction that no longer holds
        (proposals, _), cot, _ = self._active_entities
        self._not_before_ns = observation.stamp_ns
        self._memory = decided.decision.memory
        now_ns = self._now_ns()
        cot.publish(decided.report((now_ns - observation.stamp_ns) * 1e-6))
        if decided.trajectory is not None:
            self._awaited_until_ns = now_ns + int(self._settings.proposal_timeout_s * 1e9)
            self._refusals.proposed(observation.stamp_ns)
            proposals.publish(trajectory_bytes(decided.trajectory, observation.stamp_ns))
        releases.decided(decided)

    def _complain(self, error: UserError) -> None:
        """Say why nothing is decided, in the log now and then, and on ``/diagnostics`` until something is."""
        self.get_logger().error(str(error), throttle_duration_sec=5.0)
        if self.active and str(error) != self._complaint:
            self._complaint = str(error)
            self.board.tell(Status('state', WARN, self._complaint, {'state': 'active', 'reason': self._complaint}))

    def _settle_complaint(self) -> None:
        if self._complaint:
            self._complaint = ''
            self.board.tell(Status('state', OK, 'active', {'state': 'active'}))

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros agent_node``."""
    status = run_node('agent_node', AgentNode, args)
    # Python would wait at exit for an inference that is still running, longer than anyone waits after Ctrl-C.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == '__main__':
    sys.exit(main())
