"""The record of a kill tells an arm that follows its commands from one that does not."""

import numpy as np
import pytest

from training.cell_check.witness import ArmRecord
from vlm_agent_ros.actions import Pick
from vlm_agent_ros.motion.cubic import positions_at

PERIOD_S = 0.02


@pytest.fixture
def record(cell, planner, at_home):
    """An arm that was commanded at 10 s and has followed to the end and 1 s more, lagging by 0.1 s."""
    record = ArmRecord(cell.robot.arm_joints)
    trajectory = planner.plan(Pick(24, 24), at_home.joint_names, at_home.joint_positions)
    record.commands.append((10.0, trajectory))
    times = np.arange(10.0, 11.0 + trajectory.duration_s, PERIOD_S)
    arm = positions_at(trajectory.select(record.arm_joints), times - 10.1)
    record.states += list(zip(times.tolist(), arm))
    return record


def end(record):
    return record.states[-1][0]


def test_an_arm_that_lags_on_its_path_has_not_strayed_and_rests_at_the_end(record):
    assert record.stray(0.0) < 0.03
    assert record.rests(end(record), 0.3)


def test_an_arm_that_leaves_its_path_has_strayed(record):
    for index, (at, arm) in enumerate(record.states[20:60]):
        record.states[20 + index] = at, arm + 0.3
    assert record.stray(0.0) > 0.2
    assert record.stray(end(record) - 0.5) < 0.03


def test_an_arm_that_waits_for_its_gripper_does_not_rest(record, cell):
    moving = np.abs(np.diff([arm for _, arm in record.states], axis=0)).max(axis=1) > 1e-4
    still = next(i for i in range(20, len(moving)) if not moving[i:i + 10].any())
    now = record.states[still + 10][0]
    assert now < 10.0 + record.commands[0][1].duration_s
    assert not record.rests(now, 8 * PERIOD_S)


def test_silence_is_no_rest(record):
    assert not record.rests(end(record) + 1.0, 0.3)


def test_an_arm_that_creeps_does_not_rest(record):
    for index in range(1, 20):
        at, arm = record.states[-index]
        record.states[-index] = at, arm + 0.001 * index
    assert not record.rests(end(record), 0.3)
