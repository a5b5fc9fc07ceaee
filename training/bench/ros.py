"""Part ``ros``: what a turn through ROS costs, with no model anywhere.

- ``overhead_ms_p50``: one world process through its topics (``RosWorlds``: commands, outcome, image, joint states and
  the chain of thought) against the same world in this process. Both carry out the same commands in the same episodes;
  the two times of a turn are measured one right after the other, and the figure is the median of their differences.
  The commands have as many points as a pick has, all where the arm is: what a turn costs in messages does not depend
  on how long the arm moves, while the noise of seconds of physics would be larger than what is looked for.
- ``moving_turns``: the same with a whole pick at a cell that is drawn, on a quiet machine the same difference.
- ``vs_pingpong``: ``overhead_ms_p50`` over the median round trip of a bare ping-pong of the same image and trajectory.
- ``image_to_proposal_ms_p50``: from the publication of an image to the agent's proposal, without its inference.

Images are 224².
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.motion import MotionError, SkillPlanner
from vlm_agent_ros.types import EpisodeRequest, Observation, Trajectory

from ..worlds.cell_worlds import InProcessWorlds
from ..worlds.pool import WorldPool
from ..worlds.transport import prepare
from .bench_setup import BenchSetup, PartResult
from .sized_world import sized_world

SIZE = 224
_WARM_UP = 3
_HELD_NS = 8_000_000  # within one set-point


def run(setup: BenchSetup) -> PartResult:
    """Measure turns, round trips and the agent's node.

    Raises:
        UserError: ROS is not installed, or a process does not come up.
    """
    prepare('ros')
    from ..worlds.ros_worlds import RosWorlds
    from .ping_pong import PingPong
    from .proposal_latency import image_to_proposal

    folder = setup.folder / 'ros'
    world = sized_world(SIZE, folder)
    cell = load_cell(str(folder.absolute() / f'cell_{SIZE}.yaml'))
    planner = SkillPlanner(cell)
    turns = setup.repeats * (1 if setup.quick else 10)
    pools: list[WorldPool] = [RosWorlds(1, world, logs=folder), InProcessWorlds(1, world)]
    try:
        moving = _turns(pools, planner, setup.seed, turns, held=False)
        still = _turns(pools, planner, setup.seed, 4 * turns, held=True)
    finally:
        for pool in pools:
            pool.close()
    ping_pong = PingPong(SIZE, _motion(planner, _home(cell), np.random.default_rng(setup.seed)), folder)
    try:
        trips = [_seconds(ping_pong.round_trip) for _ in range(_WARM_UP + 5 * turns)][_WARM_UP:]
    finally:
        ping_pong.close()
    overhead, moved, trip = (1e3 * median(values) for values in (
        [ros - own for ros, own in still], [ros - own for ros, own in moving], trips))
    turn = {name: 1e3 * median(pair[index] for pair in moving) for index, name in enumerate(('ros', 'in_process'))}
    latency = image_to_proposal(setup, SIZE, 3 if setup.quick else 20)
    return PartResult({
        'overhead_ms_p50': overhead, 'vs_pingpong': overhead / trip, 'pingpong_ms_p50': trip,
        'image_to_proposal_ms_p50': latency, 'moving_turns': {'overhead_ms_p50': moved, 'turn_ms_p50': turn},
    }, [
        ('overhead per turn, p50', f'{overhead:.2f} ms', '≤ 3 ms'),
        ('overhead per turn : bare ping-pong', f'{overhead / trip:.2f} ({overhead:.2f} : {trip:.2f} ms)', '≤ 1.5'),
        ('overhead of a whole pick, p50', f'{moved:.2f} ms ({turn["ros"]:.0f} − {turn["in_process"]:.0f} ms)', ''),
        ('image to proposal without inference, p50', f'{latency:.1f} ms', '')])


def _turns(pools: Sequence[WorldPool], planner: SkillPlanner, seed: int, count: int, held: bool
           ) -> list[tuple[float, float]]:
    """Seconds of the same turns in each pool."""
    rng, seconds = np.random.default_rng(seed), []
    turn, limit = 0, 0
    for number in range(_WARM_UP + count):
        if turn >= limit:
            turn, limit = 0, 3  # one below the episode's limit
            for pool in pools:
                pool.reset({0: EpisodeRequest(seed + number, 'pick')})
            observations = [pool.collect([0])[0][0] for pool in pools]
        motion = _motion(planner, observations[0], rng)
        command = _held(motion, observations[0]) if held else motion
        taken = [0.0, 0.0]
        for index in ((0, 1), (1, 0))[number % 2]:
            started = time.perf_counter()
            observations[index] = _play(pools[index], command)
            taken[index] = time.perf_counter() - started
        assert np.array_equal(observations[0].image, observations[1].image), 'the worlds went different ways'
        turn += 1
        seconds.append((taken[0], taken[1]))
    return seconds[_WARM_UP:]


def _play(pool: WorldPool, command: Trajectory) -> Observation:
    """One turn, as the trainer plays it."""
    pool.execute({0: command})
    pool.report(0, CotReport(task='pick the red cube', thought='red cube at 24 24 , gripper open , so pick 24 24',
                             action='pick 24 24', text='', logprob=-1.0, value=0.5, latency_ms=1.0, checkpoint='none',
                             image_age_ms=0.0))
    observation: Observation = pool.collect([0])[0][0]
    return observation


def _motion(planner: SkillPlanner, observation: Observation, rng: np.random.Generator) -> Trajectory:
    """A pick at a cell near the middle that the arm reaches, whether or not something is there."""
    middle, reach = planner.cell.grid // 2, planner.cell.grid // 5
    while True:
        column, row = (middle + int(offset) for offset in rng.integers(-reach, reach, 2))
        try:
            trajectory = planner.plan(Pick(column, row), observation.joint_names, observation.joint_positions)
        except MotionError:
            continue
        assert trajectory is not None
        return trajectory


def _held(motion: Trajectory, observation: Observation) -> Trajectory:
    """As many points as a motion has, all where the arm is."""
    return replace(motion, times_ns=np.linspace(0, _HELD_NS, len(motion.times_ns)).astype(np.int64),
                   positions=np.tile(observation.joint_positions, (len(motion.times_ns), 1)),
                   velocities=np.zeros_like(motion.velocities))


def _home(cell: Cell) -> Observation:
    robot, camera = cell.robot, cell.camera
    positions = np.array([*robot.home, *[robot.gripper_open] * len(robot.gripper_joints)])
    return Observation(np.zeros((camera.height, camera.width, 3), np.uint8), robot.joints, positions, '', 0)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
