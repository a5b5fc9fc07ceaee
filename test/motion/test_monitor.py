"""A motion has ended when its time is over and the arm is at its last point and at rest, or when it is too late."""

import numpy as np
import pytest

from vlm_agent_ros.motion.monitor import MotionMonitor
from vlm_agent_ros.types import Trajectory

SECOND = 1_000_000_000


@pytest.fixture
def monitor(cell):
    return MotionMonitor(cell)


def motion(names, position, duration_s=2.0):
    shape = (1, len(names))
    return Trajectory(names, np.array([int(duration_s * SECOND)]), np.full(shape, position), np.zeros(shape))


def feed(monitor, seconds, position):
    return monitor.update(int(seconds * SECOND), np.full(7, position))


def test_arm_that_is_already_at_the_last_point_has_not_moved_yet(monitor, cell):
    monitor.command(motion(cell.robot.arm_joints, 0.5), 0)
    assert not feed(monitor, 0.1, 0.5)
    assert not feed(monitor, 0.2, 0.5)
    assert monitor.moving


def test_motion_ends_at_rest_at_the_last_point(monitor, cell):
    monitor.command(motion(cell.robot.arm_joints, 0.5), 0)
    assert not feed(monitor, 2.0, 0.3)
    assert not feed(monitor, 2.1, 0.495)  # arrived, but still moving
    assert feed(monitor, 2.2, 0.495)
    assert not monitor.moving
    assert not feed(monitor, 2.3, 0.495)  # it ends once


def test_motion_that_never_arrives_ends_at_the_time_limit(monitor, cell):
    monitor.command(motion(cell.robot.arm_joints, 0.5), 0)
    late = 2.0 + cell.motion.time_limit_s
    assert not feed(monitor, late - 0.1, 0.0)
    assert feed(monitor, late + 0.1, 0.0)


def test_gripper_half_only_extends_the_motion_of_the_arm(monitor, cell):
    monitor.command(motion(cell.robot.arm_joints, 0.5, 1.0), 0)
    monitor.command(motion(cell.robot.gripper_joints, 0.0, 2.0), 0)
    for seconds in (1.0, 1.5):
        assert not feed(monitor, seconds, 0.5)
    assert feed(monitor, 2.0, 0.5)


def test_new_command_replaces_the_motion_before(monitor, cell):
    monitor.command(motion(cell.robot.arm_joints, 0.5), 0)
    monitor.command(motion(cell.robot.arm_joints, 0.1, 0.1), SECOND)  # a hold
    assert not feed(monitor, 1.2, 0.1)
    assert feed(monitor, 1.3, 0.1)
