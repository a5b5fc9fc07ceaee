"""Fixtures that several folders of tests share: the shipped cell, its kinematics and its planner."""

from __future__ import annotations

import os

import numpy as np
import pytest

from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.motion import Kinematics, SkillPlanner
from vlm_agent_ros.types import Observation

# Before anything starts threads or processes: pytest's workers share the cores, and no test talks to the network.
os.environ['OMP_NUM_THREADS'] = '1'
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['HF_HUB_OFFLINE'] = '1'


@pytest.fixture(scope='session')
def cell() -> Cell:
    return load_cell('panda_table')


@pytest.fixture(scope='session')
def kinematics(cell: Cell) -> Kinematics:
    return Kinematics(cell)


@pytest.fixture(scope='session')
def planner(cell: Cell, kinematics: Kinematics) -> SkillPlanner:
    return SkillPlanner(cell, kinematics)


@pytest.fixture
def at_home(cell: Cell) -> Observation:
    """The arm at its home pose with an open gripper, seen in a grey image."""
    camera = cell.camera
    return Observation(
        image=np.full((camera.height, camera.width, 3), 128, dtype=np.uint8),
        joint_names=cell.robot.joints,
        joint_positions=np.array([*cell.robot.home, cell.robot.gripper_open]),
        task='pick up the red cube',
        stamp_ns=1_000_000_000,
    )
