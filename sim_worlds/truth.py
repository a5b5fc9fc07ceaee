"""What only the simulator knows; for the expert, labels, corrections of thoughts and tests, never for the agent."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_agent_ros.cell import Cell

from .scene import Item
from .tasks import Goal, SceneState, Task


@dataclass(frozen=True)
class SceneTruth:
    """The true scene at an observation.

    Attributes:
        gripper: State of the gripper as the agent reads it from the same observation's joint positions.
    """

    task: Task
    goal: Goal
    items: tuple[Item, ...]
    state: SceneState
    cell: Cell
    gripper: str
