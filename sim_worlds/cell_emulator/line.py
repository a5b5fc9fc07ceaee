"""The line around an emulated cell: it lays out parts, says what to do with them, and inspects what was done."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vlm_agent_ros.config import bounded
from vlm_agent_ros.motion.monitor import MotionMonitor
from vlm_agent_ros.types import EpisodeRequest, Outcome, Trajectory

from ..world import CellWorld

_IS_MOTION = 0.02  # a trajectory whose joints all move less, such as a stop, is no work to be inspected, rad
_IS_HOME = 0.05  # an arm this near to its home pose is laid out for as in simulation, rad
_KNOWN_KPI = ('success', 'cycle_time', 'cost')  # what an inspection can tell; the rest takes the true scene


@dataclass(frozen=True)
class LineSettings:
    """How a line behaves."""

    inspection: bool = bounded(False, help='judge every motion, publish the outcome, and go on to the next parts')
    pause_s: float = bounded(1.0, low=0.0, high=3600.0, help='from the end of an episode to the next parts, s')
    patience_s: float = bounded(20.0, low=0.1, high=3600.0,
                                help='a turn in which nothing has moved for so long is inspected as it is, s')


class Line:
    """Episodes of a simulated cell as a line sees them: without an inspection, only the first one.

    Args:
        world: The cell.
        request: First episode; each next one has a seed that is higher by 1.
        settings: How the line behaves.
    """

    def __init__(self, world: CellWorld, request: EpisodeRequest, settings: LineSettings) -> None:
        self._world, self._request, self._settings = world, request, settings
        self._monitor = MotionMonitor(world.cell)
        self._turn_open = False
        self._next_ns: int | None = None
        self._lay_out()

    def commanded(self, trajectory: Trajectory | None) -> None:
        """The arm was given a trajectory."""
        if trajectory is None:
            return
        self._monitor.command(trajectory, self._world.time_ns)
        works = np.ptp(trajectory.positions, axis=0).max() > _IS_MOTION
        if works and self._settings.inspection and self._next_ns is None and not self._turn_open:
            self._world.open_turn(moves=True)
            self._turn_open = True

    def step(self) -> Outcome | str | None:
        """Look once: the outcome of a turn that has ended, the task of parts that were laid out, or nothing."""
        if not self._settings.inspection:
            return None
        now_ns = self._world.time_ns
        if self._monitor.moving:
            self._quiet_ns = now_ns
            arm = self._world.joint_state()[0][:len(self._world.cell.robot.arm_joints)]
            return self._inspect() if self._monitor.update(now_ns, arm) and self._turn_open else None
        if self._next_ns is not None:
            return self._lay_out() if now_ns >= self._next_ns else None
        if now_ns - self._quiet_ns > self._settings.patience_s * 1e9:
            self._world.open_turn(moves=False)
            return self._inspect()
        return None

    def _inspect(self) -> Outcome:
        outcome = self._world.judge()
        self._turn_open, self._quiet_ns = False, self._world.time_ns
        if outcome.terminated or outcome.truncated:
            self._next_ns = self._quiet_ns + int(self._settings.pause_s * 1e9)
        known = {name: outcome.kpi[name] for name in _KNOWN_KPI}
        return replace(outcome, seed=0, kpi=known, expert_thought='', expert_action='', scene='')

    def _lay_out(self) -> str:
        """The next parts, between which the arm stays where it is; who lays them out empties the gripper."""
        home = np.array(self._world.cell.robot.home)
        arm = self._world.joint_state()[0][:len(home)] if self._next_ns is not None else home
        task = self._world.reset(self._request).task
        if np.abs(arm - home).max() > _IS_HOME:
            self._world.place_arm(arm)
        self._request = replace(self._request, seed=self._request.seed + 1)
        self._next_ns, self._quiet_ns = None, self._world.time_ns
        self.task = task
        return task
