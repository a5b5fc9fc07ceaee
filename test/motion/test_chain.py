"""Many arm positions at once: the same as Pinocchio one by one, and bounds that hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlm_agent_ros.cell import Cell
from vlm_agent_ros.config import find_config, load_yaml, parse
from vlm_agent_ros.motion import Kinematics


@pytest.fixture(params=['panda_table', 'ur5e_table'])
def robot(request: pytest.FixtureRequest) -> tuple[Cell, Kinematics]:
    path = find_config('cells', request.param)
    content = load_yaml(path)
    content['camera']['calibrated'] = True
    cell = parse(Cell, {**content, 'path': str(path)}, Path(path).name)
    return cell, Kinematics(cell)


def tools(cell: Cell, kinematics: Kinematics, arm: np.ndarray) -> np.ndarray:
    body, _, point = kinematics.body_of(cell.robot.tool_frame)
    rotations, origins = kinematics.chain.poses(arm)
    return rotations[body] @ point + origins[body]


def drawn(kinematics: Kinematics, count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(kinematics.arm_lower, kinematics.arm_upper, (count, kinematics.chain.joints))


def test_the_tool_is_where_pinocchio_says(robot: tuple[Cell, Kinematics]) -> None:
    cell, kinematics = robot
    arm = drawn(kinematics, 50)
    expected = [kinematics.forward(joints)[0] for joints in arm]
    np.testing.assert_allclose(tools(cell, kinematics, arm), expected, atol=1e-12)


def test_the_velocity_of_the_tool_is_the_derivative_of_its_position(robot: tuple[Cell, Kinematics]) -> None:
    cell, kinematics = robot
    arm, step = drawn(kinematics, 20), 1e-6
    rates = np.random.default_rng(1).normal(size=arm.shape)
    velocity = kinematics.chain.velocity(kinematics.chain.poses(arm), tools(cell, kinematics, arm), rates)
    moved = tools(cell, kinematics, arm + step * rates) - tools(cell, kinematics, arm - step * rates)
    np.testing.assert_allclose(velocity, moved / (2 * step), atol=1e-7)


def test_no_joint_moves_the_tool_farther_than_its_reach(robot: tuple[Cell, Kinematics]) -> None:
    cell, kinematics = robot
    body, _, point = kinematics.body_of(cell.robot.tool_frame)
    reach, arm = kinematics.chain.reach(body, point), drawn(kinematics, 300)
    ways = []
    for joint in range(kinematics.chain.joints):
        turned = arm.copy()
        turned[:, joint] += 0.05
        ways.append(np.linalg.norm(tools(cell, kinematics, turned) - tools(cell, kinematics, arm), axis=1).max())
    assert (ways <= reach * 0.05).all()
    assert (np.array(ways[:3]) > reach[:3] * 0.05 / 2).all()  # not just any large number
