"""Part ``world``: the simulated cell against panda-gym's PickAndPlace and against itself with the stock meshes.

All run in one process each, one at a time, so that every figure is per core, with pictures of the same size from
TinyRenderer. Two things are counted:

- A **frame** is 0.04 simulated seconds of a pick-and-place motion and the picture after them: what a policy from pixels
  costs. 0.04 s is one control step of panda-gym (20 physics steps at 500 Hz, inverse kinematics) and five set-points of
  the cell (10 physics steps at 240 Hz). The cell's picture has its sensor noise; panda-gym's shows the whole arm and
  has shadows, which it always draws. ``frames.vs_stock_meshes`` is free of such differences: only the meshes differ.
- A **turn** is one whole motion of the arm, a pick or a place, and one picture at its end: what a policy that decides
  once per motion costs. Both play the episode of a pick and a place, reset included, for the same simulated seconds;
  the cell by its expert through its planner, panda-gym by a script. Three ratios: ``turns.vs_panda_gym`` where both
  draw one picture per turn, so that what differs is physics and resets; ``turns.vs_panda_gym_filmed`` where panda-gym
  draws one after each control step, as a loop of ``step`` and ``render`` does (its frames' time, times their number);
  and ``turns.vs_stock_meshes``.

``vs_panda_gym_64`` and ``vs_panda_gym_224`` are the ratios of the frames.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sim_worlds.bullet import pybullet_data
from sim_worlds.expert import demonstrate
from sim_worlds.world import CellWorld
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.types import EpisodeRequest, Trajectory

from .bench_setup import BenchSetup, PartResult
from .panda_gym_world import PandaGymWorld
from .sized_world import sized_world
from .timing import interleaved, ratio

SIZES = (64, 128, 224)
TARGETS = {64: 10.0, 224: 2.5}
_FRAME_SET_POINTS = 5
_SCALING_SIZE = 128


class FilmedCell:
    """The simulated cell with its expert.

    Args:
        world: World file.
        urdf: See Simulation.
    """

    def __init__(self, world: str, urdf: str = '') -> None:
        self._world = CellWorld(world, urdf)
        self._language, self._planner = SkillLanguage(self._world.cell.grid), SkillPlanner(self._world.cell)

    def close(self) -> None:
        """Give the physics server back."""
        self._world.close()

    def film(self, seed: int) -> Iterator[np.ndarray]:
        """Pictures (size, size, 3) uint8 of episodes without end, one after every 0.04 s of motion."""
        while True:
            for trajectory in self._episode(seed):
                self._world.begin(trajectory)
                moving = True
                while moving:
                    moving = all(self._world.advance() for _ in range(_FRAME_SET_POINTS))
                    yield self._world.observe().image
                self._ended = self._world.finish()
            seed += 1

    def episode(self, seed: int) -> tuple[int, float]:
        """Play an episode.

        Returns:
            Its turns, and the simulated seconds that they took.
        """
        turns, started = 0, None
        for trajectory in self._episode(seed):
            started = self._world.time_ns if started is None else started
            self._ended = self._world.execute(trajectory)
            turns += 1
        assert started is not None
        return turns, (self._world.time_ns - started) * 1e-9

    def _episode(self, seed: int) -> Iterator[Trajectory | None]:
        """The expert's motions in an episode; whoever takes one carries it out and leaves what came of it."""
        observation, over = self._world.reset(EpisodeRequest(seed, 'place')), False
        while not over:
            command = self._language.parse(demonstrate(self._world.truth()).action)
            yield self._planner.plan(command, observation.joint_names, observation.joint_positions)
            observation, outcome = self._ended
            over = outcome.terminated or outcome.truncated


def stock_urdf() -> str:
    """The Panda as pybullet_data has it, with the visual meshes of its maker."""
    return str(Path(pybullet_data.getDataPath()) / 'franka_panda' / 'panda.urdf')


def run(setup: BenchSetup) -> PartResult:
    """Measure frames, turns and processes.

    Raises:
        UserError: panda-gym is not installed.
    """
    folder = setup.folder / 'world'
    found = PartResult()
    for size in TARGETS if setup.quick else SIZES:
        found.figures[str(size)] = figures = _compare(setup, size, folder)
        frames, turns = figures['frames'], figures['turns']
        target = f'≥ {TARGETS[size]:g}' if size in TARGETS else ''
        found.rows += [
            (f'frames at {size}², cell : panda-gym', _times(frames, 'panda_gym'), target),
            (f'frames at {size}², cell : stock meshes', _times(frames, 'stock_meshes'), ''),
            (f'turns at {size}², cell : panda-gym filmed', _times(turns, 'panda_gym_filmed'), ''),
            (f'turns at {size}², cell : panda-gym, one picture each', _times(turns, 'panda_gym'), ''),
            (f'turns at {size}², cell : stock meshes', _times(turns, 'stock_meshes'), '')]
    for size in TARGETS:
        found.figures[f'vs_panda_gym_{size}'] = found.figures[str(size)]['frames']['vs_panda_gym']
    found.figures['processes'] = processes = _scale(setup, folder)
    found.rows.append((f'turns at {_SCALING_SIZE}² in 2 processes : in 1',
                       f'{processes["scaling"]:.2f} ({processes["turns_per_second"]["2"]:.1f} : '
                       f'{processes["turns_per_second"]["1"]:.1f} per s)', ''))
    return found


def _times(figures: dict[str, Any], other: str) -> str:
    speeds = figures['per_second']
    return f'{figures[f"vs_{other}"]:.2f} ({speeds["cell"]:.1f} : {speeds[other]:.1f} per s)'


def _compare(setup: BenchSetup, size: int, folder: Path) -> dict[str, Any]:
    """Frames and turns of the three worlds at one size of picture."""
    world = sized_world(size, folder)
    cells = {'cell': FilmedCell(world), 'stock_meshes': FilmedCell(world, stock_urdf())}
    gym = PandaGymWorld(size)
    try:
        frames = _frames(setup, cells, gym)
        turns = _turns(setup, cells, gym, median(frames.pop('seconds')['panda_gym']))
    finally:
        for cell in cells.values():
            cell.close()
        gym.close()
    return {'frames': frames, 'turns': turns}


def _frames(setup: BenchSetup, cells: dict[str, FilmedCell], gym: PandaGymWorld) -> dict[str, Any]:
    count = 2 if setup.quick else 6
    films = {name: cell.film(setup.seed) for name, cell in cells.items()} | {'panda_gym': gym.film(setup.seed)}

    def show(film: Iterator[np.ndarray]) -> None:
        for _ in range(count):
            next(film)

    rounds = interleaved({name: functools.partial(show, film) for name, film in films.items()}, setup.repeats)
    seconds = {name: [taken / count for taken in values] for name, values in rounds.items()}
    return {'per_second': {name: 1.0 / median(values) for name, values in seconds.items()},
            'vs_panda_gym': ratio(seconds['panda_gym'], seconds['cell']),
            'vs_stock_meshes': ratio(seconds['stock_meshes'], seconds['cell']), 'seconds': seconds}


def _turns(setup: BenchSetup, cells: dict[str, FilmedCell], gym: PandaGymWorld, gym_frame_s: float) -> dict[str, Any]:
    """Turns per second; every round plays the episode of another seed, which is the same for all."""
    played = [cells['cell'].episode(setup.seed + number) for number in range(1 + setup.repeats)]
    seeds = {name: itertools.count(setup.seed) for name in (*cells, 'panda_gym')}

    def play(name: str) -> None:
        seed = next(seeds[name])
        if name in cells:
            cells[name].episode(seed)
        else:
            gym.episode(seed, *played[seed - setup.seed])

    taken = interleaved({name: functools.partial(play, name) for name in seeds}, setup.repeats)
    seconds = {name: [s / turns for s, (turns, _) in zip(values, played[1:])] for name, values in taken.items()}
    seconds['panda_gym_filmed'] = [gym_frame_s * moved / gym.step_s / turns for turns, moved in played[1:]]
    figures: dict[str, Any] = {'per_second': {name: 1.0 / median(values) for name, values in seconds.items()},
                               'simulated_s': median(moved / turns for turns, moved in played[1:])}
    return figures | {f'vs_{name}': ratio(values, seconds['cell']) for name, values in seconds.items()
                      if name != 'cell'}


def _scale(setup: BenchSetup, folder: Path) -> dict[str, Any]:
    """Turns per second of one and of two processes with a world each."""
    episodes = range(setup.seed, setup.seed + (1 if setup.quick else 2))
    world = sized_world(_SCALING_SIZE, folder)  # once: a process could read what another is just writing
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool:
        turns = sum(pool.map(_play, [episodes] * 2, [world] * 2)) // 2  # both load what they need

        def work(processes: int) -> None:
            assert sum(pool.map(_play, [episodes] * processes, [world] * processes)) == turns * processes

        taken = interleaved({'1': lambda: work(1), '2': lambda: work(2)}, setup.repeats)
    speeds = {name: int(name) * turns / median(values) for name, values in taken.items()}
    return {'turns_per_second': speeds, 'scaling': 2.0 / ratio(taken['2'], taken['1'])}


_own_cell = functools.cache(FilmedCell)


def _play(seeds: range, world: str) -> int:
    """In a process of its own: turns of these episodes."""
    return sum(_own_cell(world).episode(seed)[0] for seed in seeds)
