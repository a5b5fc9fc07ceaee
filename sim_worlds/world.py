"""One simulated cell in lock step: it moves only while it carries out a trajectory, then shows what came of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.types import EpisodeRequest, Observation, Outcome, Trajectory

from .config import WorldConfig
from .expert import demonstrate
from .scene import FLAT, Conditions, Item, draw_conditions
from .simulation import PHYSICS_HZ, Simulation
from .splits import admits, check_split, wordings
from .statements import true_statements
from .tasks import TASKS, Goal, SceneState, Task, make_task
from .truth import SceneTruth
from .world_file import load_world

CONTROL_STEPS = 2  # physics steps per set-point: a 120 Hz joint controller
_WATCH_EVERY = 6  # set-points between two looks at contacts and the tool: 20 Hz
_SETTLE_STEPS = PHYSICS_HZ // 8
_DRAWS = 300  # scenes that are drawn for a split before it is given up
_OVER_STACK_M = 0.015  # a motion touches down if the tool comes as near as that to where cubes are stacked


class CellWorld:
    """A table-top cell with its tasks.

    The same seed and the same trajectories give the same observations, rewards and outcomes to the bit, in any
    process: every episode is rebuilt from nothing but its request.

    Args:
        world: Name or path of a world file, or its content.
        urdf: See Simulation.
    """

    def __init__(self, world: str | WorldConfig = 'panda_table', urdf: str = '') -> None:
        self._loaded: dict[str, tuple[WorldConfig, Cell]] = {}
        if isinstance(world, WorldConfig):
            self._loaded[world.name] = world, load_cell(world.cell)
            world = world.name
        self._default = world
        self.config, self.cell = self._load(world)
        self._simulation = Simulation(self.cell, urdf)
        self._steps = 0
        self._episode = -1
        self._motion: Iterator[None] | None = None
        self._set_points = 0
        self._forget_motion(moves=False)

    tasks = tuple(TASKS)

    def close(self) -> None:
        """Give the physics server back."""
        self._simulation.close()

    @property
    def time_ns(self) -> int:
        """Simulated time since construction in nanoseconds; monotonic, never rewound."""
        return self._steps * 1_000_000_000 // PHYSICS_HZ

    @property
    def ends_at_rest(self) -> bool:
        """Whether the episode ends with the first turn in which no motion is wanted."""
        return self._task.ends_at_rest

    def reset(self, request: EpisodeRequest) -> Observation:
        """Start an episode.

        Raises:
            UserError: The task, the split or the world file does not exist, or they do not fit together; the episode
                before goes on then.
        """
        task = make_task(request.task)
        check_split(request.split)
        config, cell = self._load(request.world or self._default)
        rng = np.random.Generator(np.random.PCG64([request.seed, zlib.crc32(request.task.encode())]))
        items, conditions, goal = _draw(task, config, request.split or task.default_split, rng)
        self._simulation.build(cell, items, conditions, config.appearance.floor)
        # Not earlier: a request that is refused leaves the episode as it is.
        self.config, self.cell, self._task, self._request = config, cell, task, request
        self._items, self._conditions, self._goal, self._noise = items, conditions, goal, rng
        self._turn_limit = config.turn_limits.get(request.task, config.turn_limit)
        self._weights = {**config.reward, **config.task_rewards.get(request.task, {})}
        self._motion = None
        self._episode += 1
        self._turn = 0
        self._precise: dict[float, float] = {}
        self._simulation.settle(_SETTLE_STEPS)
        self._steps += _SETTLE_STEPS
        self._state = self._scene_state()
        return self._observe()

    def execute(self, trajectory: Trajectory | None) -> tuple[Observation, Outcome]:
        """Carry out one turn to its end.

        Args:
            trajectory: The motion, or None for a turn in which nothing is wanted to move. What cannot be carried out is
                a motion that goes nowhere.

        Returns:
            The observation exposed after the motion, and the outcome that refers to it.
        """
        self.begin(trajectory)
        while self.advance():
            pass
        return self.finish()

    def begin(self, trajectory: Trajectory | None) -> None:
        """Accept a trajectory; ``advance`` then moves along it and ``finish`` ends the turn."""
        moves = trajectory is not None and len(trajectory.times_ns) > 0
        self.open_turn(moves)
        self._motion = self._move(trajectory) if trajectory is not None and moves else None

    def advance(self) -> bool:
        """Move for one set-point (CONTROL_STEPS physics steps); False once the motion has ended."""
        if self._motion is None:
            return False
        if next(self._motion, StopIteration) is StopIteration:
            self._motion = None
        return self._motion is not None

    def finish(self) -> tuple[Observation, Outcome]:
        """End the turn: expose an image of the settled scene and judge it."""
        outcome = self.judge()
        return self._observe(), outcome

    def open_turn(self, moves: bool) -> None:
        """Remember the scene before a turn, in which something moves or nothing does; ``judge`` compares with it."""
        truth = self.truth()
        self._shown, self._scene = demonstrate(truth), true_statements(truth)
        self._forget_motion(moves)
        self._started = self._steps

    def drive(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Let CONTROL_STEPS physics steps pass under set-points that come from elsewhere.

        Args:
            positions: (joints,) float64 of ``cell.robot.joints``, rad or m.
            velocities: (joints,) float64, rad/s or m/s.
        """
        self._simulation.command(positions, velocities)
        self._advance_physics(CONTROL_STEPS)
        self._set_points += 1
        if self._set_points % _WATCH_EVERY == 0:
            self._watch()

    def joint_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured positions and velocities of ``cell.robot.joints`` (rad, m and per second)."""
        return self._simulation.joint_state()

    def place_arm(self, arm: np.ndarray) -> None:
        """Put the arm to (arm joints,) rad, at rest: laying out new parts does not move a real one."""
        self._simulation.place_arm(arm)

    def judge(self) -> Outcome:
        """End the turn and say what came of it."""
        self._turn += 1
        moved_s = (self._steps - self._started) / PHYSICS_HZ
        before, self._state = self._state, self._scene_state()
        after, task, goal = self._state, self._task, self._goal
        reached, at_limit = task.success(goal, self._items, after), self._turn >= self._turn_limit
        over = task.failed(goal, after) or (self._touch is None or at_limit if task.ends_at_rest else reached)
        success = over and reached
        kpi = {
            'success': float(success),
            'progress': task.potential(goal, self._items, after) - task.potential(goal, self._items, before),
            'precision': self._precision(before),
            'wrong_object': float(task.wrong_object(goal, self._items, before, after)),
            'safety': float(self._collided),
            'cycle_time': moved_s,
            'cost': 1.0,
            **task.terms(goal, self._items, before, after, over),
        }
        reward = float(sum(weight * kpi.get(name, 0.0) for name, weight in self._weights.items()))
        return Outcome(reward, over, at_limit and not over, success, self._episode, self._turn, self._request.seed,
                       kpi, self._shown.thought, self._shown.action, self._scene)

    def _precision(self, before: SceneState) -> float:
        """How much more precise the turn was than the last one that began with as much done.

        A change, as progress is (potential-based shaping, Ng et al. 1999): what it earns in an episode is bounded by
        the steps that the task has. Repeating one, or undoing it and doing it again, earns nothing, and a miss costs
        what was earned.
        """
        scene = self._goal, self._items, before
        done = self._task.potential(*scene)
        last = self._precise.get(done, 0.0)
        self._precise[done] = self._task.precision(*scene, self._touch)
        return self._precise[done] - last

    def idle(self, seconds: float) -> Observation:
        """Let simulated time pass without a command (free run)."""
        self._advance_physics(max(1, round(seconds * PHYSICS_HZ)))
        self._state = self._scene_state()
        return self._observe()

    def observe(self) -> Observation:
        """An observation of this moment (free run, also while moving)."""
        return self._observe(latency=False)

    def truth(self) -> SceneTruth:
        """The true scene as of the last turn."""
        gripper = self.cell.gripper_state(self.cell.robot.joints, self._joints)
        return SceneTruth(self._task, self._goal, tuple(self._items), self._state, self.cell, gripper)

    def _load(self, world: str) -> tuple[WorldConfig, Cell]:
        if world not in self._loaded:
            config = load_world(world)
            self._loaded[world] = config, load_cell(config.cell)
        return self._loaded[world]

    def _move(self, trajectory: Trajectory) -> Iterator[None]:
        """Track the trajectory, then wait until the arm is at its last point and at rest, or the time limit."""
        motion, arm = self.cell.motion, len(self.cell.robot.arm_joints)
        self._advance_physics(round(self._conditions.command_latency_s * PHYSICS_HZ))
        columns = [self.cell.robot.joints.index(name) for name in trajectory.joint_names]
        target, _ = self._simulation.joint_state()
        rest = np.zeros(len(target))
        positions, velocities = _set_points(trajectory)
        for i, (position, velocity) in enumerate(zip(positions, velocities)):
            target[columns], rest[columns] = position, velocity
            self._simulation.command(target, rest)
            self._advance_physics(CONTROL_STEPS)
            if i % _WATCH_EVERY == 0:
                self._watch()
            yield
        self._simulation.command(target, np.zeros(len(target)))
        for i in range(round(motion.time_limit_s * PHYSICS_HZ / CONTROL_STEPS)):
            self._advance_physics(CONTROL_STEPS)
            measured, speed = self._simulation.joint_state()
            if i >= 2 and np.abs(measured - target)[:arm].max() < motion.settle_tolerance and (
                    np.abs(speed)[:arm].max() < motion.rest_velocity):
                return
            yield

    def _forget_motion(self, moves: bool) -> None:
        self._touch = np.full(2, np.inf) if moves else None
        self._lowest, self._collided = np.inf, False

    def _watch(self) -> None:
        tool, table = self._simulation.tool_position(), self.cell.workspace.table_z
        self._collided = self._collided or self._simulation.touches_table()
        if tool[2] < min(self._lowest, table + self.cell.motion.stack_height + _OVER_STACK_M):
            self._lowest, self._touch = tool[2], tool[:2].copy()

    def _advance_physics(self, steps: int) -> None:
        self._simulation.step(steps)
        self._steps += steps

    def _scene_state(self) -> SceneState:
        positions = np.array([self._simulation.position(i) for i in range(len(self._items))])
        held = next((i for i, item in enumerate(self._items)
                     if item.kind not in FLAT and self._simulation.grips(i)), None)
        return SceneState(positions, held, self.cell.workspace.table_z)

    def _observe(self, latency: bool = True) -> Observation:
        image = self._simulation.render(self._conditions, self.config.appearance.light_colour).astype(np.float32)
        image += self._noise.standard_normal(image.shape, dtype=np.float32) * np.float32(self._conditions.noise)
        self._joints, _ = self._simulation.joint_state()
        observation = Observation(np.clip(np.rint(image), 0, 255).astype(np.uint8), self.cell.robot.joints,
                                  self._joints, self._goal.text, self.time_ns)
        if latency:
            self._advance_physics(round(self._conditions.camera_latency_s * PHYSICS_HZ))
        return observation


def _draw(task: Task, config: WorldConfig, split: str, rng: np.random.Generator) -> tuple[list[Item], Conditions, Goal]:
    """Scene, conditions and goal, drawn until they belong to the split and something is left to do."""
    admitted = False
    for _ in range(_DRAWS):
        items = task.draw_items(config, rng)
        conditions = draw_conditions(config, rng)
        goal = task.draw_goal(items, wordings(task, split), rng)
        if admits(split, task.combinations(goal, items)):
            admitted = True
            if not _is_done(task, goal, items):
                return items, conditions, goal
    if admitted:
        raise UserError(f'{config.path or config.name}: every scene of task {task.name} has its goal reached when it '
                        'begins: enlarge objects.area_low … area_high, or make pad_size smaller')
    raise UserError(f'{config.path or config.name}: no scene of task {task.name} belongs to split {split}: add colours '
                    'to objects.palette, or choose another split')


def _is_done(task: Task, goal: Goal, items: list[Item]) -> bool:
    """Whether something was to be moved, and lies where it has to be already: a cube drawn on a pad."""
    laid_out = np.array([[*item.position, 0.0 if item.kind in FLAT else item.size / 2] for item in items])
    return bool(goal.assignments) and task.success(goal, items, SceneState(laid_out, None, 0.0))


def _set_points(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Cubic Hermite interpolation between the points, as joint_trajectory_controller does it with velocities.

    Returns:
        Positions and velocities, each (set-points, joints), one per control period, the last at the last point.
    """
    times = trajectory.times_ns.astype(np.float64) * 1e-9
    period = CONTROL_STEPS / PHYSICS_HZ
    wanted = np.minimum(np.arange(1, int(np.ceil(times[-1] / period)) + 1) * period, times[-1])
    if len(times) == 1 or len(wanted) == 0:
        return trajectory.positions[-1:], np.zeros_like(trajectory.positions[-1:])
    segment = np.clip(np.searchsorted(times, wanted, side='left') - 1, 0, len(times) - 2)
    span = (times[segment + 1] - times[segment])[:, None]
    s = (wanted - times[segment])[:, None] / span
    p0, p1 = trajectory.positions[segment], trajectory.positions[segment + 1]
    v0, v1 = trajectory.velocities[segment] * span, trajectory.velocities[segment + 1] * span
    positions = ((2 * s**3 - 3 * s**2 + 1) * p0 + (s**3 - 2 * s**2 + s) * v0 + (3 * s**2 - 2 * s**3) * p1
                 + (s**3 - s**2) * v1)
    velocities = ((6 * s**2 - 6 * s) * (p0 - p1) + (3 * s**2 - 4 * s + 1) * v0 + (3 * s**2 - 2 * s) * v1) / span
    return positions, velocities
