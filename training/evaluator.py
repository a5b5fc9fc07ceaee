"""Models and checkpoints on the same suites and seeds, over one pool of worlds; and their results as files."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from vlm_agent_ros.agent import Agent
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.errors import UserError

from .commands import CommanderOf
from .episodes import Episode, Player
from .evaluate import Suite, evaluate
from .progress import Progress
from .seeds import evaluation_seeds
from .session import check_names, commanders, language_of, machine, use_threads, versions
from .transport import open_worlds
from .worlds import WorldPool

Plan = Mapping[Suite, Sequence[int]]
"""The seeds of each suite."""


def make_plan(tasks: Sequence[str], worlds: Sequence[str], episodes: int) -> dict[Suite, list[int]]:
    """Each task in each world, on as many held-out seeds."""
    seeds = evaluation_seeds(episodes)
    return {Suite(task, world): seeds for task, world in itertools.product(tasks, worlds)}


class Evaluator:
    """Plays a plan with one policy after the other; the worlds start with the first of them.

    Args:
        plan: What each policy plays.
        options: The options of ``evaluate_command.add_evaluation_options``.
        progress: What the user sees.

    Raises:
        UserError: A task or world does not exist, or the worlds do not share an action language.
    """

    def __init__(self, plan: Plan, options: argparse.Namespace, progress: Progress) -> None:
        self.plan, self._options, self._progress = plan, options, progress
        self._pool: WorldPool | None = None
        use_threads(options.torch_threads)
        worlds = list(dict.fromkeys(suite.world for suite in plan))
        for suite in plan:
            check_names(suite.task, suite.world)
        self._language, *others = (language_of(world) for world in worlds)
        for world, other in zip(worlds[1:], others):
            if other.digest() != self._language.digest():
                raise UserError(f'the worlds {worlds[0]} and {world} have different action languages, because the '
                                'grids of their cells differ: evaluate them one at a time')

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if self._pool is not None:
            self._pool.close()

    def evaluate(self, source: str, on_episode: Callable[[Suite, Episode, Agent], None] = lambda *_: None
                 ) -> dict[str, Any]:
        """One policy on the whole plan.

        Args:
            source: Checkpoint, model directory or models file.
            on_episode: Called with each finished episode, images and all, and the agent that played it.

        Returns:
            The content of the result's JSON file.

        Raises:
            UserError: The source does not exist or does not fit.
        """
        options = self._options
        policy = load_policy(source, language=self._language, constrained=not options.unconstrained)
        pool = self._worlds()
        commander_of = commanders(policy.prompt)
        player = Player(policy, pool, commander_of, checkpoint=Path(source).name)
        return {
            'checkpoint': source, 'temperature': options.temperature, 'constrained': not options.unconstrained,
            'transport': pool.transport,
            'suites': [self._suite(player, suite, commander_of, on_episode) for suite in self.plan],
            'versions': versions(), 'machine': machine(),
        }

    def _worlds(self) -> WorldPool:
        if self._pool is None:
            options, longest = self._options, max(len(seeds) for seeds in self.plan.values())
            self._pool = open_worlds(options.transport, len(options.attach) or min(options.worlds, longest),
                                     next(iter(self.plan)).world, attach=options.attach)
        return self._pool

    def _suite(self, player: Player, suite: Suite, commander_of: CommanderOf,
               on_episode: Callable[[Suite, Episode, Agent], None]) -> dict[str, Any]:
        seeds, agent = self.plan[suite], commander_of(suite.world).agent
        phase = self._progress.phase(f'{player.checkpoint}, {suite}', len(seeds))

        def show(episode: Episode) -> None:
            on_episode(suite, episode, agent)
            phase.advance()

        result = evaluate(player, suite, seeds, temperature=self._options.temperature, on_episode=show)
        phase.end(result.words())
        return result.to_paired_json()


def read_evaluation(path: Path) -> dict[str, Any]:
    """The content of a file that ``vlm-agent evaluate --out`` wrote.

    Raises:
        UserError: It cannot be read or holds something else.
    """
    remedy = 'give a file that `vlm-agent evaluate --out` wrote, or evaluate anew'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        for record in content['suites']:
            suite_of(record), seeds_of(record)
            for episode in record['episodes']:
                bool(episode['success']), float(episode['return']), float(episode['turns'])
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): {remedy}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is no result of an evaluation with its episodes: {remedy}') from error
    return dict(content)


def suite_of(record: Mapping[str, Any]) -> Suite:
    """The suite of an entry of ``suites`` in a result."""
    return Suite(**{field.name: str(record[field.name]) for field in fields(Suite)})


def seeds_of(record: Mapping[str, Any]) -> list[int]:
    """All seeds that were to be played, those that broken worlds lost among them."""
    return sorted([int(episode['seed']) for episode in record['episodes']] + [int(s) for s in record['lost_seeds']])


def plan_of(evaluation: Mapping[str, Any]) -> dict[Suite, list[int]]:
    """What was played for a result."""
    return {suite_of(record): seeds_of(record) for record in evaluation['suites']}
