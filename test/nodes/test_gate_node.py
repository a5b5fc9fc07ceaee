"""The gate as a process: what passes is forwarded in auto only, everything else is refused by name."""

import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from std_srvs.srv import SetBool, Trigger

from vlm_agent_ros.nodes.messages import to_ns, trajectory_from
from vlm_agent_ros.nodes.trajectory_wire import trajectory_bytes
from vlm_agent_ros.types import Trajectory


def changed(trajectory, **arrays):
    copies = {name: getattr(trajectory, name).copy() for name in ('times_ns', 'positions', 'velocities')}
    return Trajectory(trajectory.joint_names, **{**copies, **arrays})


def test_auto_forwards_both_halves_with_one_stamp_unchanged(gate, graph):
    gate.start(mode='auto')
    assert gate.propose(gate.plan)['verdict'] == 'forwarded'
    graph.wait(lambda: gate.arm and gate.gripper)
    assert to_ns(gate.arm[0].header.stamp) == to_ns(gate.gripper[0].header.stamp)
    for message in (gate.arm[0], gate.gripper[0]):
        forwarded = trajectory_from(message, '')
        wanted = gate.plan.select(forwarded.joint_names)
        assert forwarded.positions.tobytes() == wanted.positions.tobytes()
        assert forwarded.times_ns.tobytes() == wanted.times_ns.tobytes()


def test_auto_refuses_what_breaks_a_rule_and_says_which(gate, graph):
    gate.start(mode='auto')
    not_finite = gate.plan.positions.copy()
    not_finite[5, 2] = np.nan
    turned = gate.positions.copy()
    turned[0] += 1.5  # turns the base until the tool leaves the box
    slow = Trajectory(gate.plan.joint_names, np.array([0, 8_000_000_000]), np.stack([gate.positions, turned]),
                      np.zeros((2, 8)))
    assert gate.propose(changed(gate.plan, positions=not_finite))['rule'] == 'finite'
    assert gate.propose(slow)['rule'] == 'workspace'
    assert gate.propose(gate.plan, stamp_ns=gate.stamp_ns - 60_000_000_000)['rule'] == 'age'
    assert gate.propose(gate.plan, stamp_ns=gate.stamp_ns - 1)['rule'] == 'age'  # no image has this stamp
    verdict = gate.propose(None)
    assert (verdict['rule'], verdict['level']) == ('points', DiagnosticStatus.WARN)
    assert verdict['refused'] == '5'
    graph.spin(0.3)
    assert not gate.arm
    assert not gate.gripper


def test_shadow_is_the_default_and_publishes_no_command_even_on_stop(gate, graph):
    gate.start()
    assert gate.propose(gate.plan)['verdict'] == 'shadow'
    assert graph.call(Trigger, 'gate_node/stop').success
    graph.spin(0.3)
    assert not gate.arm
    assert not gate.gripper


def test_approve_waits_for_the_operator_and_takes_silence_for_a_no(gate, graph):
    gate.start(mode='approve', approve_timeout_s=1.0)
    assert not graph.call(SetBool, 'gate_node/approve', SetBool.Request(data=True)).success
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    graph.spin(0.2)
    assert not gate.arm
    assert graph.call(SetBool, 'gate_node/approve', SetBool.Request(data=True)).success
    graph.wait(lambda: gate.arm and gate.gripper)
    graph.spin(gate.plan.duration_s)
    assert gate.propose(gate.plan)['verdict'] == 'pending'
    graph.wait(lambda: gate.newest('verdict').get('rule') == 'approval')
    assert not graph.call(SetBool, 'gate_node/approve', SetBool.Request(data=True)).success
    assert len(gate.arm) == 1


def test_stop_holds_the_measured_position_and_stays_until_reset(gate, graph, cell):
    gate.start(mode='auto', stop_cooldown_s=0.5)
    assert graph.call(Trigger, 'gate_node/stop').success
    graph.wait(lambda: gate.arm)
    hold = trajectory_from(gate.arm[0], '')
    assert hold.positions.tolist() == [gate.positions[:len(cell.robot.arm_joints)].tolist()]
    assert not graph.call(Trigger, 'gate_node/reset').success  # within the cooldown
    verdict = gate.propose(gate.plan)
    assert (verdict['rule'], verdict['level']) == ('stop', DiagnosticStatus.ERROR)
    graph.spin(0.6)
    assert graph.call(Trigger, 'gate_node/reset').success
    assert len(gate.arm) == 1
    assert gate.propose(gate.plan)['verdict'] == 'forwarded'


def test_joint_state_that_is_not_finite_ages_until_nothing_passes(gate, graph, cell):
    gate.start(mode='auto')
    gate.positions = gate.positions * np.nan
    graph.spin(cell.safety.max_joint_age_s + 0.3)
    assert gate.propose(gate.plan)['rule'] == 'inputs'


def test_gate_ends_soon_after_sigint(gate, graph):
    gate.start()
    status, seconds = graph.interrupt(gate.process)
    assert status == 0
    assert seconds < 5.0


@pytest.mark.parametrize(('parameters', 'told'), [
    ({'mode': 'yolo'}, 'parameter: mode'),
    ({'approve_timeout_s': '-1.0'}, 'parameter approve_timeout_s must be between'),
])
def test_bad_parameter_is_one_sentence(graph, parameters, told):
    process = graph.start('vlm_agent_ros.nodes.gate_node', **parameters)
    assert process.wait(120.0) == 2
    last = graph.log('vlm_agent_ros.nodes.gate_node').read_text().strip().splitlines()[-1]
    assert told in last
    assert 'Traceback' not in graph.log('vlm_agent_ros.nodes.gate_node').read_text()


def test_a_command_begins_after_the_lead_that_the_cell_file_gives_it_and_a_stop_at_once(gate, graph, cell, tmp_path):
    """Controllers start at the stamp: what comes later than that begins in its middle."""
    path = tmp_path / 'cell.yaml'
    path.write_text(Path(cell.path).read_text() + 'motion: {command_lead_s: 0.4}\n')
    gate.start(mode='auto', cell=path)
    assert gate.propose(gate.plan)['verdict'] == 'forwarded'
    graph.wait(lambda: gate.arm and gate.gripper)
    assert gate.arm[0].header.stamp == gate.gripper[0].header.stamp
    sent_ns = to_ns(gate.arm[0].header.stamp) - 400_000_000
    assert time.time_ns() - 10_000_000_000 < sent_ns < time.time_ns()
    assert graph.call(Trigger, 'gate_node/stop').success
    graph.wait(lambda: len(gate.arm) > 1)
    assert to_ns(gate.arm[1].header.stamp) == 0


def test_a_proposal_that_cannot_be_read_is_refused_and_the_gate_goes_on(gate, graph):
    gate.start(mode='auto')
    for cut in (12, 200, -16):
        seen = len(gate.diagnostics)
        gate.proposals.publish(trajectory_bytes(gate.plan, gate.stamp_ns)[:cut])
        verdict = graph.wait(lambda since=seen: next(
            (status for status in gate.statuses('verdict', since) if 'age_s' not in status), None))
        assert (verdict['verdict'], verdict['rule']) == ('refused', 'shape')
        assert 'bytes that are no JointTrajectory' in verdict['message']
    assert gate.propose(gate.plan)['verdict'] == 'forwarded'
    assert gate.process.poll() is None
