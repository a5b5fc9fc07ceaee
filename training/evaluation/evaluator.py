"""Models and checkpoints on the same suites and seeds, over one pool of worlds; and their results as files."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from sim_worlds.world_file import load_world, world_place
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.checkpoint import is_checkpoint, load_policy, open_checkpoint
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import tells_prompt

from ..progress import Progress
from ..session import machine, use_threads, versions
from ..worlds.commands import Commander
from ..worlds.environment import Environment
from ..worlds.episodes import Episode, Player
from ..worlds.expert_player import ExpertPlayer
from ..worlds.pool import WorldPool
from . import EXPERT
from .evaluate import Suite, evaluate


class Evaluator:
    """Plays a plan with one policy after the other; the worlds start with the first of them.

    Args:
        plan: What each policy plays: the seeds of each suite.
        environment: Where.
        options: The options of ``evaluate_command.add_evaluation_options``.
        progress: What the user sees.
    """

    def __init__(self, plan: Mapping[Suite, Sequence[int]], environment: Environment, options: argparse.Namespace,
                 progress: Progress) -> None:
        self.plan, self._environment, self._options, self._progress = plan, environment, options, progress
        self._open = contextlib.ExitStack()
        self._pool: WorldPool | None = None
        use_threads(options.torch_threads)

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._open.close()

    def evaluate(self, source: str, on_episode: Callable[[Suite, Episode, Commander], None] = lambda *_: None
                 ) -> dict[str, Any]:
        """One policy, or the expert, on the whole plan.

        Args:
            source: Checkpoint, model directory or models file, or ``EXPERT``.
            on_episode: Called with each finished episode, images and all, and the commander of its world.

        Returns:
            The content of the result's JSON file.

        Raises:
            UserError: The source does not exist or does not fit.
        """
        options = self._options
        check_cell_is_unseen(source, self.plan)
        player = self._expert() if source == EXPERT else self._player(source)
        return {
            'checkpoint': source, 'temperature': options.temperature,
            'constrained': player.policy.config.decoding.constrained if isinstance(player, Player) else True,
            'illegal_rule': options.illegal_rule,
            'transport': self._worlds().transport if isinstance(player, Player) else 'in_process',
            'suites': [self._suite(player, suite, on_episode) for suite in self.plan],
            'versions': versions(), 'machine': machine(),
        }

    def _expert(self) -> ExpertPlayer:
        player = self._environment.expert()
        self._open.callback(player.close)
        return player

    def _player(self, source: str) -> Player:
        # What was trained with a prompt has it; a checkpoint refuses another one.
        tells = is_checkpoint(Path(source).expanduser()) or tells_prompt(source)
        own_prompt = tells and not hasattr(self._options, 'prompt')
        policy = load_policy(source, language=self._environment.language,
                             constrained=False if self._options.unconstrained else None,
                             prompt=None if own_prompt else self._environment.prompt)
        return Player(policy, self._worlds(), self._environment.commanders(policy.prompt, self._options.illegal_rule),
                      checkpoint=Path(source).name)

    def _worlds(self) -> WorldPool:
        if self._pool is None:
            options, longest = self._options, max(len(seeds) for seeds in self.plan.values())
            self._pool = self._environment.open(len(options.attach or ()) or min(options.worlds, longest))
            self._open.callback(self._pool.close)
        return self._pool

    def _suite(self, player: Player | ExpertPlayer, suite: Suite,
               on_episode: Callable[[Suite, Episode, Commander], None]) -> dict[str, Any]:
        seeds, commander = self.plan[suite], player.commander_of(suite.world)
        phase = self._progress.phase(f'{player.checkpoint}, {suite}', len(seeds))

        def show(episode: Episode) -> None:
            on_episode(suite, episode, commander)
            phase.advance()

        result = evaluate(player, suite, seeds, temperature=self._options.temperature, on_episode=show)
        phase.end(result.words())
        return {**result.to_paired_json(), 'world_sha256': self._environment.digest(suite.world)}


def check_cell_is_unseen(source: str, plan: Iterable[Suite]) -> None:
    """Refuse the split ``unseen-cell`` in a world in which a checkpoint, or one that it began from, was trained.

    Raises:
        UserError: Naming checkpoint and world.
    """
    worlds = [suite.world for suite in plan if suite.split == 'unseen-cell']
    model, trained, logged, before = source, set(), set(), set[Path]()
    while worlds and model and is_checkpoint(path := Path(model).expanduser()) and path not in before:
        before.add(path)
        bundle = open_checkpoint(path)
        config = bundle.document('train_config') if 'train_config.json' in bundle.files else {}
        trained |= {config.get('world'), config.get('own_world')}
        logged.add(config.get('cell'))  # the name of the cell whose log it has learned from
        model = config.get('model', '')
    places = {world_place(world) for world in trained if world}
    seen = next((world for world in worlds
                 if world_place(world) in places or load_cell(load_world(world).cell).name in logged), None)
    if seen is not None:
        raise UserError(f'{source} was trained in {seen}, which is no unseen cell to it: name another --world')


def read_evaluation(path: Path) -> dict[str, Any]:
    """The content of a file that ``vlm-agent evaluate --out`` wrote.

    Raises:
        UserError: It cannot be read or holds something else.
    """
    remedy = 'give a file that `vlm-agent evaluate --out` wrote, or evaluate anew'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        low_high = [number for record in content['suites'] for number in record['ci95']]
        _check_numbers(content['temperature'], *low_high)
        if not content['suites'] or len(low_high) != 2 * len(content['suites']):
            raise ValueError
        for record in content['suites']:
            suite_of(record), seeds_of(record)
            _check_numbers(record['success'], record['n'], record.get('return', 0), record.get('turns', 0))
            for episode in record['episodes']:
                _check_numbers(episode['return'], episode['turns'])
                if not isinstance(episode['success'], bool):
                    raise TypeError
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): {remedy}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is no result of an evaluation with its episodes: {remedy}') from error
    return dict(content)


def _check_numbers(*numbers: Any) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError


def suite_of(record: Mapping[str, Any]) -> Suite:
    """The suite of an entry of ``suites`` in a result."""
    return Suite(**{field.name: str(record[field.name]) for field in fields(Suite)})


def seeds_of(record: Mapping[str, Any]) -> list[int]:
    """All seeds that were to be played, those that broken worlds lost among them."""
    return sorted([int(episode['seed']) for episode in record['episodes']] + [int(s) for s in record['lost_seeds']])


def worlds_of(evaluation: Mapping[str, Any]) -> dict[Suite, str]:
    """What each suite's world was made from, as ``Environment.digest`` says; empty in results from before it did."""
    return {suite_of(record): str(record.get('world_sha256', '')) for record in evaluation['suites']}


def plan_of(evaluation: Mapping[str, Any]) -> dict[Suite, list[int]]:
    """What was played for a result."""
    return {suite_of(record): seeds_of(record) for record in evaluation['suites']}
