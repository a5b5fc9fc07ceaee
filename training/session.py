"""What training and evaluation set up alike: the agent of each world file, PyTorch, and a note of what it all is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sim_worlds.tasks import make_task
from sim_worlds.world_file import load_world
from vlm_agent_ros import __version__
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.agent import Agent
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.motion import Kinematics, SkillPlanner
from vlm_agent_ros.policy.prompt import PromptTemplate
from vlm_agent_ros.safety.rules import SafetyRules

from .worlds.commands import CellCommander, CommanderOf

_PACKAGES = ('torch', 'transformers', 'peft', 'llguidance', 'numpy', 'pybullet', 'gymnasium', 'pin', 'ruckig', 'rclpy',
             'ros-rclpy')


def commanders(prompt: PromptTemplate, illegal_rule: str = 'lost_turn') -> CommanderOf:
    """Agent and safety rules by world file, made when first asked for."""

    @cache
    def commander_of(world: str) -> CellCommander:
        cell = load_cell(load_world(world).cell)
        planner = SkillPlanner(cell)
        return CellCommander(Agent(cell, prompt, planner=planner), SafetyRules(cell, planner.kinematics), illegal_rule)

    return commander_of


def language_of(world: str) -> SkillLanguage:
    """The action language of a world file's cell."""
    return SkillLanguage(load_cell(load_world(world).cell).grid)


def check_names(tasks: Iterable[str], worlds: Iterable[str]) -> None:
    """Refuse a task or a world that does not exist, or a cell that does not fit its URDF, before anything is started.

    Raises:
        UserError: Naming what there is, or what does not fit.
    """
    for task in tasks:
        make_task(task)
    for world in worlds:
        Kinematics(load_cell(load_world(world).cell))


def use_threads(count: int) -> None:
    """Threads of PyTorch: the worlds need the other cores."""
    torch.set_num_threads(count)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {'vlm_agent_ros': __version__, 'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if os.environ.get('ROS_DISTRO'):
        found['ros_distro'] = os.environ['ROS_DISTRO']
    return found


def machine() -> dict[str, Any]:
    """What the run ran on."""
    import psutil

    return {
        'platform': platform.platform(), 'processor': _processor(), 'cores': os.cpu_count(),
        'memory_gib': round(psutil.virtual_memory().total / 2**30, 1), 'torch_threads': torch.get_num_threads(),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')),
                platform.processor())
