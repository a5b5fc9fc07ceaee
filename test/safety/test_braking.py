"""A stop keeps the limits of the cell file whatever the arm is doing, and brings it to rest as near as they allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.autonomy import Autonomy
from vlm_agent_ros.motion.cubic import positions_at, velocities_at
from vlm_agent_ros.safety import EvidenceFile, Gate, Ladder, SafetyRules
from vlm_agent_ros.safety.braking import Brake
from vlm_agent_ros.safety.gate import Clocks

PERIOD_S = 0.01  # of the joint states


def second_differences(start, speed, end, duration_s):
    """Largest acceleration (joints,) of the cubic by which a controller follows a point, by dense sampling."""
    t = np.linspace(0.0, duration_s, 2001)
    s = t[:, None] / duration_s
    path = ((1 + 2 * s) * (1 - s) ** 2 * start + s**2 * (3 - 2 * s) * end + duration_s * s * (1 - s) ** 2 * speed)
    step = t[1]
    return np.abs(np.diff(path, 2, axis=0)).max(axis=0) / step**2


@pytest.mark.parametrize('column', [8, 24, 40])
def test_a_stop_at_any_moment_of_a_motion_at_full_speed_brakes_within_the_limits(cell, planner, at_home, column):
    """The controller starts from where it truly is, the gate knows joint states that are 10 ms old and older."""
    fast = replace(cell, autonomy=Autonomy(approved_episodes=0, blend_episodes=0, tracking_tolerance=3.0))
    motion = planner.plan(Pick(column, 24), at_home.joint_names, at_home.joint_positions)
    limit = np.array(cell.robot.max_acceleration[:7]) * (1.0 + cell.safety.acceleration_tolerance)
    speeds = []
    for stop_s in np.arange(0.05, motion.duration_s, 0.09):
        clock, sent = [1000.0], []
        gate = Gate(fast, Ladder(fast.autonomy, EvidenceFile(), 'auto'), lambda t, sent=sent: sent.append(t) or 1,
                    lambda _: None, clocks=Clocks(lambda clock=clock: round(clock[0] * 1e9),
                                                  *[lambda clock=clock: clock[0]] * 2))
        gate.task(None)
        for _ in range(5):
            clock[0] += PERIOD_S
            gate.image(round(clock[0] * 1e9))
            gate.joint_state(at_home.joint_positions, round(clock[0] * 1e9))
        gate.propose(motion, round(clock[0] * 1e9))
        assert len(sent) == 1
        begun = clock[0]
        while clock[0] - begun < stop_s:
            clock[0] += PERIOD_S
            state = positions_at(motion, np.array([clock[0] - begun]))[0]
            gate.image(round(clock[0] * 1e9))
            gate.joint_state(np.append(state[:7], at_home.joint_positions[7:]), round(clock[0] * 1e9))
        clock[0] += PERIOD_S * 0.9  # just before the next one
        gate.stop('operator', 'stop')
        arm = sent[1]
        assert (len(arm.times_ns), arm.joint_names) == (1, cell.robot.arm_joints)
        assert not arm.velocities.any()
        true, rate = (of(motion, np.array([clock[0] - begun]))[0, :7] for of in (positions_at, velocities_at))
        assert (second_differences(true, rate, arm.positions[0], arm.duration_s) <= limit).all(), stop_s
        # As near as possible: the time in which the fastest joint for its limit can brake, and half of it at speed.
        needed = max(0.15, float((np.abs(rate) / np.array(cell.robot.max_acceleration[:7])).max()) / 0.8)
        assert arm.duration_s < needed + 0.05
        assert (np.abs(arm.positions[0] - true) <= np.abs(rate) * needed / 2 + 0.03).all()
        speeds.append(np.abs(rate) / np.array(cell.robot.max_velocity[:7]))
    assert np.max(speeds) > 0.8  # it was at full speed


def test_holding_the_measured_position_at_once_would_break_the_limit(cell):
    """Why there is a brake: what was commanded before."""
    speed = np.array(cell.robot.max_velocity[:7])
    limit = np.array(cell.robot.max_acceleration[:7]) * (1.0 + cell.safety.acceleration_tolerance)
    assert (second_differences(np.zeros(7), speed, np.zeros(7), 0.1) > limit).any()


def test_braking_ends_at_a_limit_and_an_encoder_that_jumps_is_no_speed(cell, kinematics):
    brake, arm = Brake(cell, kinematics), np.array(cell.robot.home)
    arm[3] = kinematics.lower[3] + 0.001
    speed = np.zeros(7)
    speed[3] = -1.0
    assert brake.stop(arm, speed).positions[1, 3] == kinematics.lower[3]
    arm[3] = kinematics.lower[3] - 0.001  # measured beyond it
    assert brake.stop(arm, speed).positions[1, 3] == arm[3]
    jumped = brake.stop(np.array(cell.robot.home), np.full(7, 50.0))
    longest_s = max(np.array(cell.robot.max_velocity) / np.array(cell.robot.max_acceleration)) / 0.8
    assert jumped.duration_s < 1.06 * longest_s


@pytest.mark.parametrize('column', [16, 24, 32])
def test_a_stop_at_any_moment_near_the_table_ends_where_the_gate_lets_the_arm_go_on(cell, kinematics, planner, at_home,
                                                                                     column):
    """It comes to rest a little later than the motion would have: below the box, by less than safety.max_outside."""
    brake, deepest = Brake(cell, kinematics), (1.0, None)
    motion = planner.plan(Pick(column, 12), at_home.joint_names, at_home.joint_positions)
    times = np.arange(0.0, motion.duration_s, 0.004)
    for position, velocity in zip(positions_at(motion, times)[:, :7], velocities_at(motion, times)[:, :7]):
        end = brake.stop(position, velocity).positions[-1]
        tool = kinematics.forward(end)[0]
        inside = min((tool - cell.workspace.low).min(), (cell.workspace.high - tool).min())
        deepest = min(deepest, (inside, end), key=lambda found: found[0])
    assert -0.6 * cell.safety.max_outside < deepest[0] < 0.0
    left = replace(at_home, joint_positions=np.append(deepest[1], 0.04))
    on = planner.plan(Pick(column, 12), left.joint_names, left.joint_positions)
    assert SafetyRules(cell, kinematics).check(on, left) is None


def test_an_arm_at_rest_is_held_where_it_is(cell, kinematics):
    held = Brake(cell, kinematics).stop(np.array(cell.robot.home), np.zeros(7))
    assert held.positions.tolist() == [list(cell.robot.home)] * 2
    assert held.duration_s == pytest.approx(0.15)
