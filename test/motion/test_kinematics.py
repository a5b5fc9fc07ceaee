"""The arm's kinematics agree with the simulated arm and never answer outside the joint limits."""

import dataclasses

import numpy as np
import pytest

from sim_worlds.world import CellWorld
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import Kinematics, MotionError
from vlm_agent_ros.motion.planner import TOOL_DOWN
from vlm_agent_ros.types import EpisodeRequest


@pytest.fixture(scope='module')
def cell():
    return load_cell('panda_table')


@pytest.fixture(scope='module')
def kinematics(cell):
    return Kinematics(cell)


def test_forward_kinematics_equal_the_simulators(cell, kinematics):
    world = CellWorld('panda_table')
    world.reset(EpisodeRequest(0, 'pick'))
    simulation, rng = world._simulation, np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(kinematics.arm_lower, kinematics.arm_upper)
        for joint, position in zip(simulation.arm, joints):
            simulation._client.resetJointState(simulation.robot, joint, position)
        np.testing.assert_allclose(kinematics.forward(joints)[0], simulation.tool_position(), atol=1e-6)
    world.close()


def test_inverse_then_forward_returns_the_pose(cell, kinematics):
    rng = np.random.default_rng(1)
    for _ in range(50):
        point = rng.uniform((0.38, -0.2, 0.02), (0.65, 0.2, 0.3))
        joints = kinematics.inverse(point, TOOL_DOWN, np.array(cell.robot.home))
        position, rotation = kinematics.forward(joints)
        np.testing.assert_allclose(position, point, atol=2e-4)
        np.testing.assert_allclose(rotation, TOOL_DOWN, atol=1e-3)
        assert np.all(joints >= kinematics.arm_lower) and np.all(joints <= kinematics.arm_upper)


def test_a_pose_out_of_reach_is_refused(cell, kinematics):
    with pytest.raises(MotionError, match='cannot reach'):
        kinematics.inverse(np.array([1.5, 0.0, 0.2]), TOOL_DOWN, np.array(cell.robot.home))


@pytest.mark.parametrize('urdf', ['<robot name="x"><link', '<html></html>', ''])
def test_a_broken_urdf_is_one_sentence(tmp_path, cell, capfd, urdf):
    (tmp_path / 'panda.urdf').write_text(urdf)
    with pytest.raises(UserError, match=r'panda\.urdf is not a readable URDF'):
        Kinematics(dataclasses.replace(cell, path=str(tmp_path / 'cell.yaml')))
    assert capfd.readouterr() == ('', '')


def test_a_joint_without_end_stops_is_refused(tmp_path, cell):
    urdf = tmp_path / 'endless.urdf'
    before, joint, after = cell.urdf_path.read_text().partition('<joint name="panda_joint7" type="revolute"')
    assert joint
    urdf.write_text(before + joint.replace('revolute', 'continuous') + after)
    with pytest.raises(UserError, match=r"'panda_joint7' has no end stops .* make it revolute"):
        Kinematics(dataclasses.replace(cell, robot=dataclasses.replace(cell.robot, urdf=str(urdf))))


@pytest.mark.parametrize(('change', 'message'), [
    ({'home': (9.0, *[0.0] * 6)}, 'panda_joint1 at 9'), ({'tool_frame': 'hook'}, "frame 'hook'"),
    ({'gripper_joints': ('thumb',)}, "joint 'thumb'")])
def test_a_cell_that_does_not_fit_its_urdf_is_refused(cell, change, message):
    with pytest.raises(UserError, match=message):
        Kinematics(dataclasses.replace(cell, robot=dataclasses.replace(cell.robot, **change)))
