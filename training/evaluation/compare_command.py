"""``vlm-agent compare``: which of several models is better, on the same episodes."""

from __future__ import annotations

import argparse
import json
import string
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_agent_ros.errors import UserError

from . import EXPERT
from .evaluate_command import add_evaluation_options, check_options, environment_of, plan_from, prepare_worlds

if TYPE_CHECKING:
    from ..reports.films import Film
    from ..worlds.commands import Commander
    from ..worlds.environment import Environment
    from ..worlds.episodes import Episode
    from .evaluate import Suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('sources', nargs='+', metavar='MODEL|RESULT.json',
                        help='two or more: checkpoints, model directories and models files are evaluated now; results '
                             'of `vlm-agent evaluate --out` are read, and their episodes are then those of all')
    add_evaluation_options(parser)
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='folder of compare.json, compare.html and the '
                        'results of what was evaluated now (default: runs/compare-<time>)')


def run(args: argparse.Namespace) -> None:
    """Evaluate what is not evaluated yet, compare, print the table and write the files.

    Raises:
        UserError: A source does not exist, results do not pair, or a file cannot be written.
    """
    check_options(args)
    labels = dict(zip(string.ascii_uppercase, args.sources))
    if not 2 <= len(args.sources) <= len(string.ascii_uppercase):
        raise UserError(f'compare takes 2 to {len(string.ascii_uppercase)} models or results, got {len(args.sources)}')
    models = {label: source for label, source in labels.items() if not source.endswith('.json')}
    folder = args.out or Path('runs') / time.strftime('compare-%Y%m%d-%H%M%S')
    if (folder / 'compare.json').exists():
        raise UserError(f'{folder} holds a comparison already: choose another --out or delete it')
    if models:
        prepare_worlds(args, models.values())
    from vlm_agent_ros.checkpoint import find_policy

    from ..metrics import require_writable, write_atomically
    from .compare_page import print_table, render_comparison
    from .comparison import check_paired, check_same_worlds, compare
    from .evaluator import check_cell_is_unseen, plan_of, read_evaluation, worlds_of

    files = {label: Path(source).expanduser() for label, source in labels.items() if label not in models}
    results = {label: read_evaluation(file) for label, file in files.items()}
    if results:
        _refuse_stated_plan(args, bool(models))
        check_paired([(labels[label], plan_of(result)) for label, result in results.items()])
        for label in models:
            if (path := folder / f'{label}.json').resolve() in {file.resolve() for file in files.values()}:
                raise UserError(f'{path} would be overwritten by the result of {labels[label]}: choose another --out')
    plan = plan_of(next(iter(results.values()))) if results else plan_from(args)
    if results and models:
        _check_environment(plan, args)
    worlds = [(labels[label], worlds_of(result)) for label, result in results.items()]
    environment = environment_of(plan, args) if models else None
    if environment is not None:
        worlds.append((next(iter(models.values())), {suite: environment.digest(suite.world) for suite in plan}))
    check_same_worlds(worlds)
    for source in dict.fromkeys(models.values()):  # the last must not be refused after the others took an hour
        if source != EXPERT:
            find_policy(source)
            check_cell_is_unseen(source, plan)
        elif environment is not None:
            environment.expert().close()
    require_writable(folder / 'compare.json')
    played, films = _evaluate(models, plan, environment, args, folder) if environment is not None else ({}, {})
    results |= played
    comparison = compare({label: {'source': source, **results[label]} for label, source in labels.items()})
    page = render_comparison(comparison, films)
    write_atomically(folder / 'compare.json', json.dumps(comparison, indent=2) + '\n')
    write_atomically(folder / 'compare.html', page)
    print_table(comparison)
    print(f'see {folder / "compare.html"}')


def _refuse_stated_plan(args: argparse.Namespace, models: bool) -> None:
    for name in ('task', 'world', 'split', 'episodes'):
        if getattr(args, name) is not None:
            raise UserError(f'--{name} was given together with a result: its tasks, worlds and seeds are those of the '
                            f'comparison, so leave --{name} out')
    if models:
        return
    from ..cli import parse_arguments

    unsaid = vars(parse_arguments(['compare', *args.sources]))
    for name, value in vars(args).items():
        if name != 'out' and value != unsaid.get(name):
            flag = '--' + name.replace('_', '-')
            raise UserError(f'{flag} was given, but nothing is played: leave it out, or name a model')


def _check_environment(plan: dict[Suite, list[int]], args: argparse.Namespace) -> None:
    """Refuse to play in another environment than that of the results, whose suites it would be told under."""
    env_id = getattr(args, 'env_id', None) if getattr(args, 'env', 'cell') == 'gymnasium' else None
    for suite in plan:
        own = suite.task if suite.world == 'gymnasium' else None
        if env_id is not None and env_id != own:
            raise UserError(f'--env-id {env_id} is not what the result is of, {suite}: evaluate all models in one '
                            'environment')
        if env_id is None and own is not None:
            raise UserError(f'the result is of {suite}, but a model is to be played too: add --env gymnasium --env-id '
                            f'{own} with its --import and --actions')


def _evaluate(models: dict[str, str], plan: dict[Suite, list[int]], environment: Environment,
              args: argparse.Namespace, folder: Path
              ) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str, int], Film]]:
    """Results by label, written as soon as they are there, and films of all episodes."""
    from ..metrics import write_atomically
    from ..progress import Progress
    from ..reports.films import film_of
    from .evaluator import Evaluator

    results, films = {}, {}
    with Progress(sys.stderr) as progress, Evaluator(plan, environment, args, progress) as evaluator:
        for label, source in models.items():

            def keep(suite: Suite, episode: Episode, commander: Commander, label: str = label) -> None:
                films[label, str(suite), episode.slot.request.seed] = film_of(episode, commander)

            results[label] = evaluator.evaluate(source, keep)
            write_atomically(folder / f'{label}.json', json.dumps(results[label], indent=2) + '\n')
    return results, films
