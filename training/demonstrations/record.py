"""``vlm-agent record``: the scripted expert's decisions in simulated episodes as a dataset for ``sft``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_worlds.config import WorldConfig
from sim_worlds.expert import demonstrate, projected
from sim_worlds.tasks import make_task
from sim_worlds.truth import SceneTruth
from sim_worlds.world import CellWorld
from sim_worlds.world_file import load_world
from training.demonstrations.dataset_schema import DatasetInfo, DemonstrationRow, EpisodeOutcome, ObjectLabel
from training.demonstrations.dataset_writer import DatasetWriter
from training.demonstrations.rare_events import PastTurn, rare_events
from vlm_agent_ros import __version__
from vlm_agent_ros.actions import ActionError, SkillLanguage
from vlm_agent_ros.bundle import sha256_of
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.config import find_config
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import MotionError, SkillPlanner
from vlm_agent_ros.nodes.process import end_with_parent
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.types import EpisodeRequest, Observation, Trajectory

_SHARD = 500  # episodes per file, which is the unit of work


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
    parser.add_argument('--from-cell', nargs='+', type=Path, metavar='LOG', help='record what operators corrected and '
                        'approved, from audit logs of a cell (files or folders); only --out, --model and --cell are '
                        'used then')
    parser.add_argument('--cell', default='', help='cell file of the cell that was logged (--from-cell; default: '
                        'as the log says)')
    parser.add_argument('--out', type=Path, default=Path('data/demonstrations'), help='folder to write; the same '
                        'command continues a recording that was cut off')
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
    """Record and write the dataset.

    Raises:
        UserError: A task, world or model does not exist, or the folder cannot be written to or holds something else.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    if args.from_cell:
        from ..from_cell.record import record_from_cell

        print(record_from_cell(args.from_cell, args.out.expanduser(), args.cell, args.model))
        return
    for name, low in (('scenes', 0), ('episodes', 0), ('workers', 1)):
        if getattr(args, name) < low:
            raise UserError(f'--{name} is {getattr(args, name)}, but must be at least {low}')
    if not args.scenes + args.episodes:
        raise UserError('--scenes and --episodes are both 0: there is nothing to record')
    load_world(args.world)
    for task in args.tasks:
        make_task(task)
    load_model_config(args.model)
    recording = Recording(args.world, args.model, tuple(args.tasks), args.scenes, args.episodes, args.mistakes,
                          args.seed, args.noise)
    total = args.scenes + args.episodes
    writer = DatasetWriter(args.out.expanduser(), _info(recording), -(-total // _SHARD))
    missing = writer.missing()
    done = writer.shards - len(missing)
    if done:
        print(f'{args.out}: {done} of {writer.shards} shards are there', flush=True)
    try:
        with ProcessPoolExecutor(args.workers, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
            try:
                for decisions in pool.map(_record, [(recording, writer, shard) for shard in missing]):
                    done += 1
                    print(f'{min(done * _SHARD, total)} of {total} episodes, {decisions} decisions in the latest shard',
                          flush=True)
            finally:
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        raise UserError('a recording process was killed (out of memory?): the same command goes on') from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt('stopped: the same command continues with the next shard') from None
    if not writer.finished:
        writer.finish()
    print(f'{args.out}: {total} episodes')


def _info(recording: Recording) -> DatasetInfo:
    """What the dataset says of itself: enough to make it again, and to refuse to go on with another one."""
    config = load_world(recording.world)
    cell = load_cell(config.cell)
    settings = {'made by': 'vlm-agent record, scripted expert in simulation', 'version': __version__,
                **dataclasses.asdict(recording), 'world': config.name, 'model': Path(recording.model).stem,
                'world_sha256': sha256_of(find_config('worlds', recording.world), find_config('cells', config.cell)),
                'prompt_sha256': load_model_config(recording.model).prompt.digest()}
    return DatasetInfo(tuple(_classes(config)), cell.grid, json.loads(json.dumps(settings)))


def _classes(config: WorldConfig) -> list[str]:
    """Names of what may lie on the table."""
    colours = sorted(config.objects.palette)
    return [f'{colour} {kind}' for kind in ('cube', 'pad') for colour in colours] + ['grey cylinder', 'white tray']


def _start_worker(parent_pid: int) -> None:
    """A worker ends by signals at once, since shards are whole or not there, and with the main process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent_pid)


def _record(work: tuple[Recording, DatasetWriter, int]) -> int:
    """A shard of a recording, in one process; returns its number of decisions."""
    recording, writer, shard = work
    config = load_world(recording.world)
    if not recording.noise:
        config = dataclasses.replace(config, appearance=dataclasses.replace(config.appearance, noise=(0.0, 0.0)))
    world = CellWorld(config)
    try:
        return writer.write(shard, _rows(_Recorder(world, recording), recording, shard))
    finally:
        world.close()


def _rows(recorder: _Recorder, recording: Recording, shard: int) -> Iterator[DemonstrationRow]:
    total = recording.scenes + recording.episodes
    for index in range(shard * _SHARD, min((shard + 1) * _SHARD, total)):
        request = EpisodeRequest(recording.seed + index, recording.tasks[index % len(recording.tasks)])
        yield from recorder.episode(index, request, whole=index >= recording.scenes)


class _Recorder:
    def __init__(self, world: CellWorld, recording: Recording) -> None:
        self._world, self._recording = world, recording
        self._language = SkillLanguage(world.cell.grid)
        self._planner = SkillPlanner(world.cell)
        self._prompt = load_model_config(recording.model).prompt

    def episode(self, index: int, request: EpisodeRequest, *, whole: bool) -> list[DemonstrationRow]:
        """Record an episode: its first decision, or all of them."""
        observation = self._world.reset(request)
        rng = np.random.default_rng([request.seed, 1])
        rows: list[DemonstrationRow] = []
        past: PastTurn | None = None
        while True:
            row = self._decision(index, request, observation, len(rows) + 1, past)
            if not whole:
                return [row]
            held = self._world.truth().state.held is not None
            action = self._spoil(row.action, rng) if rng.random() < self._recording.mistakes else row.action
            observation, outcome = self._world.execute(self._plan(action, observation))
            rows.append(dataclasses.replace(row, executed=action, outcome=outcome))
            past = PastTurn(row.action, action, held, outcome)
            if outcome.terminated or outcome.truncated:
                total = sum(row.outcome.reward for row in rows if row.outcome)
                end = EpisodeOutcome(outcome.success, total, len(rows))
                return [dataclasses.replace(row, episode_outcome=end) for row in rows]

    def _decision(self, index: int, request: EpisodeRequest, observation: Observation, turn: int,
                  past: PastTurn | None) -> DemonstrationRow:
        """What the expert sees and would write now."""
        truth = self._world.truth()
        shown, objects = demonstrate(truth), _objects(truth)
        state = self._world.cell.gripper_state(observation.joint_names, observation.joint_positions)
        held = truth.state.held
        out_of_view = any(not label.visible for i, label in enumerate(objects) if i != held)
        prompt = self._prompt.render(observation.task, state, self._language)
        return DemonstrationRow(
            observation.image, prompt, shown.thought, shown.action, index, task=request.task,
            instruction=observation.task, split=truth.task.default_split or None,
            world=self._world.config.name, seed=request.seed, turn=turn, objects=objects,
            rare=rare_events(past, held=held is not None, out_of_view=out_of_view))

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


def _objects(truth: SceneTruth) -> tuple[ObjectLabel, ...]:
    """The items on the table and in the gripper."""
    labels = []
    for i, item in enumerate(truth.items):
        column, row = projected(truth, i)
        inside = 0.0 <= column < truth.cell.grid and 0.0 <= row < truth.cell.grid
        labels.append(ObjectLabel(item.name, column, row, inside and i != truth.state.held))
    return tuple(labels)
