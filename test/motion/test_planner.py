"""Planned motions start where the arm is, keep every limit, and go where the image cell says."""

from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.actions import Done, Pick, Place, Push, Stack
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.motion import Kinematics, MotionError, SkillPlanner
from vlm_agent_ros.safety.agreement import Agreement


@pytest.fixture(scope='module')
def cell():
    return load_cell('panda_table')


@pytest.fixture(scope='module')
def planner(cell):
    return SkillPlanner(cell)


@pytest.fixture()
def measured(cell):
    return np.append(cell.robot.home, cell.robot.gripper_open) + 0.003


@pytest.mark.parametrize('command', [
    Pick(12, 20), Place(30, 30), Stack(30, 30), Push(20, 22, 'left'), Push(24, 22, 'up')])
def test_trajectory_starts_at_the_measured_position_and_keeps_the_limits(cell, planner, measured, command):
    trajectory = planner.plan(command, cell.robot.joints, measured)
    arm = len(cell.robot.arm_joints)
    np.testing.assert_allclose(trajectory.positions[0, :arm], measured[:arm])
    assert np.all(np.diff(trajectory.times_ns) > 0)
    assert np.all(np.abs(trajectory.velocities) <= np.array(cell.robot.max_velocity) * 1.001)
    implied = np.diff(trajectory.positions, axis=0) / np.diff(trajectory.times_ns)[:, None] * 1e9
    assert np.all(np.abs(implied) <= np.array(cell.robot.max_velocity) * 1.01)
    np.testing.assert_allclose(trajectory.positions[-1, :arm], cell.robot.home, atol=1e-9)
    assert not trajectory.velocities[-1].any()


def test_pick_lowers_the_open_gripper_onto_the_image_cell_and_closes_it(cell, planner, measured):
    trajectory = planner.plan(Pick(12, 20), cell.robot.joints, measured)
    arm = len(cell.robot.arm_joints)
    tool = np.array([planner.kinematics.forward(q[:arm])[0] for q in trajectory.positions])
    lowest = int(np.argmin(tool[:, 2]))
    np.testing.assert_allclose(tool[lowest, :2], cell.cell_to_table(12, 20)[:2], atol=1e-3)
    assert trajectory.positions[lowest - 1, arm] > 0.9 * cell.robot.gripper_open
    assert trajectory.positions[-1, arm] == cell.robot.gripper_closed


@pytest.mark.parametrize(('command', 'height'), [(Place(30, 30), 'release_height'), (Stack(30, 30), 'stack_height')])
def test_place_and_stack_keep_squeezing_until_they_release_at_their_height(cell, planner, measured, command, height):
    measured[-1] = 0.022  # a cube is between the fingers
    trajectory = planner.plan(command, cell.robot.joints, measured)
    gripper = trajectory.positions[:, -1]
    release = int(np.argmax(gripper > cell.robot.gripper_closed))
    tool = planner.kinematics.forward(trajectory.positions[release, :-1])[0]
    assert tool[2] == pytest.approx(getattr(cell.motion, height), abs=0.005)
    assert gripper[0] == cell.robot.gripper_closed and gripper[-1] == cell.robot.gripper_open


@pytest.mark.parametrize(('fingers', 'commanded'), [
    (0.043, 0.04), (0.04, 0.04), (0.0395, 0.0395),  # open
    (0.0365, 0.0), (0.022, 0.0), (0.0, 0.0)])  # around a cube across its diagonal, around one, around nothing
def test_a_hold_goes_nowhere_and_lets_go_of_nothing(cell, planner, measured, fingers, commanded):
    measured[-1] = fingers
    held = planner.hold(cell.robot.joints, measured)
    assert held.joint_names == cell.robot.joints and not held.velocities.any()
    np.testing.assert_allclose(held.positions, [[*measured[:-1], commanded]])


def test_same_request_gives_the_same_bits(cell, planner, measured):
    first, second = (planner.plan(Pick(12, 20), cell.robot.joints, measured) for _ in range(2))
    assert first.positions.tobytes() == second.positions.tobytes()
    assert first.times_ns.tobytes() == second.times_ns.tobytes()


def test_target_outside_the_workspace_is_refused(cell, planner, measured):
    with pytest.raises(MotionError, match='workspace'):
        planner.plan(Pick(0, 0), cell.robot.joints, measured)


def test_done_moves_nothing(cell, planner, measured):
    assert planner.plan(Done(), cell.robot.joints, measured) is None


def test_all_fingers_of_a_gripper_whose_joints_are_commanded_each_move_alike(cell):
    robot = cell.robot
    limits = {key: (*getattr(robot, key), getattr(robot, key)[-1])
              for key in ('max_velocity', 'max_acceleration', 'max_jerk')}
    two = replace(cell, robot=replace(
        robot, gripper_joints=('panda_finger_joint1', 'panda_finger_joint2'), **limits))
    trajectory = SkillPlanner(two).plan(Pick(24, 24), two.robot.joints, np.array([*robot.home, 0.04, 0.04]))
    assert trajectory.positions.shape == trajectory.velocities.shape == (len(trajectory.times_ns), 9)
    np.testing.assert_array_equal(trajectory.positions[:, 7], trajectory.positions[:, 8])
    assert trajectory.positions[-1, 7] == robot.gripper_closed
    agreement = Agreement(two, Kinematics(two))
    for at_s in (0.0, 0.1):
        agreement.measured(trajectory.positions[0], at_s)
    agreement.command(trajectory.select(robot.gripper_joints), 0.2)  # somebody's, of one of the two fingers
