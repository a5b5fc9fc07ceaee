"""The operator's console: one command for one act, one sentence for an answer.

``ros2 run vlm_agent_ros operator approve``, ``reject --correction 'pick 10 20'``, ``stop``, ``reset``,
``episode success`` or ``mode auto --reason '…'``. The exit status is 0 where the gate did it, 1 where it refused, 2 for
bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.duration import Duration
from rclpy.node import Node, Publisher
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from ..actions import ActionError, SkillLanguage
from ..cell import Cell, load_cell
from ..cot import unescape
from ..errors import UserError
from ..motion import Kinematics
from ..motion.demonstration import action_at
from ..safety import MODES
from . import interface
from .messages import joint_positions
from .status_names import AGENT, GATE, full_name

_WAIT_S = 5.0
_CORRECTION = interface.CORRECTION.replace('~', GATE)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}: see {self.prog} --help')


class Console:
    """One act of the operator.

    Args:
        node: A node in the namespace of the gate.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    def approve(self, _: argparse.Namespace) -> tuple[bool, str]:
        """Yes to the pending proposal, if it was there when the operator asked: this program takes seconds to start."""
        verdict = self._verdict()
        if verdict['verdict'] == 'pending' and float(verdict.get('age_s', '0')) < process_age_s():
            return False, 'the proposal that waits came after you had asked: look at it, then answer again'
        return self._act(SetBool, 'approve', SetBool.Request(data=True))

    def reject(self, args: argparse.Namespace) -> tuple[bool, str]:
        """No to the pending proposal, perhaps with what would have been right, or that for one refused already."""
        if args.correction is None and not args.demonstrated:
            return self._act(SetBool, 'approve', SetBool.Request(data=False))
        verdict = self._verdict()
        if 'image_stamp_ns' not in verdict:
            raise UserError('the gate has judged no proposal yet that could be corrected')
        correction = {'image_stamp_ns': int(verdict['image_stamp_ns']), 'action': self._action(args),
                      'thought': args.thought, 'operator': args.operator, 'demonstrated': args.demonstrated}
        publisher = self._recorded()
        message = f'the proposal was not pending any more ({verdict["verdict"]})'
        if verdict['verdict'] == 'pending':
            done, message = self._act(SetBool, 'approve', SetBool.Request(data=False))
            if not done:
                return False, message
        publisher.publish(String(data=json.dumps(correction)))
        if not publisher.wait_for_all_acked(Duration(seconds=_WAIT_S)):
            raise UserError('the correction was not received: give it again')
        return True, f'{message}; corrected to "{correction["action"]}"'

    def stop(self, _: argparse.Namespace) -> tuple[bool, str]:
        """Stop the robot where it is."""
        return self._act(Trigger, 'stop', Trigger.Request())

    def reset(self, _: argparse.Namespace) -> tuple[bool, str]:
        """Lift the stop."""
        return self._act(Trigger, 'reset', Trigger.Request())

    def episode(self, args: argparse.Namespace) -> tuple[bool, str]:
        """Whether the episode was a success, where the line has no inspection that knows."""
        return self._act(SetBool, 'episode', SetBool.Request(data=args.verdict == 'success'))

    def mode(self, args: argparse.Namespace) -> tuple[bool, str]:
        """Change the mode of the gate."""
        values = {name: ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=getattr(args, name))
                  for name in ('mode', 'reason')}
        parameters = [Parameter(name=name, value=value) for name, value in values.items()]
        result = self._call(SetParametersAtomically, 'set_mode',
                            SetParametersAtomically.Request(parameters=parameters)).result
        return result.successful, result.reason

    # --- corrections --------------------------------------------------------------------------------------------

    def _action(self, args: argparse.Namespace) -> str:
        """The right action, of the action language of the gate's cell."""
        cell = self._cell(args.cell)
        action = self._demonstrated(cell) if args.demonstrated else args.correction
        try:
            SkillLanguage(cell.grid).parse(action)
        except ActionError as error:
            raise UserError(f'the correction is no action: {error}') from error
        return str(action)

    def _cell(self, name: str) -> Cell:
        if not name:
            response = self._call(GetParameters, 'get_parameters', GetParameters.Request(names=['cell']))
            name = response.values[0].string_value
        return load_cell(name)

    def _demonstrated(self, cell: Cell) -> str:
        """What the tool shows that was guided by hand to where the skill ends: a pick where the gripper has closed."""
        topic, joints = cell.topics.joint_states or interface.JOINT_STATES, cell.robot.joints
        message = self._next(JointState, topic, interface.SENSOR_QOS, lambda message: message)
        positions = joint_positions(message, self._node.resolve_topic_name(topic), joints)
        skill = 'place' if cell.gripper_state(joints, positions) == 'open' else 'pick'
        return action_at(cell, Kinematics(cell), skill, positions)

    def _recorded(self) -> Publisher:
        """A publisher of corrections to which somebody listens."""
        publisher = self._node.create_publisher(String, _CORRECTION, interface.EVENT_QOS)

        def recorded() -> bool:
            there = [info.node_name for info in self._node.get_subscriptions_info_by_topic(publisher.topic_name)]
            # The agent listens as well, and records nothing; until it is known whose a subscription is, _ comes first.
            return any(name != AGENT and name[:1] != '_' for name in there) \
                and publisher.get_subscription_count() >= len(there)
        if not self._wait(recorded):
            raise UserError(f'nobody records {self._node.resolve_topic_name(_CORRECTION)}: start audit_node, then give '
                            'the correction again')
        return publisher

    # --- the gate -----------------------------------------------------------------------------------------------

    def _verdict(self) -> dict[str, str]:
        """Values of the newest verdict, which the gate repeats every second."""
        verdict = f'{full_name(self._node, GATE)}: verdict'

        def values(message: DiagnosticArray) -> dict[str, str]:
            return {pair.key: unescape(pair.value) for status in message.status if status.name == verdict
                    for pair in status.values}
        return self._next(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS, values)

    def _act(self, kind: Any, name: str, request: Any) -> tuple[bool, str]:
        response = self._call(kind, name, request)
        return response.success, response.message

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        service = f'{GATE}/{name}'
        client = self._node.create_client(kind, service)
        resolved = self._node.resolve_service_name(service)
        if not client.wait_for_service(_WAIT_S):
            raise UserError(f'{resolved} is not there: start gate_node, or name its namespace with --ros-args -r '
                            '__ns:=/…')
        future = client.call_async(request)
        if not self._wait(future.done):
            raise UserError(f'{resolved} gave no answer within {_WAIT_S:g} s: look at the gate')
        return future.result()

    def _next(self, kind: type, topic: str, qos: Any, read: Callable[[Any], Any]) -> Any:
        """What ``read`` makes of the next message of a topic in which it finds something."""
        found: list[Any] = []

        def receive(message: Any) -> None:
            content = read(message)
            if content:
                found.append(content)
        subscription = self._node.create_subscription(kind, topic, receive, qos)
        if not self._wait(lambda: found):
            raise UserError(f'nothing of {GATE} came on {self._node.resolve_topic_name(topic)} within {_WAIT_S:g} s: '
                            'check that the cell is running')
        self._node.destroy_subscription(subscription)
        return found[0]

    def _wait(self, condition: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + _WAIT_S
        while not condition() and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=0.05)
        return bool(condition())


def process_age_s() -> float:
    """Time (s) since this process was started, imports included."""
    fields = Path('/proc/self/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
    started_s = int(fields[19]) / os.sysconf('SC_CLK_TCK')  # starttime, since boot (proc(5), field 22)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line without what is meant for ROS.

    Raises:
        UserError: A command or an option does not exist, or lacks its value.
    """
    parser = _Parser(prog='operator', description='Answer, stop and reset the gate, and change its mode.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    commands.add_parser('approve', help='release the proposal that waits')
    reject = commands.add_parser('reject', help='refuse the proposal that waits, and say what would have been right')
    right = reject.add_mutually_exclusive_group()
    right.add_argument('--correction', metavar='ACTION', help='the right action, such as "pick 10 20"')
    right.add_argument('--demonstrated', action='store_true',
                       help='the tool was guided to where the right action ends: take it from there')
    reject.add_argument('--thought', default='', help='the thought that would have been right')
    reject.add_argument('--operator', default=os.environ.get('USER', ''), help='who says so (default: %(default)s)')
    reject.add_argument('--cell', default='', help="cell file of the actions (default: the gate's)")
    commands.add_parser('stop', help='stop the robot where it is')
    commands.add_parser('reset', help='lift the stop')
    episode = commands.add_parser('episode', help='judge the episode, where the line does not')
    episode.add_argument('verdict', choices=('success', 'failure'))
    mode = commands.add_parser('mode', help='change the mode of the gate')
    mode.add_argument('mode', choices=MODES)
    mode.add_argument('--reason', required=True, help='why, for the log')
    return parser.parse_args(arguments)


def main(args: list[str] | None = None) -> int:
    """Run one command; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros operator``."""
    arguments = sys.argv if args is None else ['operator', *args]
    try:
        parsed = parse_arguments(remove_ros_args(arguments)[1:])
        rclpy.init(args=arguments)
        node = Node('operator')
        try:
            done, message = getattr(Console(node), parsed.command)(parsed)
        finally:
            node.destroy_node()
            rclpy.try_shutdown()
    except UserError as error:
        print(f'operator: {error}', file=sys.stderr)
        return 2
    print(message, file=sys.stdout if done else sys.stderr)
    return 0 if done else 1


if __name__ == '__main__':
    sys.exit(main())
