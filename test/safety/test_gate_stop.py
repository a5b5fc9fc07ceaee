"""What a stop does to the arm, the gripper, and to what waits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.motion.cubic import positions_at, velocities_at
from vlm_agent_ros.status import ERROR
from vlm_agent_ros.types import Trajectory

from .conftest import FREE, Bench


def test_a_stop_holds_the_measured_position_and_the_pending_proposal_dies(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')
    bench.propose()
    bench.positions[:7] += 0.01
    bench.sense()
    bench.gate.stop('operator', 'the operator called ~/stop')
    arm, = bench.sent  # nobody knows where the gripper is wanted, perhaps around something
    assert arm.positions.tolist() == [bench.positions[:7].tolist()]
    assert not arm.velocities.any()
    assert not bench.gate.approve(True)[0]
    assert bench.propose().values['rule'] == 'stop'
    assert bench.last('stop').level == ERROR
    assert len(bench.sent) == 1
    assert not bench.gate.reset()[0]  # within the cooldown
    bench.wait(1.1)
    assert bench.gate.reset()[0]
    assert bench.propose().values['verdict'] == 'pending'


def test_nothing_is_commanded_by_a_stop_in_shadow(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('shadow')
    bench.gate.stop('operator', 'the operator called ~/stop')
    assert not bench.sent
    assert bench.propose().values['rule'] == 'stop'


def test_a_stop_with_old_joint_states_holds_where_the_controller_is_about_to_be(make) -> None:  # type: ignore[no-untyped-def]
    """An old position would be a jump back, and joint_trajectory_controller refuses an empty trajectory."""
    bench = make('auto')
    bench.propose()
    for _ in range(20):
        bench.now += 0.05
        bench.gate.image(int(bench.now * 1e9))
        bench.gate.poll()
    assert bench.last('stop').values['causes'] == 'joints'
    stopped_at = next(status for status in bench.told if status.about == 'stop')
    assert 'no new joint state' in stopped_at.message
    hold = bench.sent[1]
    elapsed = np.arange(0.0, 1.0, 0.05)
    on_the_way = positions_at(bench.motion, elapsed) + velocities_at(bench.motion, elapsed) * hold.duration_s / 2
    assert np.abs(on_the_way[:, :7] - hold.positions[0]).max(axis=1).min() < 1e-9
    assert np.abs(hold.positions[0] - bench.positions[:7]).max() > 0.01
    bench.now += 5.0
    assert not bench.gate.reset()[0]  # the joint states are still missing
    bench.wait(1.0)
    assert bench.gate.reset()[0]


def test_an_unknown_position_is_not_held(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.now += 10.0
    bench.gate.stop('operator', 'the operator called ~/stop')
    assert bench.sent == [None]


def fingers(bench: Bench, to: float) -> Trajectory:
    return Trajectory(bench.cell.robot.gripper_joints, np.array([300_000_000]), np.array([[to]]), np.zeros((1, 1)))


def test_what_is_held_stays_squeezed_on_a_stop(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.propose(fingers(bench, 0.0))
    bench.positions[7] = 0.02  # where a part has stopped them
    bench.wait(0.8)
    bench.gate.stop('operator', 'the operator called ~/stop')
    assert bench.sent[-1].positions[0, 0] == bench.cell.robot.gripper_closed
    assert bench.sent[-2].positions[0].tolist() == bench.positions[:7].tolist()


def test_a_stop_closes_no_gripper_that_holds_nothing(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.propose(fingers(bench, 0.02))
    bench.positions[7] = 0.02
    bench.wait(0.5)
    bench.gate.stop('operator', 'it rests where it was commanded to')
    assert bench.sent[-1].positions[0, 0] == 0.02
    bench = make('auto')
    bench.propose(fingers(bench, 0.0))
    for position in (0.036, 0.033, 0.030):
        bench.now += 0.02
        bench.positions[7] = position
        bench.sense()
    bench.gate.stop('operator', 'it is closing in free air')
    assert bench.sent[-1].positions[0, 0] == 0.030
    bench = make('auto')
    bench.propose(fingers(bench, 0.0))
    bench.wait(0.25)  # a command takes its time
    bench.gate.stop('operator', 'it has not begun to close')
    assert bench.sent[-1].positions[0, 0] == 0.04


def test_a_second_stop_lets_go_of_nothing(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.propose(fingers(bench, 0.0))
    bench.positions[7] = 0.02
    bench.wait(0.8)
    for cause in ('operator', 'inactive'):
        bench.gate.stop(cause, 'stop')
        assert bench.sent[-1].positions[0, 0] == 0.0
        bench.wait(0.1)


def test_a_stop_without_joint_states_leaves_the_gripper_where_it_is_wanted(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.propose()
    begun, times = bench.now, np.arange(0.0, bench.motion.duration_s, 0.01)
    closes_s = times[np.argmax(positions_at(bench.motion, times)[:, 7] < 0.035)]
    while bench.now < begun + closes_s:
        bench.now += 0.02
        bench.positions = positions_at(bench.motion, np.array([bench.now - begun]))[0]
        bench.sense()
    while not bench.gate.stop_causes:  # the last joint state shows it open still
        bench.now += 0.05
        bench.gate.image(int(bench.now * 1e9))
        bench.gate.poll()
    assert list(bench.gate.stop_causes) == ['joints']
    assert bench.positions[7] > 0.03
    assert bench.sent[-1].positions[0, 0] == positions_at(bench.motion, np.array([bench.now - begun]))[0, 7] < 0.01


def test_a_gripper_that_opens_is_not_closed_again_by_a_stop(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto', replace(FREE, on_stop='keep'))
    opening = Trajectory(bench.cell.robot.gripper_joints, np.array([0, 1_000_000_000]), np.array([[0.0], [0.04]]),
                         np.zeros((2, 1)))
    bench.propose(fingers(bench, 0.0))
    bench.positions[7] = 0.02
    bench.wait(0.8)
    assert bench.propose(opening).values['verdict'] == 'forwarded'
    bench.gate.stop('operator', 'the part is still squeezed')
    assert bench.sent[-1].positions[0, 0] == bench.cell.robot.gripper_closed
    bench.wait(1.1)
    assert bench.gate.reset()[0]
    assert bench.propose(opening).values['verdict'] == 'forwarded'
    bench.wait(0.8)
    bench.gate.stop('operator', 'the part has been let go')
    assert bench.sent[-1].positions[0, 0] == 0.02


def test_shadow_holds_a_motion_that_is_under_way_before_it_begins(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.propose()
    assert bench.gate.set_mode('shadow', 'enough')[0]
    assert len(bench.sent) == 3
    assert np.concatenate([part.positions[0] for part in bench.sent[1:]]).tolist() == bench.positions.tolist()


def test_a_stop_outlives_the_gate_that_it_stopped(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto', replace(FREE, on_stop='keep'))
    bench.gate.stop('operator', 'the operator called ~/stop')
    bench.gate = bench.make_gate(stopped=bench.gate.stop_causes)
    assert bench.propose().values['rule'] == 'stop'
    bench.wait(1.1)
    assert bench.gate.reset() == (True, 'the stop is lifted; its reason was: the operator called ~/stop')
    assert bench.propose().values['verdict'] == 'forwarded'


def test_what_may_not_command_latches_a_stop_and_sends_nothing(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.gate.commands = False
    bench.gate.supervisor.protective_stop('the driver says so')
    assert not bench.sent
    assert bench.gate.stop_causes == {'protective': 'the driver says so'}


def test_a_gate_that_ends_holds_a_motion_that_is_under_way_and_nothing_else(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    assert not bench.gate.end()
    bench.propose()
    bench.now += 0.02
    bench.sense()
    assert bench.gate.end()
    assert [len(command.times_ns) for command in bench.sent[1:]] == [1, 1]
    assert bench.sent[1].positions[0].tolist() == pytest.approx(bench.positions[:7].tolist(), abs=0.01)

def test_a_stop_in_the_dark_brakes_from_where_a_motion_that_began_later_has_got_to(make) -> None:  # type: ignore[no-untyped-def]
    bench, lead_s = make('auto', replace(FREE, tracking_tolerance=0.05, tracking_latency_s=0.1)), 0.5
    bench.cell = replace(bench.cell, motion=replace(bench.cell.motion, command_lead_s=lead_s))
    bench.gate = bench.make_gate()
    assert bench.propose().values['verdict'] == 'forwarded'
    begins = bench.now + lead_s

    def follow(until_s: float) -> None:
        while bench.now < until_s:
            bench.now += 0.025
            bench.positions = positions_at(bench.motion, np.array([bench.now - begins]))[0]
            bench.sense()
            bench.gate.poll()

    follow(begins + 0.6)
    assert len(bench.sent) == 1  # an arm that waits for the beginning does not lag behind
    while len(bench.sent) == 1:
        bench.now += 0.025
        bench.gate.image(int(bench.now * 1e9))
        bench.gate.poll()
    arm = len(bench.cell.robot.arm_joints)
    there = positions_at(bench.motion, np.array([bench.now - begins, bench.now - begins + 0.1]))[:, :arm]
    assert np.abs(bench.sent[1].positions[-1] - there[0]).max() < np.abs(there[1] - there[0]).max()
