"""Fixtures that several folders of tests share: the shipped cell, its kinematics and its planner."""

from __future__ import annotations

import os
from pathlib import Path

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


@pytest.fixture(scope='session')
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small VLM as a Hugging Face directory, with random weights that have clear preferences."""
    import torch
    from transformers import AutoModelForImageTextToText

    from training.sft.tiny_vlm import TinyVlmConfig, build_tiny_vlm

    folder = tmp_path_factory.mktemp('models') / 'vlm'
    build_tiny_vlm(TinyVlmConfig(image_size=32, patch_size=16, vision_width=16, vision_layers=1, text_width=16,
                                 text_layers=2, heads=2), folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder
