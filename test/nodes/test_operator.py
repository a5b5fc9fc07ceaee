"""The operator's console: one act, one sentence, and an exit status that tells whether the gate did it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import joint_state_message, trajectory_message
from vlm_agent_ros.nodes.operator import parse_arguments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def operate(graph):
    """Run a command of the console beside the test's own node; exit status and what it said."""
    def run(*arguments):
        environment = {**os.environ, 'ROS_DOMAIN_ID': str(graph.domain_id), 'PYTHONPATH': str(ROOT)}
        process = subprocess.Popen([sys.executable, '-m', 'vlm_agent_ros.nodes.operator', *arguments], env=environment,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        graph.wait(lambda: process.poll() is not None)
        said = process.stdout.read().strip()
        assert len(said.splitlines()) == 1, said
        return process.returncode, said
    return run


def test_an_operator_rejects_corrects_approves_stops_and_resets(gate, graph, cell, kinematics, operate):
    # On a busy machine two runs of the console take longer than the default patience with the operator.
    gate.start(mode='approve', stop_cooldown_s=0.0, approve_timeout_s=600.0)
    corrections = graph.collect(String, 'gate_node/correction', 10)
    assert operate('approve') == (1, 'no proposal waits for approval')
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    stamp_ns = int(gate.newest('verdict')['image_stamp_ns'])
    status, said = operate('reject', '--correction', 'pick 99 99')
    assert status == 2
    assert 'no action' in said
    assert gate.newest('verdict')['verdict'] == 'pending'  # a wrong correction rejects nothing
    status, said = operate('reject', '--correction', 'pick 10 20', '--thought', 'the other one', '--operator', 'eve')
    assert (status, said) == (0, 'the proposal is refused; corrected to "pick 10 20"')
    graph.wait(lambda: corrections)
    assert json.loads(corrections[0].data) == {'image_stamp_ns': stamp_ns, 'action': 'pick 10 20', 'operator': 'eve',
                                               'thought': 'the other one', 'demonstrated': False}
    gate.positions[7] = 0.02  # guided to a cube by hand, and closed on it
    graph.spin(0.2)
    status, said = operate('reject', '--demonstrated')
    assert status == 0
    assert 'not pending any more' in said
    graph.wait(lambda: len(corrections) == 2)
    shown = json.loads(corrections[1].data)
    below = [*kinematics.forward(gate.positions[:7])[0][:2], cell.workspace.plane_z]
    column, row = cell.point_to_cell(below)
    assert (shown['action'], shown['demonstrated']) == (f'pick {column:02d} {row:02d}', True)
    gate.positions[7] = 0.04
    graph.spin(0.2)
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    graph.spin(0.1)  # nobody asks within the hundredth of a second to which a process knows when it was started
    assert operate('approve') == (0, 'the proposal is forwarded')
    assert operate('stop')[0] == 0
    assert operate('mode', 'auto', '--reason', ' ')[0] == 1
    assert operate('mode', 'shadow', '--reason', 'the shift ends') == (0, 'the mode is shadow, before it was approve')
    graph.wait(lambda: gate.newest('mode').get('reason') == 'the shift ends')
    assert operate('reset')[0] == 0
    assert operate('episode', 'success')[0] == 0


def test_a_yes_that_was_asked_for_before_the_proposal_came_is_not_given(gate, graph, operate):
    """The console takes seconds to start: the operator has seen another proposal, or none."""
    gate.start(mode='approve', approve_timeout_s=600.0)
    started = time.monotonic()
    graph.node.create_timer(0.3, lambda: None if gate.newest('verdict').get('verdict') == 'pending' else
                            gate.proposals.publish(trajectory_message(gate.plan, gate.stamp_ns)))
    status, said = operate('approve')
    assert time.monotonic() - started > 0.5
    assert (status, said) == (1, 'the proposal that waits came after you had asked: look at it, then answer again')
    assert gate.newest('verdict')['verdict'] == 'pending'
    assert operate('approve') == (0, 'the proposal is forwarded')


def test_a_demonstration_is_read_from_the_topic_that_the_cell_file_names(gate, graph, cell, operate, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text() + 'topics: {joint_states: robot/joint_states}\n')
    gate.start(mode='approve', approve_timeout_s=600.0)
    corrections = graph.collect(String, 'gate_node/correction', 10)
    robot = graph.node.create_publisher(JointState, 'robot/joint_states', interface.SENSOR_QOS)
    closed = gate.positions.copy()
    closed[7] = 0.02
    graph.node.create_timer(0.05, lambda: robot.publish(
        joint_state_message(cell.robot.joints, closed, time.time_ns())))
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    assert operate('reject', '--demonstrated', '--cell', str(path))[0] == 0
    graph.wait(lambda: corrections)
    assert json.loads(corrections[0].data)['action'].startswith('pick')  # on joint_states the gripper is open


def test_a_correction_that_nobody_records_and_a_gate_that_is_not_there_are_told(gate, graph, operate):
    status, said = operate('stop')
    assert status == 2
    assert '/gate_node/stop is not there' in said
    gate.start(mode='approve')
    agent = Node('agent_node', context=graph.context, use_global_arguments=False)
    agent.create_subscription(String, 'gate_node/correction', print, 10)  # it listens, and records nothing
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    status, said = operate('reject', '--correction', 'done')
    agent.destroy_node()
    assert status == 2
    assert 'start audit_node' in said


@pytest.mark.parametrize('arguments', [[], ['jump'], ['mode', 'auto'], ['mode', 'yolo', '--reason', 'x'],
                                       ['episode'], ['reject', '--correction', 'done', '--demonstrated']])
def test_a_wrong_command_line_is_one_sentence(arguments):
    with pytest.raises(UserError, match='see operator'):
        parse_arguments(arguments)
