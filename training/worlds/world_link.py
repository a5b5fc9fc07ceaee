"""One world seen from the trainer: its topics and services, and how far its answer has come."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from sim_worlds.world_file import load_world
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import image_array, joint_positions, outcome_from, to_ns
from vlm_agent_ros.nodes.trajectory_wire import trajectory_bytes
from vlm_agent_ros.types import EpisodeRequest, Observation, Outcome, Trajectory

from .pool import Answer

_RESEND_S = 1.0
_LOOK_S = 1.0


class WorldSilent(RuntimeError):
    """A world did not come up or did not answer in time; the message says which."""


class WorldLink:
    """Client of one world's topics and services.

    A request goes through stages, each of which waits for one thing: ``discover`` (every topic and service is
    matched), ``parameters`` (the episode's parameters are set), ``reset`` (the service has answered), ``outcome``
    (of a turn), ``observe`` (image and joint states of the right stamp, task of the right text).

    Args:
        node: The trainer's node.
        name: The world's namespace, without slashes around it.
        world: World file used where a request names none.
    """

    def __init__(self, node: Node, name: str, world: str) -> None:
        self.name = name
        self.answer: Answer | None = None
        self._default_world = world
        self._cells: dict[str, Cell] = {}
        self._cell = self._find_cell(world)
        self._stage = ''
        self._deadline = self._timeout_s = 0.0
        self._turn_timeout_s = 0.0
        self._resend = self._look_again = 0.0
        self._publishers: set[tuple[int, ...]] = set()
        self._turns = 0
        self._node = node
        self._request: EpisodeRequest | None = None
        self._future: Future | None = None
        self._stamp_ns = -1
        self._text = ''
        self._outcome: Outcome | None = None
        self._image: Image | None = None
        self._joints: JointState | None = None
        self._task: str | None = None
        self._turn: DiagnosticArray | None = None
        self._connect()

    def _connect(self) -> None:
        node = self._node

        def topic(relative: str) -> str:
            return f'/{self.name}/{relative}'

        def keep(attribute: str) -> Any:
            return lambda message: setattr(self, attribute, message)

        self._arm = node.create_publisher(JointTrajectory, topic(interface.ARM_COMMAND), interface.COMMAND_QOS)
        self._gripper = node.create_publisher(JointTrajectory, topic(interface.GRIPPER_COMMAND), interface.COMMAND_QOS)
        self._sources = [
            node.create_subscription(Image, topic(interface.IMAGE), keep('_image'), interface.NEWEST_QOS),
            node.create_subscription(JointState, topic(interface.JOINT_STATES), keep('_joints'), interface.NEWEST_QOS),
            node.create_subscription(DiagnosticArray, topic(interface.OUTCOME), keep('_turn'), interface.EVENT_QOS),
            node.create_subscription(String, topic(interface.TASK), self._keep_task, interface.LATCHED_QOS),
        ]
        self._set_parameters = node.create_client(SetParameters, topic('world_node/set_parameters'))
        self._reset = node.create_client(Trigger, topic(interface.RESET))

    def _keep_task(self, message: String) -> None:
        self._task = message.data

    def reset(self, request: EpisodeRequest, start_timeout_s: float, turn_timeout_s: float) -> None:
        """Ask for an episode as soon as the world is there."""
        self._cell = self._find_cell(request.world or self._default_world)
        self._request, self._turn_timeout_s, self._outcome, self._turns = request, turn_timeout_s, None, 0
        self._enter('discover', start_timeout_s)

    def execute(self, trajectory: Trajectory | None, turn_timeout_s: float) -> None:
        """Command a turn; it rests on the last image."""
        self._turn, self._look_again = None, time.monotonic() + _LOOK_S
        self._turns += 1
        if trajectory is not None:
            robot = self._cell.robot
            for publisher, joints in ((self._gripper, robot.gripper_joints), (self._arm, robot.arm_joints)):
                commanded = tuple(name for name in joints if name in trajectory.joint_names)
                if commanded:
                    publisher.publish(trajectory_bytes(trajectory.select(commanded), self._stamp_ns))
        else:
            self._arm.publish(trajectory_bytes(None, self._stamp_ns))
        self._enter('outcome', turn_timeout_s)

    def take_answer(self) -> Answer:
        """The answer, once; ``answer`` is None from here on until the next one."""
        answer, self.answer = self.answer, None
        assert answer is not None
        return answer

    def drop(self) -> None:
        """Forget the request and everything that was received from a world that is no more."""
        self._stage = ''
        self.answer = self._image = self._joints = self._task = self._turn = self._future = None
        self._stamp_ns = -1

    def advance(self) -> None:
        """Take every step that is possible with what has been received.

        Raises:
            WorldSilent: The present stage has taken too long.
            UserError: The world refuses the request, or what it publishes is unusable.
        """
        if not self._stage:
            raise UserError(f'{self.name} was asked for an answer without a request')
        while self._stage and getattr(self, f'_after_{self._stage}')():
            pass
        if self._stage == 'outcome' and time.monotonic() > self._look_again:
            self._check_publishers()
        if self._stage and time.monotonic() > self._deadline:
            starting = self._stage in ('discover', 'parameters')
            raise WorldSilent('did not come up in time' if starting else f'did not answer in time ({self._stage})')

    def _enter(self, stage: str, timeout_s: float) -> None:
        self.answer, self._stage, self._timeout_s = None, stage, timeout_s
        self.wait()

    def wait(self) -> None:
        """Somebody begins to wait: the time until then, in which nobody looked, is not the world's."""
        self._deadline = time.monotonic() + self._timeout_s

    def _after_discover(self) -> bool:
        services = (self._set_parameters, self._reset)
        matched = all(c.service_is_ready() for c in services) and all(s.get_publisher_count() for s in self._sources) \
            and self._arm.get_subscription_count() and self._gripper.get_subscription_count()
        if matched:
            self._stage = 'parameters'  # within the same deadline: see below
            self._send_parameters()
        return matched

    def _send_parameters(self) -> None:
        assert self._request is not None
        parameters = dataclasses.asdict(self._request)
        self._future = self._set_parameters.call_async(SetParameters.Request(parameters=[
            Parameter(f'episode.{key}', value=value).to_parameter_msg() for key, value in parameters.items()]))
        self._resend = time.monotonic() + _RESEND_S

    def _after_parameters(self) -> bool:
        """A world that was killed stays matched until its lease runs out, so the call is repeated until it is answered.

        Whoever answers has matched every topic before: endpoints are announced in the order of their creation, and
        services are created last on both sides.
        """
        assert self._future is not None
        if not self._future.done():
            if time.monotonic() > self._resend:
                self._set_parameters.remove_pending_request(self._future)
                self._send_parameters()
            return False
        for result in self._future.result().results:
            if not result.successful:
                raise UserError(f'{self.name} refuses the episode: {result.reason}')
        self._future = self._reset.call_async(Trigger.Request())
        self._enter('reset', self._turn_timeout_s)
        return True

    def _after_reset(self) -> bool:
        assert self._future is not None
        if not self._future.done():
            return False
        response = self._future.result()
        if not response.success:
            raise UserError(f'{self.name} refuses the episode: {response.message}')
        started = json.loads(response.message)
        self._stamp_ns, self._text = started['stamp_ns'], started['task']
        self._publishers = self._find_publishers()
        self._enter('observe', self._turn_timeout_s)
        return True

    def _after_outcome(self) -> bool:
        turn = self._turn
        if turn is None or to_ns(turn.header.stamp) <= self._stamp_ns:
            return False
        self._outcome = outcome_from(turn, f'/{self.name}/{interface.OUTCOME}')
        self._check_asked(self._outcome)
        self._stamp_ns = to_ns(turn.header.stamp)
        self._enter('observe', self._turn_timeout_s)
        return True

    def _after_observe(self) -> bool:
        image, joints = self._image, self._joints
        if image is None or joints is None or self._task != self._text:
            return False
        if to_ns(image.header.stamp) != self._stamp_ns or to_ns(joints.header.stamp) != self._stamp_ns:
            return False
        names = self._cell.robot.joints
        observation = Observation(
            image_array(image, f'/{self.name}/{interface.IMAGE}', self._cell.camera), names,
            joint_positions(joints, f'/{self.name}/{interface.JOINT_STATES}', names), self._text, self._stamp_ns)
        self.answer, self._stage = (observation, self._outcome), ''
        return False

    def _check_asked(self, outcome: Outcome) -> None:
        """Refuse a turn that was not asked for here: two trainers in one domain have worlds of the same names."""
        assert self._request is not None
        if (outcome.seed, outcome.turn) != (self._request.seed, self._turns):
            raise UserError(f'{self.name} tells of turn {outcome.turn} of seed {outcome.seed}, but was asked for turn '
                            f'{self._turns} of seed {self._request.seed}: somebody else commands a world of this name; '
                            'give each trainer a ROS_DOMAIN_ID, or running worlds, of its own')

    def _check_publishers(self) -> None:
        """A world that was started elsewhere may die and come back unseen; its successor publishes as someone new."""
        publishers, self._look_again = self._find_publishers(), time.monotonic() + _LOOK_S
        if not publishers:
            raise WorldSilent('has gone')
        if publishers - self._publishers:
            raise WorldSilent('was restarted in the middle of a turn')

    def _find_publishers(self) -> set[tuple[int, ...]]:
        """Global identifiers of who publishes the outcome."""
        publishers = self._node.get_publishers_info_by_topic(f'/{self.name}/{interface.OUTCOME}')
        return {tuple(publisher.endpoint_gid) for publisher in publishers}

    def _find_cell(self, world: str) -> Cell:
        if world not in self._cells:
            self._cells[world] = load_cell(load_world(world).cell)
        return self._cells[world]
