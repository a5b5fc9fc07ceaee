"""A stop that breaks a limit of the cell file is flagged, and those that the gate commands are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.cell_check.independent_checker import IndependentChecker
from training.cell_check.witness import measured_before
from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.safety.braking import Brake, last_point


@pytest.fixture(scope='module')
def brake(cell):
    return Brake(cell, Kinematics(cell))


@pytest.fixture(scope='module')
def checker(cell):
    return IndependentChecker(Path(cell.path), cell.urdf_path)


@pytest.fixture
def arm(cell):
    return np.array(cell.robot.home)


@pytest.fixture
def rates(cell):
    return 0.8 * np.array(cell.robot.max_velocity[:7]) * np.array([1, -1, 1, -1, 1, -1, 1])


def test_what_the_gate_commands_at_any_speed_is_sound(checker, brake, cell, arm):
    rng, fastest = np.random.default_rng(0), np.array(cell.robot.max_velocity[:7])
    for _ in range(200):
        rates = rng.uniform(-1.0, 1.0, 7) * fastest
        assert checker.problems_of_stop(last_point(brake.stop(arm, rates)), arm, rates) == []
    assert checker.problems_of_stop(last_point(brake.stop(arm, np.zeros(7))), arm, np.zeros(7)) == []


def test_a_slam_to_the_measured_position_is_flagged(checker, brake, arm, rates):
    stop = last_point(brake.stop(arm, rates))
    slam = replace(stop, positions=arm[None], times_ns=np.array([100_000_000]))
    assert checker.problems_of_stop(slam, arm, rates) == ['acceleration']
    assert checker.problems_of_stop(replace(stop, times_ns=stop.times_ns // 2), arm, rates) == ['acceleration']


def test_a_stop_that_is_computed_for_another_speed_is_flagged(checker, brake, arm, rates):
    assert checker.problems_of_stop(last_point(brake.stop(arm, -rates)), arm, rates) == ['acceleration']


def test_a_stop_beyond_a_limit_is_flagged_unless_the_arm_was_measured_there(checker, brake, cell, arm):
    still, beyond = np.zeros(7), arm.copy()
    beyond[0] = Kinematics(cell).upper[0] + 0.02
    stop = last_point(brake.stop(beyond, still))
    assert checker.problems_of_stop(stop, beyond, still) == []
    assert checker.problems_of_stop(replace(stop, positions=stop.positions + 0.01 * np.eye(7)[:1]), beyond, still
                                    ) == ['position']
    near = beyond - 0.021 * np.eye(7)[0]
    assert checker.problems_of_stop(stop, near, still) == ['position']


@pytest.mark.parametrize(('change', 'problem'), [
    ({'positions': np.full((1, 7), np.nan)}, 'finite'), ({'times_ns': np.array([0])}, 'time'),
    ({'velocities': np.full((1, 7), 0.1)}, 'end'), ({'joint_names': ('a',) * 7}, 'joints'),
    ({'positions': np.zeros((2, 7)), 'velocities': np.zeros((2, 7)), 'times_ns': np.array([1, 2])}, 'shape')])
def test_a_malformed_stop_is_flagged(checker, brake, arm, change, problem):
    stop = last_point(brake.stop(arm, np.zeros(7)))
    assert problem in checker.problems_of_stop(replace(stop, **change), arm, np.zeros(7))


def test_the_state_before_a_stop_is_that_of_the_last_two_joint_states():
    states = [(float(t), np.array([0.1 * t])) for t in (1.0, 1.02, 1.04, 1.06)]
    position, rates = measured_before(states, 1.05)
    assert position == pytest.approx([0.104])
    assert rates == pytest.approx([0.1])
    assert measured_before(states, 1.01) is None
    assert measured_before(states, 1.3) is None
