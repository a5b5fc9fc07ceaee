"""An emulated cell without ROS: what happens in it while time passes."""

from __future__ import annotations

import numpy as np

from vlm_agent_ros.cell import Cell
from vlm_agent_ros.types import EpisodeRequest, Outcome, Trajectory

from ..world import CellWorld
from .line import Line, LineSettings
from .robot import ARM, PERIOD_S, EmulatedRobot

FAULTS = ('none', 'camera_freeze', 'joints_freeze', 'joints_nan', 'tracking_error', 'protective_stop')
_LONGEST_S = 2.0  # a machine that hangs longer lets the cell hang too


class EmulatedCell:
    """Robot, camera and line; it knows the true scene and keeps it to itself.

    Args:
        world: World file by name or path.
        request: First episode.
        settings: How the line behaves.

    Attributes:
        fault: What is wrong at present, one of ``FAULTS``.

    Raises:
        UserError: World, task or cell file are missing or wrong.
    """

    def __init__(self, world: str, request: EpisodeRequest, settings: LineSettings) -> None:
        self._world = CellWorld(world)
        self._line = Line(self._world, request, settings)
        self.robot = EmulatedRobot(self._world)
        self._fault = 'none'
        self._owed_s = 0.0

    @property
    def cell(self) -> Cell:
        """The cell file."""
        return self._world.cell

    @property
    def task(self) -> str:
        """The instruction for the parts that lie there now."""
        return self._line.task

    @property
    def fault(self) -> str:
        """What is wrong at present, one of ``FAULTS``."""
        return self._fault

    @fault.setter
    def fault(self, fault: str) -> None:
        self._fault = fault
        self.robot.jammed = fault == 'tracking_error'
        self.robot.protective_stop = fault == 'protective_stop'

    def receive(self, group: str, trajectory: Trajectory | None, late_s: float) -> None:
        """A command has arrived; see ``EmulatedRobot.receive``.

        Raises:
            Refused: It is ignored.
        """
        self.robot.receive(group, trajectory, late_s)
        if group == ARM:
            self._line.commanded(trajectory)

    def advance(self, seconds: float) -> list[Outcome | str]:
        """Let time pass.

        Returns:
            Outcomes of turns that have ended, and tasks of parts that were laid out, in order.
        """
        self._owed_s = min(self._owed_s + seconds, _LONGEST_S)
        events = []
        while self._owed_s >= PERIOD_S:
            self._owed_s -= PERIOD_S
            self.robot.step()
            event = self._line.step()
            if isinstance(event, str):
                self.robot.hold()  # parts were laid out, and the gripper was opened for that
            if event is not None:
                events.append(event)
        return events

    def joint_positions(self) -> np.ndarray | None:
        """(joints,) float64 as the driver reports them, rad or m; None if it reports nothing."""
        if self._fault == 'joints_freeze':
            return None
        positions, _ = self._world.joint_state()
        return np.full_like(positions, np.nan) if self._fault == 'joints_nan' else positions

    def image(self) -> np.ndarray | None:
        """(height, width, 3) uint8 as the camera exposes it now; None if it does not."""
        return None if self._fault == 'camera_freeze' else self._world.observe().image

    def close(self) -> None:
        """Give the physics server back."""
        self._world.close()
