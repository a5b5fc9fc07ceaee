"""The audit as a process: everything that the interface says is in the log, images to the bit, whatever is killed."""

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from training.audit.replay import repeat_all
from vlm_agent_ros.audit.definitions import message_definition
from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.message_content import pixels
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.losses import Losses
from vlm_agent_ros.nodes.messages import image_message, joint_state_message, outcome_from, trajectory_message

AUDIT = 'vlm_agent_ros.nodes.audit_node'


def audit_status(messages):
    found = [s for m in messages for s in m.status if s.name == 'audit_node: audit']
    return (found[-1].level, found[-1].message, {v.key: v.value for v in found[-1].values}) if found else None


@pytest.fixture
def bench(graph, tmp_path):
    """Publishers of a cell, and what audit_node says of itself."""
    node = graph.node
    graph.folder = tmp_path / 'log'
    graph.diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    graph.images = node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
    graph.joints = node.create_publisher(JointState, interface.JOINT_STATES, interface.SENSOR_QOS)
    graph.tasks = node.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
    graph.proposals = node.create_publisher(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS)

    def start(**parameters):
        process = graph.start(AUDIT, **{'folder': graph.folder, **parameters})
        graph.wait(lambda: graph.images.get_subscription_count() and graph.proposals.get_subscription_count()
                   and (audit_status(graph.diagnostics) or ('', '', {}))[2].get('file'))
        return process
    graph.start_audit = start
    return graph


def logged(bench, condition):
    """Messages of the log, by topic, once there are enough of them."""
    def read():
        try:
            messages = list(AuditLog(bench.folder).messages())
        except UserError:
            return None
        by_topic = {}
        for message in messages:
            by_topic.setdefault(message.topic, []).append(message)
        return by_topic if condition(by_topic) else None
    return bench.wait(read)


@pytest.mark.parametrize('kind', [
    'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/CameraInfo',
    'sensor_msgs/msg/JointState', 'std_msgs/msg/Header', 'std_msgs/msg/String', 'std_msgs/msg/Bool',
    'trajectory_msgs/msg/JointTrajectory', 'diagnostic_msgs/msg/DiagnosticArray'])
def test_definitions_are_complete_down_to_builtin_types(kind):
    text = message_definition(kind)
    assert 'MSG: ' in text or kind.endswith(('String', 'Bool'))
    assert ('MSG: builtin_interfaces/Time' in text) == ('stamp' in text)


def test_raw_images_are_logged_to_the_bit_with_stamps_and_times_of_reception(bench, cell):
    bench.start_audit()
    rng = np.random.default_rng(0)
    grey = np.full((cell.camera.height, cell.camera.width, 3), 128, np.uint8)

    def sensors_are_heard():
        bench.images.publish(image_message(grey, 1, cell.camera.frame))
        bench.joints.publish(joint_state_message(('a', 'b'), np.zeros(2), 1))
        silent = audit_status(bench.diagnostics)[2]['silent_topics'].split()
        return not {'/camera/image_raw', '/joint_states'} & {*silent}

    bench.wait(sensors_are_heard)
    sent = {}
    began = time.time_ns()
    for i in range(5):
        stamp_ns = 1_000_000_007 + 100_000_000 * i  # a simulation's clock
        sent[stamp_ns] = rng.integers(0, 256, (cell.camera.height, cell.camera.width, 3), dtype=np.uint8)
        bench.images.publish(image_message(sent[stamp_ns], stamp_ns, cell.camera.frame))
        bench.joints.publish(joint_state_message(('a', 'b'), np.array([0.1, 1.0 / 3.0]), stamp_ns))
        bench.spin(0.1)

    def fresh(topics, name):
        return [message for message in topics.get(name, ()) if message.stamp_ns in sent]

    found = logged(bench, lambda topics: len(fresh(topics, '/camera/image_raw/compressed')) == 5
                   and len(fresh(topics, '/joint_states')) == 5)
    for message in fresh(found, '/camera/image_raw/compressed'):
        assert np.array_equal(pixels(message.message, ''), sent[message.stamp_ns])
        assert began < message.time_ns < time.time_ns()
    assert fresh(found, '/joint_states')[0].message.position == [0.1, 1.0 / 3.0]


def test_a_kill_loses_at_most_the_last_second_and_the_next_file_begins_with_the_task(bench, cell, at_home):
    process = bench.start_audit()
    bench.tasks.publish(String(data='pick the <b>cube</b>'))
    bench.node.create_timer(0.02, lambda: bench.joints.publish(
        joint_state_message(cell.robot.joints, at_home.joint_positions, time.time_ns())))
    logged(bench, lambda topics: len(topics.get('/joint_states', ())) > 20)
    process.send_signal(signal.SIGKILL)
    killed_ns = time.time_ns()
    process.wait()
    times = [m.time_ns for m in AuditLog(bench.folder).messages()]
    assert killed_ns - max(times) < 1_000_000_000
    bench.start(AUDIT, folder=bench.folder)
    bench.wait(lambda: len(list(bench.folder.glob('*.mcap'))) == 2)
    found = logged(bench, lambda topics: len(topics.get('/task', ())) == 2)
    assert [m.message.data for m in found['/task']] == ['pick the <b>cube</b>'] * 2


def test_compressed_images_are_logged_as_they_come(bench, cell):
    compressed = bench.node.create_publisher(CompressedImage, interface.COMPRESSED_IMAGE, interface.SENSOR_QOS)
    bench.start(AUDIT, folder=bench.folder, image_transport='compressed')
    bench.node.create_timer(0.1, lambda: compressed.publish(CompressedImage(format='jpeg', data=b'not looked at')))
    found = logged(bench, lambda topics: '/camera/image_raw/compressed' in topics)
    message = found['/camera/image_raw/compressed'][0].message
    assert (message.format, bytes(message.data)) == ('jpeg', b'not looked at')


def test_the_cell_file_says_what_is_left_out_how_much_is_kept_and_what_else_there_is(bench, cell, tmp_path, at_home):
    text = Path(cell.path).read_text(encoding='utf-8').partition('topics:')[0]
    own = tmp_path / 'own.yaml'
    own.write_text(text + f'audit: {{leave_out: [joint_states], folder: {tmp_path / "mine"}}}\n'
                   'topics: {protective_stop: {topic: robot/stopped}}\n')
    stops = bench.node.create_publisher(Bool, 'robot/stopped', interface.LATCHED_QOS)
    bench.folder = tmp_path / 'mine'
    bench.start(AUDIT, cell=own)
    bench.node.create_timer(0.1, lambda: stops.publish(Bool(data=True)))
    bench.node.create_timer(0.1, lambda: bench.proposals.publish(trajectory_message(None, 5)))
    found = logged(bench, lambda topics: '/robot/stopped' in topics and '/proposal' in topics)
    assert found['/robot/stopped'][0].message.data is True
    assert bench.joints.get_subscription_count() == 0
    assert AuditLog(bench.folder).cell().audit.leave_out == ('joint_states',)


def test_it_says_how_the_log_is_doing_and_names_what_is_silent(bench):
    process = bench.start_audit()
    bench.tasks.publish(String(data='pick'))
    level, message, values = bench.wait(lambda: (s := audit_status(bench.diagnostics)) and '/task' not in s[2][
        'silent_topics'] and s)
    assert level == b'\0'
    assert values['file'] in message
    assert {'file_mb', 'messages', 'dropped_images', 'dropped_messages', 'queue', 'disk_free_mb'} <= set(values)
    assert '/camera/image_raw' in values['silent_topics'].split()
    assert bench.interrupt(process)[1] < 5.0
    assert [m.topic for m in AuditLog(bench.folder).messages(['task'])] == ['/task']


def test_what_never_reached_it_is_counted_to_the_message_and_told(bench, cell):
    process = bench.start_audit()
    grey = np.full((cell.camera.height, cell.camera.width, 3), 128, np.uint8)
    sent = 0

    def publish(images):
        nonlocal sent
        for _ in range(images):
            sent += 1
            bench.images.publish(image_message(grey, sent, cell.camera.frame))
            time.sleep(0.003)

    def heard():
        publish(1)
        return '/camera/image_raw' not in audit_status(bench.diagnostics)[2]['silent_topics'].split()

    bench.wait(heard)
    assert audit_status(bench.diagnostics)[2]['lost'] == ''
    process.send_signal(signal.SIGSTOP)  # busy for longer than its history is deep
    publish(3 * interface.HISTORY_QOS.depth)
    process.send_signal(signal.SIGCONT)
    _, message, _ = bench.wait(lambda: publish(1) or ((s := audit_status(bench.diagnostics))[0] == b'\1' and s))
    assert 'never reached the log' in message
    # The first ones were published before the connection stood: the log begins with the first that came.
    bench.spin(1.0)
    values = bench.wait(lambda: (s := audit_status(bench.diagnostics)[2])['queue'] == '0' and s)
    assert values['lost'] == f'/camera/image_raw={values["lost_images"]}'
    assert bench.interrupt(process)[0] == 0
    stamps = [m.stamp_ns for m in AuditLog(bench.folder).messages(['/camera/image_raw/compressed'])]
    assert len(stamps) + int(values['lost_images']) == max(stamps) - min(stamps) + 1
    assert int(values['lost_images']) >= interface.HISTORY_QOS.depth


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy_and_the_node_lives(bench, tmp_path):
    (tmp_path / 'log').write_text('a file where the folder should be')
    process = bench.start(AUDIT, folder=tmp_path / 'log')
    level, message, _ = bench.wait(lambda: (s := audit_status(bench.diagnostics)) and s[0] != b'\0' and s)
    assert level == b'\2'
    assert 'correct audit.folder' in message
    (tmp_path / 'log').unlink()
    bench.wait(lambda: audit_status(bench.diagnostics)[0] == b'\0')
    assert process.poll() is None


@pytest.mark.parametrize(('audit', 'told'), [
    ('{disk_budget_mb: 10, max_file_mb: 20}', 'audit.disk_budget_mb is 10'),
    ('{leave_out: [everything]}', "audit.leave_out names 'everything'"), ('{fsync_s: 60}', 'audit: fsync_s is 60'),
])
def test_a_section_that_cannot_be_meant_leaves_it_inactive_with_the_key(bench, cell, tmp_path, audit, told):
    own = tmp_path / 'own.yaml'
    own.write_text(Path(cell.path).read_text(encoding='utf-8') + f'audit: {audit}\n')
    bench.start(AUDIT, cell=own, folder=bench.folder)
    bench.wait(lambda: any(told in s.message for m in bench.diagnostics for s in m.status
                           if s.name == 'audit_node: state'))
    assert not bench.folder.exists()


def test_what_a_working_cell_decides_is_logged_with_all_that_follows_and_can_be_repeated(graph, vlm_folder, tmp_path):
    model = tmp_path / 'model.yaml'
    model.write_text(f'base: {vlm_folder}\nlora: null\nprompt: {{template: "task: {{task}} {{state}}"}}\n'
                     'decoding: {max_thought_chars: 20, max_new_tokens: 80}\n')
    outcomes = graph.collect(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
    graph.start(AUDIT, folder=tmp_path / 'log')
    graph.wait((tmp_path / 'log').is_dir)  # from now on nothing is missed
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    world = graph.start('sim_worlds.world_node', rate_hz=20.0)
    graph.start('vlm_agent_ros.nodes.gate_node', mode='auto', use_sim_time=True, evidence_file=tmp_path / 'evidence')
    graph.start('vlm_agent_ros.nodes.agent_node', model=model, temperature=1.0, max_rate_hz=10.0, autostart=True,
                threads=2, use_sim_time=True)
    graph.wait(lambda: len(outcomes) > 1)
    graph.interrupt(world)  # nothing is decided without images; what waits to be compressed is written now
    graph.spin(1.0)
    graph.wait(lambda: diagnostics.clear() or graph.spin(1.0) or ((s := audit_status(diagnostics)) and s[2][
        'queue'] == '0'))
    log = AuditLog(tmp_path / 'log')
    decisions = list(log.decisions())
    moved = [decision for decision in decisions if decision.verdict == 'forwarded']
    # The very first proposal may be gone before the log is connected with a new agent.
    first = next(decision for decision in moved if decision.proposal is not None)
    assert first.outcome in [outcome_from(outcome, '') for outcome in outcomes]
    assert [command.joint_names for command in first.commands] == [first.proposal.joint_names[:-1],
                                                                   first.proposal.joint_names[-1:]]
    assert json.loads(first.text) == {'thoughts': first.thought, 'action': first.action}
    assert len({decision.seed for decision in decisions}) == len(decisions)
    began = min(m.stamp_ns for m in log.messages(['/camera/image_raw/compressed']))
    blind = [decision for decision in decisions if decision.image_stamp_ns >= began and not decision.image.size]
    assert len(blind) <= int(audit_status(diagnostics)[2]['lost_images'])
    assert len(blind) < len(decisions) - 1
    repeated = list(repeat_all(log, str(model), 1e-3, limit=5))
    assert not [result for result in repeated if result.differs]


def test_what_is_lost_on_a_topic_of_another_name_is_counted():
    node = SimpleNamespace(resolve_topic_name={'camera/image_raw': '/front/image'}.__getitem__,
                           count_publishers={'/front/image': 1, 'camera/image_raw': 0}.__getitem__)
    losses = Losses(node, 'camera/image_raw')
    for number in (1, 2, 6):
        losses.received({'publication_sequence_number': number})
    assert losses.count == 3
