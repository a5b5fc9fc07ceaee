"""A gate in the hands of a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.autonomy import Autonomy
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.safety import EvidenceFile, Gate, Ladder
from vlm_agent_ros.safety.gate import Clocks
from vlm_agent_ros.status import Status
from vlm_agent_ros.types import Observation, Trajectory


class Bench:
    """A gate whose time is set by the test, and all that it sent and told."""

    def __init__(self, cell: Cell, planner: SkillPlanner, at_home: Observation, mode: str, autonomy: Autonomy,
                 evidence: EvidenceFile) -> None:
        self.cell = replace(cell, autonomy=autonomy)
        self.now = 1000.0
        self.sent: list[Trajectory | None] = []
        self.told: list[Status] = []
        self.ladder = Ladder(autonomy, evidence, mode)
        self.gate = self.make_gate()
        self.positions = at_home.joint_positions.copy()
        motion = planner.plan(Pick(24, 24), at_home.joint_names, at_home.joint_positions)
        assert motion is not None
        self.motion = motion
        self.sense()

    def make_gate(self, *, instructed: bool = True, stopped: dict[str, str] | None = None) -> Gate:
        gate = Gate(self.cell, self.ladder, self.send, self.told.append, approve_timeout_s=5.0, cooldown_s=1.0,
                    clocks=Clocks(lambda: int(self.now * 1e9), lambda: self.now, lambda: self.now), stopped=stopped)
        if instructed:
            gate.task(None)
        return gate

    def send(self, trajectory: Trajectory | None) -> int:
        self.sent.append(trajectory)
        return int(self.now * 1e9)

    def sense(self) -> None:
        self.gate.image(int(self.now * 1e9))
        self.gate.joint_state(self.positions, int(self.now * 1e9))

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.sense()
            self.gate.poll()

    def propose(self, trajectory: Trajectory | None = None) -> Status:
        self.wait(0.1)  # no faster than the rule of the rate allows
        self.gate.propose(self.motion if trajectory is None else trajectory, int(self.now * 1e9))
        return self.last('verdict')

    def last(self, about: str) -> Status:
        return next(status for status in reversed(self.told) if status.about == about)

    def impossible(self) -> Trajectory:
        return replace(self.motion, positions=self.motion.positions * np.nan)


FREE = Autonomy(approved_episodes=0, blend_episodes=0, tracking_tolerance=3.0)


@pytest.fixture
def make(cell: Cell, planner: SkillPlanner, at_home: Observation):  # type: ignore[no-untyped-def]
    return lambda mode, autonomy=FREE, evidence=None: Bench(cell, planner, at_home, mode, autonomy,
                                                            evidence or EvidenceFile())
