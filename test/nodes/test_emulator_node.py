"""The emulated cell as a process: only what a real cell speaks, and as stubborn as a real one."""

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.config import find_config
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import joint_positions, outcome_from, to_ns, trajectory_message

MODULE = 'sim_worlds.cell_emulator.emulator_node'
ARM_TOPIC = 'scaled_joint_trajectory_controller/joint_trajectory'


@pytest.fixture
def world(tmp_path):
    """A world whose cell calls the arm's controller and the protective stop as the driver of a UR does."""
    cell = yaml.safe_load(find_config('cells', 'panda_table').read_text())
    cell['camera'] |= {'width': 64, 'height': 64}
    cell['topics'] = {'arm_command': ARM_TOPIC, 'protective_stop': {
        'topic': 'io_and_status_controller/robot_program_running', 'stopped': [False], 'max_age_s': 0.4}}
    (tmp_path / 'cell.yaml').write_text(yaml.safe_dump(cell))
    world = yaml.safe_load(find_config('worlds', 'panda_table').read_text())
    (tmp_path / 'world.yaml').write_text(yaml.safe_dump({**world, 'cell': str(tmp_path / 'cell.yaml')}))
    return str(tmp_path / 'world.yaml')


class Bench:
    """All that is heard of a cell, and the two topics that it obeys."""

    def __init__(self, graph):
        self.graph = graph
        self.image = graph.collect(Image, interface.IMAGE, interface.SENSOR_QOS)
        self.info = graph.collect(CameraInfo, interface.CAMERA_INFO, interface.SENSOR_QOS)
        self.joints = graph.collect(JointState, interface.JOINT_STATES, interface.SENSOR_QOS)
        self.task = graph.collect(String, interface.TASK, interface.LATCHED_QOS)
        self.outcome = graph.collect(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        self.diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        self.running = graph.collect(Bool, 'io_and_status_controller/robot_program_running', interface.LATCHED_QOS)
        self.arm = graph.node.create_publisher(JointTrajectory, ARM_TOPIC, interface.COMMAND_QOS)
        self.gripper = graph.node.create_publisher(JointTrajectory, interface.GRIPPER_COMMAND, interface.COMMAND_QOS)

    def start(self, world, **parameters):
        self.process = self.graph.start(MODULE, world=world, **parameters)
        self.graph.wait(lambda: self.joints and self.image and self.arm.get_subscription_count()
                        and self.gripper.get_subscription_count())

    def position(self, names):
        return joint_positions(self.joints[-1], '', names)

    def command(self, robot, trajectory):
        """Both halves, to start when they arrive."""
        self.arm.publish(trajectory_message(trajectory.select(robot.arm_joints), 0))
        self.gripper.publish(trajectory_message(trajectory.select(robot.gripper_joints), 0))

    def controller(self, group):
        """Newest report of a controller."""
        return next((values(s) for m in reversed(self.diagnostics) for s in m.status
                     if s.name == f'cell_emulator: {group} controller'), {})

    def fault(self, name):
        request = SetParameters.Request(parameters=[Parameter('fault', value=name).to_parameter_msg()])
        assert self.graph.call(SetParameters, 'cell_emulator/set_parameters', request).results[0].successful


def values(status):
    return {value.key: value.value for value in status.values}


@pytest.fixture
def bench(graph):
    return Bench(graph)


def test_it_speaks_the_topics_of_the_cell_file_and_no_others(bench, graph, world):
    bench.start(world)
    spoken = {'/camera/image_raw', '/camera/camera_info', '/joint_states', '/task', '/diagnostics',
              '/io_and_status_controller/robot_program_running'}

    def published():
        by_node = graph.node.get_publisher_names_and_types_by_node('cell_emulator', '/')
        return {name for name, _ in by_node} - {'/rosout', '/parameter_events'}

    graph.wait(lambda: ('cell_emulator', '/') in graph.node.get_node_names_and_namespaces())
    graph.wait(lambda: spoken <= published())
    graph.spin(0.5)
    assert published() == spoken
    services = {name for name, _ in graph.node.get_service_names_and_types_by_node('cell_emulator', '/')}
    assert all('parameter' in name or 'type_description' in name for name in services), services


def test_an_inspected_line_judges_a_motion_by_what_it_can_see_and_goes_on(bench, graph, world, cell, planner):
    bench.start(world, task='pick', inspection=True, pause_s=0.1, seed=3)
    names = cell.robot.joints
    before = bench.position(names)
    for _ in range(4):  # aimed at nothing: the episode ends at the turn limit
        told, trajectory = len(bench.outcome), planner.plan(Pick(24, 40), names, bench.position(names))
        bench.command(cell.robot, trajectory)
        graph.wait(lambda told=told: len(bench.outcome) > told)
    ended = [outcome_from(message, '') for message in bench.outcome]
    assert [outcome.turn for outcome in ended] == [1, 2, 3, 4]
    assert ended[-1].truncated or ended[-1].terminated
    assert set(ended[0].kpi) == {'success', 'cycle_time', 'cost'}
    assert (ended[0].expert_thought, ended[0].expert_action, ended[0].scene, ended[0].seed) == ('', '', '', 0)
    assert to_ns(bench.outcome[0].header.stamp) in {to_ns(message.header.stamp) for message in bench.image}
    assert ended[0].kpi['cycle_time'] == pytest.approx(trajectory.duration_s, abs=1.5)
    graph.wait(lambda: len(bench.task) == 2)
    assert bench.position(names) == pytest.approx(before, abs=0.03)  # laid out for without moving the arm


def test_a_bad_trajectory_is_rejected_with_the_reason_and_counted(bench, graph, world, cell, planner):
    bench.start(world)
    names = cell.robot.joints
    start = bench.position(names)
    far = planner.plan(Pick(24, 24), names, start)
    far.positions[:, 1] += 0.5
    bench.command(cell.robot, far)
    graph.wait(lambda: bench.controller('arm').get('rejected') == '1')
    assert 'jump by' in bench.controller('arm')['reason']
    message = trajectory_message(far.select(cell.robot.arm_joints), 0)
    message.points[3].positions = message.points[3].positions[:3]
    bench.arm.publish(message)
    graph.wait(lambda: bench.controller('arm').get('rejected') == '2')
    assert 'point 3' in bench.controller('arm')['reason']
    assert bench.position(names)[:7] == pytest.approx(start[:7], abs=0.01)
    assert 'trajectory rejected' in graph.log(MODULE).read_text()


def test_a_protective_stop_halts_the_arm_and_commands_are_ignored_until_it_is_released(
        bench, graph, world, cell, planner):
    bench.start(world)
    names = cell.robot.joints
    trajectory = planner.plan(Pick(24, 24), names, bench.position(names))
    home = bench.position(names)[:7]
    graph.wait(lambda: bench.running)
    assert bench.running[-1].data
    bench.command(cell.robot, trajectory)
    graph.wait(lambda: np.abs(bench.position(names)[:7] - home).max() > 0.2)
    bench.fault('protective_stop')
    graph.wait(lambda: not bench.running[-1].data)
    graph.spin(0.5)
    stopped = bench.position(names)[:7]
    graph.spin(0.5)
    assert bench.position(names)[:7] == pytest.approx(stopped, abs=0.005)
    bench.command(cell.robot, planner.plan(Pick(24, 24), names, bench.position(names)))
    graph.wait(lambda: 'protective stop' in bench.controller('arm').get('reason', ''))
    bench.fault('none')
    graph.wait(lambda: bench.running[-1].data)
    graph.spin(0.5)
    assert bench.position(names)[:7] == pytest.approx(stopped, abs=0.01)  # nothing goes on by itself
    bench.command(cell.robot, planner.plan(Pick(24, 24), names, bench.position(names)))
    graph.wait(lambda: np.abs(bench.position(names)[:7] - stopped).max() > 0.1)


def test_a_driver_that_repeats_its_word_does_so_within_the_age_of_the_cell_file(bench, graph, world):
    bench.start(world)
    graph.wait(lambda: bench.running)
    heard = len(bench.running)
    graph.spin(2.0)
    assert len(bench.running) - heard >= 5


def test_faults_of_camera_and_joint_states_look_as_they_do_at_a_cell(bench, graph, world, cell):
    bench.start(world)
    bench.fault('camera_freeze')
    graph.spin(0.3)
    images = len(bench.image)
    graph.spin(0.5)
    assert len(bench.image) == images
    bench.fault('joints_freeze')
    graph.wait(lambda: len(bench.image) > images)
    states = len(bench.joints)
    graph.spin(0.3)
    assert len(bench.joints) == states
    bench.fault('joints_nan')
    graph.wait(lambda: len(bench.joints) > states)
    assert np.isnan(bench.joints[-1].position).all()


def test_an_arm_that_does_not_follow_stays_where_it_is(bench, graph, world, cell, planner):
    bench.start(world, fault='tracking_error')
    names = cell.robot.joints
    start = bench.position(names)
    bench.command(cell.robot, planner.plan(Pick(24, 24), names, start))
    graph.wait(lambda: bench.controller('arm').get('accepted') == '1')
    graph.spin(1.0)
    assert bench.position(names)[:7] == pytest.approx(start[:7], abs=0.01)


def test_commands_take_their_time_and_frames_get_lost(bench, graph, world, cell, planner):
    bench.start(world, command_latency_s=0.5, camera_latency_s=0.2, dropped_frames=0.5, camera_rate_hz=20.0)
    names = cell.robot.joints
    now_ns = graph.node.get_clock().now().nanoseconds
    start = bench.position(names)[:7]
    graph.wait(lambda: graph.node.get_clock().now().nanoseconds > now_ns + 2_000_000_000)
    stamps = [to_ns(message.header.stamp) for message in bench.image]
    received = sum(stamp > now_ns for stamp in stamps)
    assert 5 < received < 30
    sent_ns = graph.node.get_clock().now().nanoseconds
    bench.command(cell.robot, planner.plan(Pick(24, 24), names, bench.position(names)))
    graph.wait(lambda: np.abs(bench.position(names)[:7] - start).max() > 0.01)
    moved_ns = next(to_ns(m.header.stamp) for m in bench.joints
                    if np.abs(joint_positions(m, '', names)[:7] - start).max() > 0.01)
    assert moved_ns - sent_ns > 500_000_000


@pytest.mark.parametrize(('parameters', 'told'), [
    ({'world': 'mars'}, 'mars'), ({'fault': 'bad_mood'}, 'camera_freeze'), ({'task': 'juggle'}, 'juggle'),
    ({'dropped_frames': '2.0'}, 'parameter dropped_frames must be between'),
])
def test_bad_parameter_is_one_sentence(graph, parameters, told):
    assert graph.start(MODULE, **parameters).wait(60.0) == 2
    output = graph.log(MODULE).read_text()
    assert told in output.strip().splitlines()[-1] and 'Traceback' not in output
