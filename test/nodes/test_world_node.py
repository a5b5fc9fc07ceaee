"""The simulated cell as a process: what a real cell publishes, moving only on command or with wall time."""

import json

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import joint_positions, outcome_from, to_ns, trajectory_message
from vlm_agent_ros.types import Trajectory

MODULE = 'sim_worlds.world_node'


class Bench:
    """Subscriptions to all that a world publishes, and publishers for what it obeys."""

    def __init__(self, graph):
        sensors = {'image': (Image, interface.IMAGE), 'info': (CameraInfo, interface.CAMERA_INFO),
                   'joints': (JointState, interface.JOINT_STATES), 'clock': (Clock, interface.CLOCK)}
        for name, (kind, topic) in sensors.items():
            setattr(self, name, graph.collect(kind, topic, interface.SENSOR_QOS))
        self.task = graph.collect(String, interface.TASK, interface.LATCHED_QOS)
        self.outcome = graph.collect(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        self.arm = graph.node.create_publisher(JointTrajectory, interface.ARM_COMMAND, interface.COMMAND_QOS)
        self.gripper = graph.node.create_publisher(JointTrajectory, interface.GRIPPER_COMMAND, interface.COMMAND_QOS)
        self.graph = graph

    def command(self, robot, trajectory, stamp_ns):
        self.graph.wait(lambda: self.arm.get_subscription_count() and self.gripper.get_subscription_count())
        self.arm.publish(trajectory_message(trajectory.select(robot.arm_joints), stamp_ns))
        self.gripper.publish(trajectory_message(trajectory.select(robot.gripper_joints), stamp_ns))

    def reset(self, **episode):
        parameters = [Parameter(f'episode.{k}', value=v).to_parameter_msg() for k, v in episode.items()]
        request = SetParameters.Request(parameters=parameters)
        answer = self.graph.call(SetParameters, 'world_node/set_parameters', request, pause_s=0.5)
        assert all(result.successful for result in answer.results)
        return self.graph.call(Trigger, interface.RESET, pause_s=0.5)


@pytest.fixture
def bench(graph):
    return Bench(graph)


def test_free_running_cell_moves_on_command_while_images_keep_coming(bench, graph, cell, planner):
    process = graph.start(MODULE, rate_hz=20.0, pause_s=0.2)
    graph.wait(lambda: len(bench.image) > 5 and bench.task and bench.joints)
    names = cell.robot.joints
    start = joint_positions(bench.joints[-1], '', names)
    trajectory = planner.plan(Pick(24, 24), names, start)
    before = to_ns(bench.image[-1].header.stamp)
    bench.command(cell.robot, trajectory, 1)
    graph.wait(lambda: bench.outcome)
    seen = [to_ns(m.header.stamp) for m in bench.image]
    assert to_ns(bench.outcome[0].header.stamp) - before >= trajectory.times_ns[-1]
    assert sum(before < stamp <= to_ns(bench.outcome[0].header.stamp) for stamp in seen) > 10
    moved = np.ptp([joint_positions(m, '', names) for m in bench.joints], axis=0)
    assert moved[:7].max() > 0.2
    assert {m.header.frame_id for m in bench.image} == {m.header.frame_id for m in bench.info} == {cell.camera.frame}
    clock = [to_ns(m.clock) for m in bench.clock]
    assert clock == sorted(clock)
    status, seconds = graph.interrupt(process)
    assert (status, seconds < 5.0) == (0, True)


def test_lock_step_moves_nothing_between_commands_and_repeats_what_may_have_been_lost(bench, graph, cell, planner):
    graph.start(MODULE, lock_step=True)
    response = bench.reset(seed=5, task='pick')
    assert response.success
    started = json.loads(response.message)
    graph.wait(lambda: bench.task and len(bench.image) >= 3)
    assert {to_ns(m.header.stamp) for m in bench.image} == {started['stamp_ns']}
    assert len({bytes(m.data) for m in bench.image}) == 1
    assert bench.task[-1].data == started['task']
    names = cell.robot.joints
    trajectory = planner.plan(Pick(24, 24), names, joint_positions(bench.joints[-1], '', names))
    bench.command(cell.robot, trajectory, started['stamp_ns'])
    graph.wait(lambda: bench.outcome and to_ns(bench.image[-1].header.stamp) == to_ns(bench.outcome[0].header.stamp))
    outcome = outcome_from(bench.outcome[0], '')
    assert (outcome.turn, outcome.seed, outcome.episode) == (1, 5, 0)
    bench.arm.publish(trajectory_message(None, 0))  # no points: a turn without motion
    graph.wait(lambda: len(bench.outcome) == 2)
    assert outcome_from(bench.outcome[1], '').turn == 2
    assert bench.reset(seed=6, task='pick').success
    clock = [to_ns(m.clock) for m in bench.clock]
    assert clock == sorted(clock)


def test_what_is_done_after_the_end_of_an_episode_is_carried_out_but_not_judged(bench, graph, cell, planner):
    graph.start(MODULE, rate_hz=20.0, pause_s=60.0, patience_s=1.0, episode__task='inspect')
    graph.wait(lambda: bench.outcome)
    assert outcome_from(bench.outcome[0], '').terminated
    names = cell.robot.joints
    bench.command(cell.robot, planner.plan(Pick(24, 24), names, joint_positions(bench.joints[-1], '', names)), 1)
    seen = len(bench.joints)
    graph.wait(lambda: np.ptp([joint_positions(m, '', names) for m in bench.joints[seen:] or bench.joints[-1:]],
                              axis=0).max() > 0.2)
    graph.spin(8.0)
    assert len(bench.outcome) == 1


@pytest.mark.parametrize(('task', 'ends'), [('inspect', True), ('pick', False)])
def test_a_free_running_line_moves_on_where_nothing_has_been_wanted_for_long(bench, graph, task, ends):
    graph.start(MODULE, rate_hz=10.0, patience_s=4.0, pause_s=60.0, episode__task=task)
    graph.wait(lambda: bench.image)
    graph.spin(8.0)
    assert [outcome_from(message, '').terminated for message in bench.outcome] == [True] * ends


def test_half_a_command_is_carried_out_alone(bench, graph, cell):
    graph.start(MODULE, rate_hz=20.0)
    graph.wait(lambda: bench.joints and bench.gripper.get_subscription_count())
    finger = cell.robot.gripper_joints
    bench.gripper.publish(trajectory_message(at_once(finger, 0.0), 0))
    graph.wait(lambda: joint_positions(bench.joints[-1], '', finger)[0] < 0.01)


def at_once(names, position):
    return Trajectory(names, np.array([500_000_000]), np.array([[position]]), np.zeros((1, 1)))


def test_reset_refuses_what_does_not_exist_in_one_sentence(bench, graph):
    graph.start(MODULE, lock_step=True)
    for episode, told in (({'task': 'levitate'}, 'no task named'),
                          ({'task': 'pick', 'world': 'mars'}, 'no worlds file named'),
                          ({'world': '', 'split': 'hidden'}, 'no split named')):
        response = bench.reset(**episode)
        assert not response.success
        assert told in response.message


def test_every_parameter_is_described(bench, graph):
    graph.start(MODULE, lock_step=True)
    names = ['world', 'lock_step', 'rate_hz', 'pause_s', 'patience_s', 'episode.seed', 'episode.task', 'episode.world',
             'episode.split']
    request = DescribeParameters.Request(names=names)
    for descriptor in graph.call(DescribeParameters, 'world_node/describe_parameters', request).descriptors:
        assert descriptor.description
        assert descriptor.read_only is not descriptor.name.startswith('episode.')


@pytest.mark.parametrize(('parameters', 'told'), [
    ({'world': 'mars'}, 'mars'), ({'rate_hz': '0.0'}, 'parameter rate_hz must be between'),
    ({'rate_hz': '10'}, 'parameter rate_hz must be of type float'), ({'episode__task': 'levitate'}, 'levitate'),
    ({'parent_pid': '4194303'}, 'parent_pid'),
])
def test_bad_parameter_is_one_sentence(graph, parameters, told):
    assert graph.start(MODULE, **parameters).wait(120.0) == 2
    output = graph.log(MODULE).read_text()
    assert told in output.strip().splitlines()[-1]
    assert 'Traceback' not in output
