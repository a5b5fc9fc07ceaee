"""What is exchanged between a cell and the agent, free of ROS and of any simulator.

The ROS messages of the interface map one to one onto these types (``nodes/messages.py``), so that the same world
can be stepped in process and through ROS with bit-identical results.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Observation:
    """What the agent may know before it decides.

    Attributes:
        image: (height, width, 3) uint8, rgb8, as exposed by the cell's camera.
        joint_names: Names of the measured joints, arm first, then gripper, in the cell file's order.
        joint_positions: (joints,) float64, rad for revolute and m for prismatic joints, measured.
        task: The instruction, untrusted text.
        stamp_ns: Time of exposure in nanoseconds of the cell's clock.
    """

    image: np.ndarray
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    task: str
    stamp_ns: int


@dataclass(frozen=True)
class Trajectory:
    """A timed joint motion; the content of a trajectory_msgs/JointTrajectory.

    Times are integer nanoseconds because that is what the message carries: a trajectory survives the way through
    ROS unchanged, to the bit.

    Attributes:
        joint_names: (joints,) names; arm and gripper joints may share one trajectory.
        times_ns: (points,) int64, nanoseconds from the start of the motion.
        positions: (points, joints) float64, rad or m.
        velocities: (points, joints) float64, rad/s or m/s.
        efforts: (points, joints) float64, Nm or N, or None where none are asked for.
    """

    joint_names: tuple[str, ...]
    times_ns: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    efforts: np.ndarray | None = None

    @property
    def duration_s(self) -> float:
        """Time of the last point in seconds."""
        return float(self.times_ns[-1]) * 1e-9 if len(self.times_ns) else 0.0

    def select(self, joint_names: tuple[str, ...]) -> Trajectory:
        """The same motion restricted to ``joint_names`` (each must be in the trajectory), in that order."""
        columns = [self.joint_names.index(name) for name in joint_names]
        return Trajectory(
            joint_names, self.times_ns, self.positions[:, columns].copy(), self.velocities[:, columns].copy(),
            None if self.efforts is None else self.efforts[:, columns].copy()
        )


@dataclass(frozen=True)
class Outcome:
    """What one turn led to.

    Attributes:
        reward: Weighted sum of ``kpi`` under the world's reward weights.
        terminated: The task ended: by success, by failure, or because the cell does not wait any longer.
        truncated: The episode was cut off by the turn limit; its value continues (bootstrapped in GAE).
        success: The task's success predicate, evaluated on the settled scene.
        episode: Episodes since the world started, from 0.
        turn: Turns in this episode, from 1.
        seed: Seed of the episode.
        kpi: Unweighted reward terms by name, e.g. ``progress``, ``success``, ``cycle_time``.
        expert_thought: What a scripted expert who knows the scene would have thought before this turn; a simulator
            says it, to check and correct thoughts, a cell leaves it empty.
        expert_action: The action of the same expert.
        scene: What was true before this turn, in the words of the thoughts; empty where nobody knows.
    """

    reward: float
    terminated: bool
    truncated: bool
    success: bool
    episode: int
    turn: int
    seed: int
    kpi: dict[str, float] = field(default_factory=dict)
    expert_thought: str = ''
    expert_action: str = ''
    scene: str = ''


@dataclass(frozen=True)
class EpisodeRequest:
    """Which episode a world shall start.

    Attributes:
        seed: Seed of everything that is random in the episode.
        task: Name of the task, e.g. ``place``.
        world: Name or path of a world file; empty for the one that the world was started with.
        split: What the episode may draw, e.g. ``unseen-wording``; empty for what training draws.
    """

    seed: int
    task: str
    world: str = ''
    split: str = ''
