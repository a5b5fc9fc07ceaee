"""The gate as a process: it stays inactive where the cell contradicts its file, and stops the robot by every cause."""

import time
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import SetBool, Trigger

from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import camera_info_message, joint_state_message, outcome_message
from vlm_agent_ros.types import Outcome

GATE = 'vlm_agent_ros.nodes.gate_node'


def set_mode(graph, mode, reason):
    parameters = [Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value))
                  for name, value in (('mode', mode), ('reason', reason))]
    return graph.call(SetParametersAtomically, 'gate_node/set_mode',
                      SetParametersAtomically.Request(parameters=parameters)).result


@pytest.mark.parametrize(('old', 'new', 'told'), [
    ('max_image_age_s: 5.0', 'max_image_age: 5.0', "unknown key 'max_image_age'"),
    ('low: [0.25, -0.40, 0.005]', 'low: [0.90, -0.40, 0.005]', 'workspace.low must be less than workspace.high'),
    ('panda_joint3,', 'joint_3,', "'joint_3' is not in panda.urdf"),
    ('approved_episodes: 0', 'approved_episodes: 7', '7 are missing: start in approve'),
])
def test_a_wrong_cell_file_leaves_the_gate_inactive_and_saying_so(gate, graph, cell, tmp_path, old, new, told):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text().replace(old, new))
    process = graph.start(GATE, cell=path, mode='auto')
    state = graph.wait(lambda: gate.newest('state'))
    assert state['state'] == 'inactive'
    assert told in state['message']
    answer = graph.call(Trigger, 'gate_node/stop')
    assert not answer.success
    assert 'not active' in answer.message
    assert process.poll() is None


def test_a_gate_whose_cell_file_was_corrected_goes_on_by_itself_once_configured(gate, graph, cell, tmp_path):
    path, right = tmp_path / 'cell.yaml', Path(cell.path).read_text()
    path.write_text(right.replace('max_image_age_s: 5.0', 'max_image_age: 5.0'))
    graph.start(GATE, cell=path)
    graph.wait(lambda: "unknown key 'max_image_age'" in gate.newest('state').get('message', ''))
    path.write_text(right)
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert graph.call(ChangeState, 'gate_node/change_state', request).success
    graph.wait(lambda: 'waits for the first message' in gate.newest('state').get('message', ''))


def change(graph, *transitions):
    for transition in transitions:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert graph.call(ChangeState, 'gate_node/change_state', request).success


def test_a_stop_stays_latched_while_the_gate_is_configured_anew_and_an_inactive_gate_commands_nothing(
        gate, graph, cell, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text() + 'topics: {protective_stop: {topic: driver/stopped}}\n')
    driver = graph.node.create_publisher(Bool, 'driver/stopped', 10)
    gate.start(mode='auto', cell=path, stop_cooldown_s=0.0)
    assert graph.call(Trigger, 'gate_node/stop').success
    change(graph, Transition.TRANSITION_DEACTIVATE)
    graph.wait(lambda: len(gate.arm) == 2)  # held by the stop, and once more at the end
    change(graph, Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE)
    graph.spin(0.5)
    driver.publish(Bool(data=True))
    graph.wait(lambda: 'protective' in gate.newest('stop')['causes'])
    driver.publish(Bool(data=False))
    graph.spin(0.5)
    assert len(gate.arm) == 2
    change(graph, Transition.TRANSITION_ACTIVATE)
    graph.wait(lambda: gate.shown('state') == 'active')
    assert gate.newest('stop')['causes'] == 'operator, inactive, protective'
    assert gate.propose(gate.plan)['rule'] == 'stop'
    graph.wait(lambda: graph.call(Trigger, 'gate_node/reset').success)


def test_a_gate_that_is_told_to_end_holds_the_motion_that_is_under_way(gate, graph):
    gate.start(mode='auto')
    assert gate.propose(gate.plan)['verdict'] == 'forwarded'
    graph.spin(0.5)
    gate.process.terminate()
    graph.wait(lambda: len(gate.arm) == 2)
    hold = gate.arm[1]
    assert len(hold.points) == 1 and not any(hold.points[0].velocities)
    assert abs(hold.points[0].positions[0] - gate.positions[0]) < 0.3
    assert gate.process.wait(5.0) == 0


def test_a_gate_that_does_not_use_the_names_of_its_cell_stays_inactive_and_says_how_to(gate, graph, cell, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text() + 'topics: {arm_command: arm/trajectory, joint_states: arm/joints}\n')
    process = graph.start(GATE, cell=path)
    state = graph.wait(lambda: gate.newest('state'))
    assert state['state'] == 'inactive'
    said = ' -r joint_states:=arm/joints -r joint_trajectory_controller/joint_trajectory:=arm/trajectory'
    assert f'started without it: start it by cell.launch.py, or with --ros-args{said}' in state['message']
    process.terminate()
    process.wait(10.0)
    graph.start(GATE, *said.split(), cell=path)
    graph.wait(lambda: 'waits for' in gate.newest('state').get('message', ''))


def test_a_cell_that_contradicts_its_file_keeps_the_gate_inactive_until_it_does_not(gate, graph, cell):
    graph.start(GATE, mode='auto')
    node, robot = graph.node, cell.robot
    graph.wait(lambda: 'waits for the first message on /camera/camera_info' in gate.newest('state').get('message', ''))
    wrong_names = tuple(name.replace('panda', 'fr3') for name in robot.joints)
    uncalibrated = CameraInfo(width=cell.camera.width, height=cell.camera.height)
    zoomed = camera_info_message(cell.camera, 1)
    zoomed.k[0] *= 1.3
    sent = {'joints': wrong_names, 'camera': uncalibrated}

    def sense():
        sent['camera'].header.stamp = node.get_clock().now().to_msg()
        gate.camera.publish(sent['camera'])
        gate.joints.publish(joint_state_message(sent['joints'], gate.positions, time.time_ns()))
    node.create_timer(0.05, sense)

    def told(text):
        graph.wait(lambda: text in gate.newest('state').get('message', ''))
        assert gate.newest('state')['state'] == 'inactive'
    told('no position of joint')
    sent['joints'] = robot.joints
    told('not calibrated')
    sent['camera'] = zoomed
    told('camera.fov_deg')
    second = node.create_publisher(CameraInfo, interface.CAMERA_INFO, interface.SENSOR_QOS)
    sent['camera'] = camera_info_message(cell.camera, 1)
    told('/camera/camera_info has 2 publishers')
    assert gate.propose(gate.plan)['rule'] == 'inactive'
    node.destroy_publisher(second)
    graph.wait(lambda: gate.shown('state') == 'active')
    third = node.create_publisher(CameraInfo, interface.CAMERA_INFO, interface.SENSOR_QOS)
    graph.spin(1.0)
    assert gate.shown('state') == 'active'  # that it is there does no harm; a process that was killed looks like that
    node.create_timer(0.05, lambda: third.publish(sent['camera']))
    told('/camera/camera_info has 2 publishers')
    assert len(gate.arm) == 1  # held


def test_every_cause_stops_the_robot_where_it_is_and_is_named_within_a_second(gate, graph, cell, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text() + 'topics: {protective_stop: {topic: safety_mode, type: string, '
                    'stopped: [PROTECTIVE_STOP]}}\n')
    gate.start(mode='auto', cell=path, stop_cooldown_s=0.0)
    driver = graph.node.create_publisher(String, 'safety_mode', 10)
    agent = graph.node.create_publisher(Header, interface.HEARTBEAT, interface.SENSOR_QOS)
    beats = graph.node.create_timer(0.1, lambda: agent.publish(Header(stamp=graph.node.get_clock().now().to_msg())))
    graph.wait(lambda: driver.get_subscription_count() and agent.get_subscription_count())
    graph.spin(0.3)
    home = gate.positions.copy()

    def stopped_by(cause, begin, end):
        gate.positions, gate.motion = home.copy(), None
        graph.spin(0.3)
        assert gate.propose(gate.plan)['verdict'] == 'forwarded'
        commands, since = len(gate.arm), time.monotonic()
        graph.spin(0.3)
        begin()
        graph.wait(lambda: cause in gate.newest('stop').get('causes', ''))
        assert time.monotonic() - since < 0.3 + 1.0 + 0.5  # half a second for a machine under load
        graph.wait(lambda: len(gate.arm) > commands)
        assert len(gate.arm[-1].points) == 1
        refused = graph.call(Trigger, 'gate_node/reset')
        assert not refused.success
        assert 'still holds' in refused.message
        end()
        graph.wait(lambda: graph.call(Trigger, 'gate_node/reset').success)

    def silence(what):
        gate.silent = what
    stopped_by('protective', lambda: driver.publish(String(data='PROTECTIVE_STOP')),
               lambda: driver.publish(String(data='NORMAL')))
    stopped_by('camera', lambda: silence('camera'), lambda: silence(''))
    stopped_by('joints', lambda: silence('joints'), lambda: silence(''))
    stopped_by('heartbeat', beats.cancel, beats.reset)

    def push():
        gate.follows, gate.positions = False, gate.positions + 0.5

    def let_go():
        gate.motion, gate.follows = None, True
    stopped_by('tracking', push, let_go)


@pytest.mark.parametrize('max_age_s', [0.0, 0.3])
def test_a_driver_that_is_not_there_keeps_the_robot_at_rest_and_one_that_vanishes_stops_it(
        gate, graph, cell, tmp_path, max_age_s):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text()
                    + f'topics: {{protective_stop: {{topic: stopped, max_age_s: {max_age_s}}}}}\n')
    gate.start(mode='auto', cell=path, stop_cooldown_s=0.0)
    graph.wait(lambda: gate.newest('inputs').get('faults') == 'driver')
    assert 'stopped' in gate.newest('inputs')['fault.driver']
    assert gate.propose(gate.plan)['rule'] == 'driver'
    driver = graph.node.create_publisher(Bool, 'stopped', interface.LATCHED_QOS)
    repeats = graph.node.create_timer(0.05, lambda: driver.publish(Bool(data=False)))
    if not max_age_s:
        repeats.cancel()
    graph.wait(lambda: gate.newest('inputs').get('faults') == '')
    assert gate.propose(gate.plan)['verdict'] == 'forwarded'
    graph.spin(0.3)
    repeats.cancel()
    if not max_age_s:
        graph.node.destroy_publisher(driver)
    graph.wait(lambda: gate.newest('stop').get('causes') == 'driver')
    graph.wait(lambda: len(gate.arm) == 2)
    assert len(gate.arm[-1].points) == 1
    refused = graph.call(Trigger, 'gate_node/reset')
    assert 'still holds' in refused.message


def test_auto_has_to_be_earned_by_the_checkpoint_that_decides(gate, graph, cell, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text().replace('approved_episodes: 0', 'approved_episodes: 1'))
    gate.start(mode='approve', cell=path)
    refused = set_mode(graph, 'auto', 'a try')
    assert not refused.successful
    assert '0 are there, 1 are missing' in refused.reason
    assert not set_mode(graph, 'approve', '').successful
    gate.decide('a' * 64)
    graph.wait(lambda: gate.newest('mode').get('checkpoint_sha256') == 'a' * 64)
    assert not graph.call(SetBool, 'gate_node/episode', SetBool.Request(data=False)).message.startswith('the line')
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    assert graph.call(SetBool, 'gate_node/approve', SetBool.Request(data=True)).success
    assert 'counts: 1 approved' in graph.call(SetBool, 'gate_node/episode', SetBool.Request(data=True)).message
    assert set_mode(graph, 'auto', 'earned').successful
    graph.wait(lambda: gate.newest('mode').get('reason') == 'earned')
    gate.decide('b' * 64)
    graph.wait(lambda: gate.shown('mode') == 'approve')


def test_a_swapped_checkpoint_is_known_before_it_decides(gate, graph):
    """The thought of the one before is still repeated, and the first proposal of the new one has not come yet."""
    gate.start(mode='approve')
    gate.decide('a' * 64)
    graph.wait(lambda: gate.newest('mode').get('checkpoint_sha256') == 'a' * 64)
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    gate.decide('b' * 64, 'checkpoint')
    graph.wait(lambda: gate.newest('mode').get('checkpoint_sha256') == 'b' * 64)
    assert not graph.call(SetBool, 'gate_node/approve', SetBool.Request(data=True)).success
    gate.decide('a' * 64)
    graph.spin(0.3)
    assert gate.newest('mode')['checkpoint_sha256'] == 'b' * 64
    assert not gate.arm


def test_where_the_line_judges_episodes_the_operator_does_not(gate, graph):
    outcomes = graph.node.create_publisher(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
    gate.start(mode='approve')
    graph.wait(outcomes.get_subscription_count)
    answer = graph.call(SetBool, 'gate_node/episode', SetBool.Request(data=True))
    assert not answer.success
    assert '/outcome' in answer.message
    gate.decide('a' * 64)
    graph.spin(0.3)
    outcome = Outcome(reward=1.0, terminated=True, truncated=False, success=True, episode=0, turn=1, seed=0)
    outcomes.publish(outcome_message(outcome, time.time_ns()))
    graph.wait(lambda: any('does not count' in s['message'] for s in gate.statuses('mode')))
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    assert graph.call(SetBool, 'gate_node/approve', SetBool.Request(data=True)).success
    outcomes.publish(outcome_message(outcome, time.time_ns()))
    graph.wait(lambda: gate.newest('mode').get('approved_episodes') == '1')


def test_a_bool_topic_may_tell_of_a_protective_stop_too(gate, graph, cell, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text()
                    + 'topics: {protective_stop: {topic: stopped, type: bool, stopped: [true]}}\n')
    gate.start(cell=path)
    driver = graph.node.create_publisher(Bool, 'stopped', 10)
    graph.wait(driver.get_subscription_count)
    driver.publish(Bool(data=True))
    graph.wait(lambda: gate.newest('stop').get('causes') == 'protective')
    assert not gate.arm  # shadow: nothing is commanded
    assert gate.propose(gate.plan)['rule'] == 'stop'


def test_a_gate_whose_simulation_stands_still_lives_and_says_what_it_waits_for(graph):
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    beats = graph.collect(Header, interface.GATE_HEARTBEAT, interface.SENSOR_QOS)
    graph.start(GATE, use_sim_time=True)  # and nobody publishes a clock
    graph.wait(lambda: len(beats) > 5 and any(
        s.name == 'gate_node: state' and 'waits for the first message' in s.message
        for m in diagnostics for s in m.status))
