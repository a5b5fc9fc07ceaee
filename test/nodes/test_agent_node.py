"""The agent as a process, with a small random VLM: it looks, thinks and proposes only while active."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from training.sft.tiny_vlm import TinyVlmConfig, build_tiny_vlm
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import image_message, joint_state_message, to_ns, to_time

AGENT, GATE, WORLD = 'vlm_agent_ros.nodes.agent_node', 'vlm_agent_ros.nodes.gate_node', 'sim_worlds.world_node'
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A models file of a VLM that has learned nothing: legal outputs, random actions, thoughts with markup."""
    folder = tmp_path_factory.mktemp('vlm')
    sizes = TinyVlmConfig(image_size=128, patch_size=32, vision_width=32, vision_layers=1, text_width=32, text_layers=1)
    build_tiny_vlm(sizes, folder / 'base', seed=0)
    path = folder / 'random.yaml'
    path.write_text(f'base: {folder / "base"}\nlora: null\nprompt: {{template: "task: {{task}}"}}\n'
                    'decoding: {max_thought_chars: 40, max_new_tokens: 120}\n')
    return path


def status_of(messages, name):
    """Values of every status of a name that was received."""
    return [{'message': s.message, **{v.key: v.value for v in s.values}}
            for m in messages for s in m.status if s.name == name]


def change_state(graph, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return graph.call(ChangeState, 'agent_node/change_state', request).success


def publish_bench(graph, cell, at_home, positions=None):
    """A camera, joint states and an instruction with markup in it, from the test."""
    node = graph.node
    image = node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
    joints = node.create_publisher(JointState, interface.JOINT_STATES, interface.SENSOR_QOS)
    task = node.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
    task.publish(String(data='pick the <b>cube</b> & go'))
    values = at_home.joint_positions if positions is None else positions
    robot = SimpleNamespace(on=True, now_ns=time.time_ns)

    def sense():
        now = robot.now_ns()
        image.publish(image_message(at_home.image, now, cell.camera.frame))
        if robot.on:
            joints.publish(joint_state_message(cell.robot.joints, values, now))
    node.create_timer(0.05, sense)
    return robot


def answer_proposals(graph, **verdict):
    """A gate that says the same to every proposal; when they came (monotonic, s)."""
    node, came = graph.node, []
    gate = node.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)

    def answer(message):
        came.append(time.monotonic())
        values = {**verdict, 'image_stamp_ns': str(to_ns(message.header.stamp))}
        gate.publish(DiagnosticArray(status=[DiagnosticStatus(
            name='gate_node: verdict', values=[KeyValue(key=key, value=value) for key, value in values.items()])]))
    node.create_subscription(JointTrajectory, interface.PROPOSAL, answer, interface.COMMAND_QOS)
    return came


def test_world_gate_and_agent_decide_move_and_show_escaped_thoughts(graph, model):
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    thoughts = graph.collect(String, 'agent_node/chain_of_thought', interface.LATCHED_QOS)
    outcomes = graph.collect(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
    proposals = graph.collect(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS)
    images = graph.collect(Image, interface.IMAGE, interface.SENSOR_QOS)
    processes = [graph.start(WORLD, rate_hz=20.0), graph.start(GATE, mode='auto', use_sim_time=True), graph.start(
        AGENT, model=model, temperature=1.0, max_rate_hz=10.0, autostart=True, threads=1, use_sim_time=True)]
    graph.wait(lambda: outcomes)
    cots = status_of(diagnostics, 'agent_node: chain of thought')
    assert {'task', 'thought.01', 'action', 'logprob', 'value', 'latency_ms', 'checkpoint', 'image_age_ms', 'cot_age_s'
            } <= set(cots[0])
    assert all('\n' not in cot['message'] and cot['message'] == cot['action'] for cot in cots)
    assert not any(c in value for cot in cots for value in cot.values() for c in '<>')
    assert all(text.data.startswith('{"thoughts": "') for text in thoughts)
    assert status_of(diagnostics, 'gate_node: verdict')[-1]['forwarded'] != '0'
    # A proposal rests on an image that exists, and no second one is made while the arm moves.
    stamps = [to_ns(p.header.stamp) for p in proposals]
    assert set(stamps) <= {to_ns(i.header.stamp) for i in images}
    moving_until = to_ns(outcomes[0].header.stamp)
    graph.spin(1.0)
    begun = [s for s in stamps if s < moving_until]
    assert max(begun) + to_ns(proposals[len(begun) - 1].points[-1].time_from_start) <= moving_until
    for process in processes:
        assert graph.interrupt(process)[1] < 5.0


def test_agent_is_silent_unless_active_and_stops_at_once(graph, cell, at_home, model):
    publish_bench(graph, cell, at_home)
    heard = [graph.collect(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS),
             graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS),
             graph.collect(String, 'agent_node/chain_of_thought', interface.LATCHED_QOS),
             graph.collect(Header, interface.HEARTBEAT, interface.SENSOR_QOS)]
    graph.start(AGENT, model=model, temperature=1.0, max_rate_hz=20.0, proposal_timeout_s=0.1, threads=1)
    assert change_state(graph, Transition.TRANSITION_CONFIGURE)
    graph.spin(0.5)
    assert not any(heard)
    assert change_state(graph, Transition.TRANSITION_ACTIVATE)
    graph.wait(lambda: status_of(heard[1], 'agent_node: chain of thought') and heard[2])
    assert status_of(heard[1], 'agent_node: chain of thought')[0]['task'] == 'pick the &lt;b&gt;cube&lt;/b&gt; &amp; go'
    heard[3].clear()
    graph.spin(2.0)
    assert len(heard[3]) > 10  # of 20 heartbeats: thinking does not hold them up, a busy machine may
    assert change_state(graph, Transition.TRANSITION_DEACTIVATE)
    graph.spin(0.3)  # what was on its way
    count = [len(messages) for messages in heard]
    graph.spin(1.5)
    assert [len(messages) for messages in heard] == count
    late = graph.collect(String, 'agent_node/chain_of_thought', interface.LATCHED_QOS)
    graph.spin(0.5)
    assert not late  # nor is the last thought still latched
    assert change_state(graph, Transition.TRANSITION_ACTIVATE)
    graph.wait(lambda: len(heard[1]) > count[1])
    assert change_state(graph, Transition.TRANSITION_DEACTIVATE)
    assert change_state(graph, Transition.TRANSITION_CLEANUP)


def test_thought_is_repeated_with_its_age_while_nothing_new_is_decided(graph, cell, at_home, model):
    publish_bench(graph, cell, at_home)
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    graph.start(AGENT, model=model, max_rate_hz=0.1, autostart=True, threads=1)
    shown = graph.wait(lambda: status_of(diagnostics, 'agent_node: chain of thought')[2:])
    assert float(shown[0]['cot_age_s']) == pytest.approx(2.0, abs=0.7)


def test_an_agent_whose_proposal_is_refused_says_why_and_waits_until_it_is_corrected(graph, cell, at_home, model):
    publish_bench(graph, cell, at_home)
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    corrections = graph.node.create_publisher(String, 'gate_node/correction', interface.EVENT_QOS)
    proposals = answer_proposals(graph, verdict='refused', rule='workspace', value='0.9', limit='0.8')
    graph.start(AGENT, model=model, temperature=1.0, max_rate_hz=20.0, threads=1, autostart=True, refusal_wait_s=2.0,
                max_refusal_wait_s=3600.0, proposal_timeout_s=0.1)
    graph.wait(lambda: len(proposals) >= 3)
    assert proposals[1] - proposals[0] > 1.9
    assert proposals[2] - proposals[1] > 3.9
    shown = graph.wait(lambda: status_of(diagnostics, 'agent_node: proposal'))[-1]
    assert (shown['rule'], shown['value'], shown['limit']) == ('workspace', '0.9', '0.8')
    graph.wait(corrections.get_subscription_count)
    graph.spin(0.5)
    corrected = time.monotonic()
    corrections.publish(String(data='{}'))
    graph.wait(lambda: len(proposals) >= 4)
    assert proposals[3] - corrected < 6.0  # of the 8 s that it would have waited


@pytest.mark.parametrize(('verdict', 'apart_s'), [
    ({'verdict': 'shadow'}, 0.0),
    ({'verdict': 'stopped', 'rule': 'stop', 'value': 'operator', 'limit': 'no stop'}, 1.9)])
def test_an_agent_that_knows_that_nothing_will_move_does_not_wait_for_an_operator(graph, cell, at_home, model, verdict,
                                                                                  apart_s):
    publish_bench(graph, cell, at_home)
    proposals = answer_proposals(graph, **verdict)
    graph.start(AGENT, model=model, temperature=1.0, max_rate_hz=10.0, threads=1, autostart=True, refusal_wait_s=2.0,
                proposal_timeout_s=3600.0)
    graph.wait(lambda: len(proposals) >= 3)
    assert np.diff(proposals).min() > apart_s


def test_nothing_is_decided_on_joint_states_that_have_stopped(graph, cell, at_home, model):
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    robot = publish_bench(graph, cell, at_home)
    graph.start(AGENT, model=model, temperature=1.0, max_rate_hz=10.0, threads=1, autostart=True,
                proposal_timeout_s=0.1)
    graph.wait(lambda: status_of(diagnostics, 'agent_node: chain of thought'))
    robot.on = False
    told = '/joint_states: the newest joint state is'
    graph.wait(lambda: any(told in state['message'] for state in status_of(diagnostics, 'agent_node: state')))
    graph.spin(0.5)  # what was under way
    decided = sum(cot['cot_age_s'] == '0.000' for cot in status_of(diagnostics, 'agent_node: chain of thought'))
    graph.spin(2.0)
    cots = status_of(diagnostics, 'agent_node: chain of thought')
    assert sum(cot['cot_age_s'] == '0.000' for cot in cots) == decided
    robot.on = True
    graph.wait(lambda: status_of(diagnostics, 'agent_node: state')[-1]['message'] == 'active')


def test_nothing_is_decided_on_an_instruction_that_the_gate_would_find_too_old(graph, cell, at_home, model, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text().replace('safety:\n', 'safety:\n  max_task_age_s: 2.0\n', 1))
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    cots = graph.collect(String, 'agent_node/chain_of_thought', interface.EVENT_QOS)
    publish_bench(graph, cell, at_home)
    graph.start(AGENT, model=model, cell=path, temperature=1.0, max_rate_hz=10.0, threads=1, autostart=True,
                proposal_timeout_s=0.1)
    told = '/task: the instruction is more than 2 s old'
    graph.wait(lambda: any(told in state['message'] for state in status_of(diagnostics, 'agent_node: state')))
    graph.spin(0.5)  # what was under way
    decided = len(cots)
    graph.spin(1.0)
    assert len(cots) == decided
    task = graph.node.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
    task.publish(String(data='pick the cube'))
    graph.wait(lambda: len(cots) > decided)


def test_nothing_is_decided_while_the_clock_of_the_camera_is_ahead(graph, cell, at_home, model):
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    robot = publish_bench(graph, cell, at_home)
    robot.now_ns = lambda: time.time_ns() + 400_000_000  # much less than max_image_age_s of this cell
    graph.start(AGENT, model=model, temperature=1.0, max_rate_hz=10.0, threads=1, autostart=True)
    told = 's ahead: set the clocks of both computers alike'
    graph.wait(lambda: any(told in state['message'] for state in status_of(diagnostics, 'agent_node: state')))
    graph.spin(1.0)
    assert not status_of(diagnostics, 'agent_node: chain of thought')
    robot.now_ns = time.time_ns
    graph.wait(lambda: status_of(diagnostics, 'agent_node: chain of thought'))


def test_an_agent_goes_on_when_a_simulation_begins_anew(graph, cell, at_home, model):
    """Its clock is set back, while nobody has answered a proposal and a motion is under way."""
    robot = publish_bench(graph, cell, at_home)
    clock = graph.node.create_publisher(Clock, interface.CLOCK, interface.SENSOR_QOS)
    commands = graph.node.create_publisher(JointTrajectory, interface.ARM_COMMAND, interface.COMMAND_QOS)
    proposals = graph.collect(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS)
    began = time.monotonic()
    robot.now_ns = lambda: int((time.monotonic() - began + 5000.0) * 1e9)
    graph.node.create_timer(0.02, lambda: clock.publish(Clock(clock=to_time(robot.now_ns()))))
    graph.start(AGENT, model=model, temperature=1.0, max_rate_hz=10.0, threads=1, autostart=True, use_sim_time=True,
                proposal_timeout_s=3600.0)
    proposed = graph.wait(lambda: proposals)[-1]
    commands.publish(proposed)
    graph.spin(0.5)
    assert len(proposals) == 1
    robot.now_ns = lambda: int((time.monotonic() - began) * 1e9)
    graph.wait(lambda: to_ns(proposals[-1].header.stamp) < 4000 * 10**9, timeout_s=30.0)


def test_unusable_observation_is_told_and_nothing_is_decided(graph, cell, at_home, model):
    publish_bench(graph, cell, at_home, positions=np.full(len(cell.robot.joints), np.nan))
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    process = graph.start(AGENT, model=model, autostart=True, threads=1)
    told = '/joint_states: the position of joint'
    graph.wait(lambda: any(told in state['message'] for state in status_of(diagnostics, 'agent_node: state')))
    assert told in graph.log(AGENT).read_text()
    assert process.poll() is None
    assert not status_of(diagnostics, 'agent_node: chain of thought')


@pytest.mark.parametrize(('parameters', 'told'), [
    ({'cell': 'nowhere'}, 'nowhere'), ({'model': '/nowhere/checkpoint'}, '/nowhere/checkpoint'),
])
def test_what_cannot_be_loaded_leaves_the_node_inactive_and_saying_so(graph, model, parameters, told):
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    process = graph.start(AGENT, **{'model': model, 'autostart': True, **parameters})
    shown = graph.wait(lambda: status_of(diagnostics, 'agent_node: state')[1:])  # and again, for who comes later
    assert shown[0]['state'] == 'inactive'
    assert told in shown[0]['message']
    assert process.poll() is None
    assert 'Traceback' not in graph.log(AGENT).read_text()


def test_a_bad_parameter_is_one_sentence(graph, model):
    process = graph.start(AGENT, model=model, max_rate_hz='0.0')
    assert process.wait(120.0) == 2
    output = graph.log(AGENT).read_text()
    assert 'max_rate_hz' in output.strip().splitlines()[-1]
    assert 'Traceback' not in output


def test_a_second_camera_keeps_the_agent_inactive_and_a_task_that_is_not_allowed_keeps_it_from_deciding(
        graph, cell, at_home, model, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text() + 'tasks: {allow: ["pick the green cube"]}\n')
    publish_bench(graph, cell, at_home)
    second = graph.node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
    diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    graph.start(AGENT, model=model, cell=path, threads=1)
    assert change_state(graph, Transition.TRANSITION_CONFIGURE)
    graph.spin(1.0)  # for the discovery of both
    assert not change_state(graph, Transition.TRANSITION_ACTIVATE)
    message = graph.wait(lambda: status_of(diagnostics, 'agent_node: state'))[0]['message']
    assert 'inactive: /camera/image_raw has 2 publishers' in message
    graph.node.destroy_publisher(second)
    graph.spin(0.5)
    assert change_state(graph, Transition.TRANSITION_ACTIVATE)
    graph.wait(lambda: any('tasks.allow' in s['message'] for s in status_of(diagnostics, 'agent_node: state')))
    graph.spin(0.5)
    assert not status_of(diagnostics, 'agent_node: chain of thought')


def test_failed_configure_leaves_the_node_unconfigured_with_a_reason_in_the_log(graph):
    graph.start(AGENT, model='/nowhere/checkpoint')
    assert not change_state(graph, Transition.TRANSITION_CONFIGURE)
    assert '/nowhere/checkpoint' in graph.log(AGENT).read_text()
    assert not change_state(graph, Transition.TRANSITION_CONFIGURE)  # still unconfigured: may be tried again


def test_agent_and_gate_need_neither_simulator_nor_training_stack():
    script = ('import sys\nfor name in ("pybullet", "gymnasium", "training", "sim_worlds"): sys.modules[name] = None\n'
              'import vlm_agent_ros.nodes.agent_node, vlm_agent_ros.nodes.gate_node, vlm_agent_ros.nodes.cot_viewer')
    subprocess.run([sys.executable, '-c', script], check=True, cwd=ROOT, timeout=60)
