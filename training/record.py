"""``vlm-agent record``: the scripted expert's decisions in simulated episodes as a dataset for ``sft``."""

from __future__ import annotations

import argparse
import dataclasses
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_worlds.config import load_world
from sim_worlds.expert import demonstrate, projected
from sim_worlds.tasks import make_task
from sim_worlds.world import CellWorld
from training.dataset import DemonstrationDataset
from vlm_agent_ros.actions import ActionError, SkillLanguage
from vlm_agent_ros.motion import MotionError, SkillPlanner
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.types import EpisodeRequest, Observation, Trajectory

_SLOTS = 12  # objects per scene at most
_CHUNK = 250  # episodes per unit of work


@dataclass(frozen=True)
class Recording:
    """What to record.

    Attributes:
        world: World file.
        model: Models file, whose prompt template is used.
        tasks: Tasks, in turn.
        scenes: Number of episodes of which only the first decision is recorded; nothing moves, so they are cheap.
        episodes: Number of episodes played to the end.
        mistakes: Share of turns in full episodes whose *executed* action is spoilt, so that the expert also shows
            how it recovers; the recorded action is always the expert's.
        seed: First episode seed.
        noise: Keep the world's sensor noise in the images; sft draws its own in every epoch, and images without
            it are stored in a tenth of the space.
    """

    world: str
    model: str
    tasks: tuple[str, ...]
    scenes: int
    episodes: int
    mistakes: float
    seed: int
    noise: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--out', type=Path, default=Path('data/demonstrations.npz'), help='file to write')
    parser.add_argument('--world', default='panda_table', help='world file, by name or path')
    parser.add_argument('--model', default='tiny_vlm', help='models file whose prompt template is used')
    parser.add_argument('--tasks', nargs='+', default=['place', 'pick', 'place'], help='tasks, in turn')
    parser.add_argument('--scenes', type=int, default=40_000, help='episodes of which only the first decision is kept')
    parser.add_argument('--episodes', type=int, default=4_000, help='episodes played to the end')
    parser.add_argument('--mistakes', type=float, default=0.2, help='share of spoilt turns in full episodes')
    parser.add_argument('--seed', type=int, default=1_000_000_000, help='first episode seed')
    parser.add_argument('--noise', action='store_true', help="keep the world's sensor noise (sft adds its own)")
    parser.add_argument('--workers', type=int, default=2, help='processes')


def run(args: argparse.Namespace) -> None:
    """Record and write the file.

    Raises:
        UserError: A task, world or model does not exist, or the file cannot be written.
    """
    load_world(args.world)
    for task in args.tasks:
        make_task(task)
    recording = Recording(args.world, args.model, tuple(args.tasks), args.scenes, args.episodes, args.mistakes,
                          args.seed, args.noise)
    total = args.scenes + args.episodes
    chunks = [(recording, start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
    parts = []
    with ProcessPoolExecutor(args.workers) as pool:
        for part in pool.map(_record, chunks):
            parts.append(part)
            print(f'{sum(map(len, parts))} decisions of {min(len(parts) * _CHUNK, total)}/{total} episodes', flush=True)
    dataset = DemonstrationDataset.concatenate(parts)
    dataset.save(args.out)
    print(f'{args.out}: {len(dataset)} decisions')


def _record(work: tuple[Recording, int, int]) -> DemonstrationDataset:
    """Episodes ``start`` to ``end`` of a recording, in one process."""
    recording, start, end = work
    config = load_world(recording.world)
    if not recording.noise:
        config = dataclasses.replace(config, appearance=dataclasses.replace(config.appearance, noise=(0.0, 0.0)))
    world = CellWorld(config)
    recorder = _Recorder(world, recording)
    for index in range(start, end):
        task = recording.tasks[index % len(recording.tasks)]
        recorder.episode(index, EpisodeRequest(recording.seed + index, task), whole=index >= recording.scenes)
    world.close()
    return recorder.dataset()


class _Recorder:
    def __init__(self, world: CellWorld, recording: Recording) -> None:
        self._world, self._recording = world, recording
        self._language = SkillLanguage(world.cell.grid)
        self._planner = SkillPlanner(world.cell)
        self._prompt = load_model_config(recording.model).prompt
        colours = sorted(world.config.objects.palette)
        self._classes = [f'{colour} {kind}' for kind in ('cube', 'pad') for colour in colours]
        self._classes += ['grey cylinder', 'white tray']
        self._rows: list[tuple] = []

    def episode(self, index: int, request: EpisodeRequest, *, whole: bool) -> None:
        """Record an episode: its first decision, or all of them."""
        observation = self._world.reset(request)
        rng = np.random.default_rng([request.seed, 1])
        while True:
            shown = demonstrate(self._world.truth())
            state = self._world.cell.gripper_state(observation.joint_names, observation.joint_positions)
            prompt = self._prompt.render(observation.task, state, self._language)
            self._rows.append((observation.image, prompt, shown.thought, shown.action, self._objects(), index))
            if not whole:
                return
            action = self._spoil(shown.action, rng) if rng.random() < self._recording.mistakes else shown.action
            observation, outcome = self._world.execute(self._plan(action, observation))
            if outcome.terminated or outcome.truncated:
                return

    def _plan(self, action: str, observation: Observation) -> Trajectory | None:
        try:
            command = self._language.parse(action)
            return self._planner.plan(command, observation.joint_names, observation.joint_positions)
        except (ActionError, MotionError):
            return None

    def _spoil(self, action: str, rng: np.random.Generator) -> str:
        """The action aimed at another item, or a few cells off."""
        # Where nothing is left to do there is nothing to miss, but something to disturb.
        skill, *cell = ('pick',) if action == 'done' else action.split()
        if not cell or rng.random() < 0.5:
            truth = self._world.truth()
            column, row = truth.cell.point_to_cell(truth.state.positions[rng.integers(len(truth.items))])
        else:
            last = self._world.cell.grid - 1
            column, row = (int(np.clip(int(c) + rng.integers(-6, 7), 0, last)) for c in cell)
        return f'{skill} {column:02d} {row:02d}'

    def _objects(self) -> np.ndarray:
        """(_SLOTS, 4) float32: class, column, row, visible of the items on the table."""
        truth = self._world.truth()
        rows = np.full((_SLOTS, 4), -1.0, np.float32)
        for i, item in enumerate(truth.items):
            column, row = projected(truth, i)
            inside = 0.0 <= column < truth.cell.grid and 0.0 <= row < truth.cell.grid
            if i != truth.state.held and inside:
                rows[i] = (self._classes.index(item.name), column, row, 1.0)
        return rows

    def dataset(self) -> DemonstrationDataset:
        images, prompts, thoughts, actions, objects, episodes = zip(*self._rows)
        return DemonstrationDataset(
            images=np.stack(images), prompts=np.array(prompts), thoughts=np.array(thoughts), actions=np.array(actions),
            objects=np.stack(objects), episodes=np.array(episodes, np.int64), classes=np.array(self._classes),
            grid=self._world.cell.grid)
