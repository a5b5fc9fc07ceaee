"""The emulated controller takes what ros2_control's would take, says why it refuses, and follows the cubic."""

import numpy as np
import pytest

from sim_worlds.cell_emulator.controller import Refused, TrajectoryController
from vlm_agent_ros.types import Trajectory

JOINTS = ('a', 'b')
HERE = np.array([0.1, -0.2])
PERIOD_S = 0.01


@pytest.fixture
def controller():
    return TrajectoryController(JOINTS, np.array([-1.0, -1.0]), np.array([1.0, 1.0]), HERE)


def trajectory(*points, names=JOINTS):
    """Points of (time in s, positions, velocities)."""
    times, positions, velocities = zip(*points)
    return Trajectory(names, np.array([round(t * 1e9) for t in times], dtype=np.int64),
                      np.array(positions, dtype=float), np.array(velocities, dtype=float))


def straight(goal=(0.5, 0.2), names=JOINTS):
    return trajectory((0.0, HERE, (0, 0)), (1.0, goal, (0, 0)), names=names)


def run(controller, seconds):
    """(steps, joints) set positions and velocities."""
    pairs = [controller.update(PERIOD_S) for _ in range(round(seconds / PERIOD_S))]
    return np.array([p for p, _ in pairs]), np.array([v for _, v in pairs])


def test_it_holds_until_it_is_told_otherwise_and_again_at_the_goal(controller):
    positions, velocities = run(controller, 0.2)
    assert (positions == HERE).all() and (velocities == 0.0).all() and not controller.moving
    controller.receive(straight(), 0.0, HERE)
    assert controller.moving
    positions, velocities = run(controller, 1.5)
    assert positions[-40:] == pytest.approx(np.tile([0.5, 0.2], (40, 1)))
    assert (velocities[-40:] == 0.0).all() and not controller.moving


def test_it_follows_the_cubic_with_the_velocity_of_that_cubic(controller):
    controller.receive(straight(), 0.0, HERE)
    positions, velocities = run(controller, 1.0)
    s = np.arange(1, 101)[:, None] / 100
    assert positions == pytest.approx(HERE + (3 * s**2 - 2 * s**3) * (np.array([0.5, 0.2]) - HERE))
    assert velocities == pytest.approx(6 * s * (1 - s) * (np.array([0.5, 0.2]) - HERE), abs=1e-9)


def test_a_new_trajectory_replaces_the_running_one_without_a_jump(controller):
    controller.receive(straight(), 0.0, HERE)
    before = run(controller, 0.5)[0][-1]
    controller.receive(trajectory((0.4, (-0.3, 0.0), (0, 0))), 0.0, before)
    positions, _ = run(controller, 0.6)
    assert np.abs(np.diff(np.vstack([before, positions]), axis=0)).max() < 0.03
    assert positions[-1] == pytest.approx([-0.3, 0.0])
    assert controller.accepted == 2


def test_an_empty_trajectory_holds_the_measured_position(controller):
    controller.receive(straight(), 0.0, HERE)
    run(controller, 0.5)
    controller.receive(None, 0.0, np.array([0.3, 0.0]))
    assert not controller.moving
    assert (run(controller, 0.3)[0] == [0.3, 0.0]).all()


def test_joints_may_come_in_another_order(controller):
    controller.receive(trajectory((0.0, HERE[::-1], (0, 0)), (1.0, (0.2, 0.5), (0, 0)), names=('b', 'a')), 0.0, HERE)
    assert run(controller, 1.2)[0][-1] == pytest.approx([0.5, 0.2])


def test_a_trajectory_that_comes_late_starts_where_it_should_be_by_now(controller):
    controller.receive(straight(), 0.1, HERE)
    s = 0.11
    assert run(controller, 0.01)[0][0] == pytest.approx(HERE + (3 * s**2 - 2 * s**3) * (np.array([0.5, 0.2]) - HERE))
    assert run(controller, 0.9)[0][-1] == pytest.approx([0.5, 0.2])


def test_a_trajectory_of_the_future_waits(controller):
    controller.receive(straight(), -0.5, HERE)
    assert run(controller, 0.49)[0][-1] == pytest.approx(HERE, abs=1e-6)
    assert run(controller, 1.1)[0][-1] == pytest.approx([0.5, 0.2])


@pytest.mark.parametrize(('bad', 'why'), [
    (straight(names=('a', 'c')), "'c' is not one"),
    (trajectory((0.0, (0.1,), (0,)), names=('a',)), "'b' must be in the trajectory once"),
    (trajectory((0.0, (0.1, 0.1, 0.1), (0, 0, 0)), names=('a', 'b', 'a')), "'a' must be in the trajectory once"),
    (straight(goal=(np.nan, 0.0)), 'finite'),
    (trajectory((0.0, HERE, (0, np.inf))), 'finite'),
    (trajectory((0.0, HERE, (0, 0)), (0.0, HERE, (0, 0))), 'strictly increasing'),
    (trajectory((1.0, HERE, (0, 0)), (0.5, HERE, (0, 0))), 'strictly increasing'),
    (trajectory((-0.1, HERE, (0, 0)), (0.5, HERE, (0, 0))), 'strictly increasing'),
    (straight(goal=(1.2, 0.0)), "'a' would go 0.200 beyond"),
    (straight(goal=(0.0, -1.5)), "'b' would go 0.500 beyond"),
    (trajectory((0.0, (0.1, 0.2), (0, 0)), (1.0, HERE, (0, 0))), "'b' would jump by 0.400"),
])
def test_what_no_robot_could_follow_is_refused_with_the_reason_and_the_motion_goes_on(controller, bad, why):
    controller.receive(straight(), 0.0, HERE)
    run(controller, 0.0)
    with pytest.raises(Refused, match=why):
        controller.receive(bad, 0.0, HERE)
    assert (controller.accepted, controller.refused) == (1, 1) and why in controller.reason
    assert run(controller, 1.2)[0][-1] == pytest.approx([0.5, 0.2])


def test_a_trajectory_that_has_ended_already_is_refused(controller):
    with pytest.raises(Refused, match=r'ended 2\.00 s ago'):
        controller.receive(straight(), 3.0, HERE)
