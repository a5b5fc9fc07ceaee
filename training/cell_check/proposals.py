"""Proposals of every kind for the rules: legal motions close to a limit, absurd ones, and broken messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm_agent_ros.cell import Cell
from vlm_agent_ros.limits import MAX_AHEAD_S
from vlm_agent_ros.motion import Kinematics, MotionError
from vlm_agent_ros.safety import Ages
from vlm_agent_ros.types import Trajectory

NEAR = ('speed', 'border', 'return', 'swing', 'start', 'position', 'gripper', 'age')
"""Kinds that are legal or nearly so: a proposal that is refused for being absurd says nothing about the limits."""
FAR = ('random', 'broken', 'folded')
FRESH = Ages(image_s=0.1, joint_s=0.01, task_s=1.0, proposal_s=0.0, since_last_s=1.0)
"""Of every proposal that is not about an age."""
_NEAR_SHARE = 0.6
_POOL = 40  # arm positions at the border of the workspace, by inverse kinematics
_ATTEMPTS = 5


@dataclass(frozen=True)
class Measured:
    """Where the robot is thought to be."""

    joint_names: tuple[str, ...]
    joint_positions: np.ndarray


@dataclass(frozen=True)
class Proposal:
    """What is put to the rules.

    Attributes:
        kind: Which limit it is about; see the methods of ``Proposals``.
        trajectory: The proposal.
        measured: Arm, then gripper.
        ages: How old everything is.
    """

    kind: str
    trajectory: Trajectory
    measured: Measured
    ages: Ages


class Proposals:
    """An endless source of proposals, the same for the same seed.

    Args:
        cell: The cell that they are for.
        kinematics: Of the same cell.
        seed: Anything that numpy takes as a seed.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics, seed: Any) -> None:
        self._cell, self._kinematics = cell, kinematics
        self._rng = np.random.default_rng(seed)
        self._robot, self._arm = cell.robot, len(cell.robot.arm_joints)
        self._velocity = np.array(cell.robot.max_velocity) * (1 + cell.safety.velocity_tolerance)
        self._acceleration = np.array(cell.robot.max_acceleration) * (1 + cell.safety.acceleration_tolerance)
        self._home = np.array([*cell.robot.home, cell.robot.gripper_open])
        self._pool = self._border_pool()
        self._kinds = {'speed': self._speed, 'border': self._border, 'return': self._return, 'swing': self._swing,
                       'start': self._start, 'position': self._position, 'gripper': self._gripper, 'age': self._speed,
                       'random': self._anything, 'broken': self._broken, 'folded': self._folded}

    def __iter__(self) -> Iterator[Proposal]:
        while True:
            kind = str(self._rng.choice(NEAR if self._rng.random() < _NEAR_SHARE else FAR))
            start = self._somewhere()
            trajectory, ages = self._kinds[kind](start), FRESH
            if kind == 'age':
                ages = self._old(ages)
            measured = start
            if kind == 'start':
                measured = start + self._near(np.full(len(start), self._cell.safety.max_start_error)) \
                    * (self._rng.random(len(start)) < 0.2)
            if kind != 'broken' and self._rng.random() < 0.2:
                part = self._robot.arm_joints if self._rng.random() < 0.7 else self._robot.gripper_joints
                trajectory = trajectory.select(part)
            yield Proposal(kind, trajectory, Measured(self._robot.joints, measured), ages)

    # --- near a limit -------------------------------------------------------------------------------------------

    def _speed(self, start: np.ndarray) -> Trajectory:
        """As fast as allowed, give or take a tenth."""
        return self._move(start, self._beside(start, self._rng.choice([0.02, 0.1, 0.4])))

    def _border(self, start: np.ndarray) -> Trajectory:
        """To the border of the workspace, of the table or of a keep-out box."""
        goal = self._pool[self._rng.integers(len(self._pool))]
        return self._move(start, np.append(goal, start[self._arm:]), self._rng.uniform(0.98, 4.0))

    def _return(self, start: np.ndarray) -> Trajectory:
        """Home, also from a little outside of where the arm may be, and not always straight."""
        home = self._beside(self._home, 0.1)
        move = self._move(start, home, self._rng.uniform(0.98, 4.0))
        way = self._rng.normal(0.0, self._rng.choice([0.0, 0.003, 0.03]), move.positions[:-1].shape)
        positions = move.positions.copy()
        positions[1:-1] += way[1:]
        return replace(move, positions=positions)

    def _swing(self, start: np.ndarray) -> Trajectory:
        """With a velocity field that bends the way between the points."""
        move = self._move(start, self._beside(start, 0.1), self._rng.uniform(1.0, 3.0))
        bend = self._rng.normal(0.0, 0.3, move.velocities.shape) * self._velocity
        return replace(move, velocities=move.velocities + bend * (self._rng.random(move.velocities.shape) < 0.2))

    def _start(self, start: np.ndarray) -> Trajectory:
        """With time to get to a first point that is as far as allowed."""
        move = self._move(start, self._beside(start, 0.1), 1.5)
        wait_ns = int(self._rng.choice([0, 20, 200, 1000])) * 1_000_000
        return replace(move, times_ns=move.times_ns + wait_ns)

    def _position(self, start: np.ndarray) -> Trajectory:
        """One joint to its limit."""
        joint, goal = self._rng.integers(self._arm), start.copy()
        upper = self._rng.random() < 0.5
        goal[joint] = (self._kinematics.upper if upper else self._kinematics.lower)[joint] \
            + self._rng.choice([1e-9, 1e-5, 1e-3, 0.02]) * self._rng.choice([-1, 1])
        return self._move(start, goal, self._rng.uniform(1.0, 3.0))

    def _gripper(self, start: np.ndarray) -> Trajectory:
        """Wider, closer or with more force than allowed, or nearly."""
        goal, limit = start.copy(), self._kinematics.max_effort[-1]
        ends = np.array([self._kinematics.lower[-1], self._kinematics.upper[-1]])
        goal[-1] = self._rng.choice(ends) + self._near(np.array([1e-3]))[0] * self._rng.choice([-1, 0, 1])
        move = self._move(start, goal, self._rng.uniform(0.9, 3.0))
        force = self._cell.safety.max_gripper_force or limit
        efforts = np.zeros_like(move.positions)
        efforts[:, -1] = self._near(np.array([force]))[0]
        if self._rng.random() < 0.1:
            efforts[:, self._rng.integers(self._arm)] = 1e-3
        return replace(move, efforts=efforts)

    def _old(self, ages: Ages) -> Ages:
        safety = self._cell.safety
        limits = {'image_s': safety.max_image_age_s, 'joint_s': safety.max_joint_age_s, 'task_s': safety.max_task_age_s,
                  'proposal_s': safety.max_proposal_age_s, 'since_last_s': 1.0 / safety.max_rate_hz}
        name = str(self._rng.choice(list(limits)))
        near, ahead = self._near(np.array([limits[name], MAX_AHEAD_S]))
        age_s = self._rng.choice([near, -ahead, np.nan, np.inf, -1e9], p=[0.5, 0.2, 0.1, 0.1, 0.1])
        return replace(ages, **{name: float(age_s)})

    # --- far from it --------------------------------------------------------------------------------------------

    def _anything(self, start: np.ndarray) -> Trajectory:
        points = int(self._rng.integers(1, 8))
        shape, scale = (points, len(start)), 10.0 ** self._rng.uniform(-3, 1)
        return Trajectory(self._robot.joints, np.cumsum(self._rng.integers(1, 2**30, points)),
                          start + self._rng.normal(0.0, scale, shape), self._rng.normal(0.0, scale, shape))

    def _broken(self, start: np.ndarray) -> Trajectory:
        """A legal motion with one thing wrong."""
        rng, move = self._rng, self._move(start, self._beside(start, 0.1), 2.0)
        points, joints = move.positions.shape
        fields = {'positions': move.positions.copy(), 'velocities': move.velocities.copy()}
        number = rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 1e-300, 1e3])
        fields[str(rng.choice(list(fields)))][rng.integers(points), rng.integers(joints)] = number
        huge = np.iinfo(np.int64)
        return rng.choice(np.array([
            replace(move, **fields), replace(move, times_ns=move.times_ns[::-1].copy()),
            replace(move, times_ns=np.zeros_like(move.times_ns)), replace(move, times_ns=move.times_ns - 1),
            replace(move, times_ns=np.where(np.arange(points) == points - 1, rng.choice([huge.max, huge.min]),
                                            move.times_ns)),
            replace(move, times_ns=np.zeros(0, np.int64), positions=np.zeros((0, joints)),
                    velocities=np.zeros((0, joints))),
            replace(move, velocities=np.zeros((0, 0))), replace(move, positions=move.positions[:, :-1]),
            replace(move, joint_names=('elbow', *move.joint_names[1:])),
            replace(move, joint_names=(move.joint_names[1], *move.joint_names[1:])),
            replace(move, joint_names=move.joint_names[::-1]), replace(move, joint_names=())], dtype=object))

    def _folded(self, start: np.ndarray) -> Trajectory:
        """To anywhere within the joint limits, the links through each other and the table."""
        goal = self._rng.uniform(self._kinematics.lower, self._kinematics.upper)
        return self._move(start, start + (goal - start) * self._rng.choice([0.3, 1.0]), 1.5)

    # --- parts --------------------------------------------------------------------------------------------------

    def _move(self, start: np.ndarray, goal: np.ndarray, slower: float | None = None) -> Trajectory:
        """From rest to rest through 2 to 6 points, in ``slower`` times the shortest time that the limits allow."""
        way = goal - start
        shortest_s = max(np.max(1.5 * np.abs(way) / self._velocity),
                         np.max(np.sqrt(6 * np.abs(way) / self._acceleration)), 1e-3)
        seconds = shortest_s * (slower or self._rng.uniform(0.9, 1.1))
        share = np.linspace(0.0, 1.0, int(self._rng.choice([2, 3, 6])))
        s = share[:, None]
        return Trajectory(self._robot.joints, np.round(share * seconds * 1e9).astype(np.int64),
                          start + way * (3 * s**2 - 2 * s**3), way * 6 * s * (1 - s) / seconds)

    def _near(self, limit: np.ndarray) -> np.ndarray:
        """About a limit, from both sides, at distances of every size."""
        share = 10.0 ** self._rng.uniform(-7, -0.5, len(limit)) * self._rng.choice([-1, 1], len(limit))
        return limit * (1.0 + share)

    def _beside(self, start: np.ndarray, size: float) -> np.ndarray:
        goal = start + self._rng.normal(0.0, size, len(start)) * (self._rng.random(len(start)) < 0.5)
        goal[-1] = np.clip(goal[-1], self._kinematics.lower[-1], self._kinematics.upper[-1])
        return goal

    def _somewhere(self) -> np.ndarray:
        low, high = self._kinematics.lower[-1], self._kinematics.upper[-1]
        gripper = np.array([self._rng.uniform(low, high)])
        if self._rng.random() < 0.3:
            return np.append(self._pool[self._rng.integers(len(self._pool))], gripper)
        return np.append(self._home[:self._arm] + self._rng.normal(0.0, 0.1, self._arm), gripper)

    def _border_pool(self) -> np.ndarray:
        """(positions, arm joints) with the tool near a face of the workspace or of a keep-out box."""
        workspace, pool = self._cell.workspace, list[np.ndarray]()
        boxes = [(np.array(low), np.array(high)) for low, high in (
            (workspace.low, workspace.high), *((box.low, box.high) for box in workspace.keep_out))]
        for _ in range(_ATTEMPTS * _POOL):
            if len(pool) == _POOL:
                break
            low, high = boxes[self._rng.integers(len(boxes))]
            point, axis = self._rng.uniform(low, high), self._rng.integers(3)
            point[axis] = self._rng.choice([low, high])[axis] + self._rng.normal(0.0, 3e-3)
            tilt = self._rng.choice([0.0, 0.8])
            turn = np.array([[np.cos(tilt), 0.0, -np.sin(tilt)], [0.0, 1.0, 0.0], [np.sin(tilt), 0.0, np.cos(tilt)]])
            try:
                pool.append(self._kinematics.inverse(point, np.diag([1.0, -1.0, -1.0]) @ turn, self._home[:self._arm]))
            except MotionError:
                continue
        return np.array(pool or [self._home[:self._arm]])

