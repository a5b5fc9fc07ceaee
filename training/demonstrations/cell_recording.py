"""The scripted expert of the simulated cell, recorded: its decisions as rows of a dataset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_worlds.config import WorldConfig
from sim_worlds.expert import demonstrate, narrate, projected
from sim_worlds.tasks import make_task
from sim_worlds.truth import SceneTruth
from sim_worlds.world import CellWorld
from sim_worlds.world_file import load_world, world_digest
from vlm_agent_ros import __version__
from vlm_agent_ros.actions import ActionError, SkillLanguage
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.motion import MotionError, SkillPlanner
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.types import EpisodeRequest, Observation, Trajectory

from .dataset_schema import DatasetInfo, DemonstrationRow, EpisodeOutcome, ObjectLabel
from .rare_events import PastTurn, rare_events


@dataclass(frozen=True)
class CellRecording:
    """See Recording.

    Attributes:
        episodes: Number of episodes played to the end.
        seed: First episode seed.
        world: World file.
        model: Models file, whose prompt template is used.
        tasks: Tasks, in turn.
        scenes: Number of episodes of which only the first decision is recorded; nothing moves, so they are cheap.
        mistakes: Share of turns in full episodes whose *executed* action is spoilt, so that the expert also shows
            how it recovers; the recorded action is always the expert's.
        noise: Keep the world's sensor noise in the images; sft draws its own in every epoch, and images without
            it are stored in a tenth of the space.
    """

    episodes: int
    seed: int
    world: str = 'panda_table'
    model: str = 'tiny_vlm'
    tasks: tuple[str, ...] = ('place', 'pick', 'place')
    scenes: int = 40_000
    mistakes: float = 0.2
    noise: bool = False

    @property
    def total(self) -> int:
        """See Recording."""
        return self.scenes + self.episodes

    def info(self) -> DatasetInfo:
        """See Recording."""
        config = load_world(self.world)
        for task in self.tasks:
            make_task(task)
        prompt, cell = load_model_config(self.model).prompt, load_cell(config.cell)
        settings = {'made by': 'vlm-agent record, scripted expert in simulation', 'version': __version__,
                    **dataclasses.asdict(self), 'world': config.name, 'model': Path(self.model).stem,
                    'world_sha256': world_digest(self.world),
                    'prompt_sha256': prompt.digest()}
        return DatasetInfo(tuple(_classes(config)), cell.grid, json.loads(json.dumps(settings)))

    def rows(self, first: int, last: int) -> Iterator[DemonstrationRow]:
        """See Recording."""
        config = load_world(self.world)
        if not self.noise:
            config = dataclasses.replace(config, appearance=dataclasses.replace(config.appearance, noise=(0.0, 0.0)))
        world = CellWorld(config)
        try:
            recorder = _Recorder(world, self)
            for index in range(first, last):
                request = EpisodeRequest(self.seed + index, self.tasks[index % len(self.tasks)])
                yield from recorder.episode(index, request, whole=index >= self.scenes)
        finally:
            world.close()


def _classes(config: WorldConfig) -> list[str]:
    """Names of what may lie on the table."""
    colours = sorted(config.objects.palette)
    kinds = [f'{colour} {kind}' for kind in ('cube', 'pad') for colour in colours] + ['grey cylinder', 'white tray']
    return kinds + [f'{defect} {colour} cube' for defect in ('chipped', 'scratched') for colour in colours]


class _Recorder:
    def __init__(self, world: CellWorld, recording: CellRecording) -> None:
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
        memory = ''
        while True:
            row = self._decision(index, request, observation, len(rows) + 1, past, memory)
            if not whole:
                return [row]
            held = self._world.truth().state.held is not None
            action = self._spoil(row.action, rng) if rng.random() < self._recording.mistakes else row.action
            memory = row.thought if action == row.action else narrate(self._world.truth(), action)
            observation, outcome = self._world.execute(self._plan(action, observation))
            rows.append(dataclasses.replace(row, executed=action, outcome=outcome))
            past = PastTurn(row.action, action, held, outcome)
            if outcome.terminated or outcome.truncated:
                total = sum(row.outcome.reward for row in rows if row.outcome)
                end = EpisodeOutcome(outcome.success, total, len(rows))
                return [dataclasses.replace(row, episode_outcome=end) for row in rows]

    def _decision(self, index: int, request: EpisodeRequest, observation: Observation, turn: int,
                  past: PastTurn | None, memory: str) -> DemonstrationRow:
        """What the expert sees and would write now."""
        truth = self._world.truth()
        shown, objects = demonstrate(truth), _objects(truth)
        state = self._world.cell.gripper_state(observation.joint_names, observation.joint_positions)
        held = truth.state.held
        out_of_view = any(not label.visible for i, label in enumerate(objects) if i != held)
        prompt = self._prompt.render(observation.task, state, self._language, memory)
        return DemonstrationRow(
            observation.image, prompt, shown.thought, shown.action, index, task=request.task,
            instruction=observation.task, split=truth.task.default_split or None,
            world=self._world.config.name, seed=request.seed, turn=turn, objects=objects,
            rare=rare_events(past, held=held is not None, out_of_view=out_of_view))

    def _plan(self, action: str, observation: Observation) -> Trajectory | None:
        measured = observation.joint_names, observation.joint_positions
        try:
            return self._planner.plan(self._language.parse(action), *measured)
        except (ActionError, MotionError):
            return self._planner.hold(*measured)

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
