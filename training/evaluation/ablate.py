"""``vlm-agent ablate``: a declared grid of training runs with several seeds each, and what came of it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_agent_ros.errors import UserError

from ..metrics import require_writable
from ..rl.run_folder import claimed
from .ablation_grid import Ablation, Cell, load_ablation

if TYPE_CHECKING:
    from vlm_agent_ros.nodes.process import NodeProcess

_POLL_S = 0.2
_END_S = 120.0  # an interrupted run saves its last update


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('grid', metavar='GRID.yaml', help='what is varied: a file, or a name in '
                        'config/training/ablations; the same command continues where it stopped')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='runs side by side (default: 1)')
    parser.add_argument('--runs-dir', default='runs', metavar='FOLDER', help='holds <grid>/<variant>/seed<k> (default: '
                        'runs)')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='result; table (.md) and page (.html) are beside '
                        'it (default: docs/results/<grid>.json)')
    parser.add_argument('--dry-run', action='store_true', help='check the grid, print the plan, and start nothing')


def run(args: argparse.Namespace) -> None:
    """Run what is not finished, then write the result.

    Raises:
        UserError: The grid is wrong, told before anything is started; or no run was finished.
        KeyboardInterrupt: After an interrupt, when every run has saved where it stands.
    """
    if args.jobs < 1:
        raise UserError(f'--jobs is {args.jobs}, but must be at least 1')
    ablation = load_ablation(args.grid, args.runs_dir)
    out = args.out or Path('docs/results') / f'{ablation.name}.json'
    if out.suffix != '.json':
        raise UserError(f'{out} must end in .json, beside which table (.md) and page (.html) are written')
    _check(ablation, args.jobs)
    from .ablation_cell import is_evaluated, is_trained

    waiting = [cell for cell in ablation.cells
               if not (is_trained(cell.folder) and is_evaluated(cell.folder, ablation.evaluate))]
    _print_plan(ablation, waiting)
    if args.dry_run:
        return
    require_writable(out)
    with claimed(Path(args.runs_dir).expanduser() / ablation.name, 'ablation', '--runs-dir'):
        lost = _run_all(ablation, waiting, args.jobs)
    from .ablation_page import write_results
    from .ablation_results import collect

    results = collect(ablation, lost)
    write_results(results, out)
    print(f'see {out.with_suffix(".html")}')
    if lost:
        raise UserError(f'{len(lost)} of {len(ablation.cells)} runs were lost, and are left out of the result: see '
                        f'{next(iter(lost)).folder / "log.txt"}; the same command tries them again')


def _check(ablation: Ablation, jobs: int) -> None:
    """Whatever would end a run in its first minute."""
    from ..rl.train import environment_of
    from .ablation_cell import check_settings, check_worlds, plan_of_grid

    configs = [cell.config for cell in ablation.cells]
    for config in {(c.env, c.env_id, c.import_, c.actions, c.task, c.world, c.transport): c for c in configs}.values():
        environment_of(config)
    from vlm_agent_ros.checkpoint import find_policy

    from ..session import check_names
    from .evaluator import check_cell_is_unseen

    if configs[0].env == 'cell':
        check_names(ablation.evaluate.tasks, ablation.evaluate.worlds)
    plan = plan_of_grid(ablation.evaluate)
    for model in {config.model for config in configs}:
        find_policy(model)
        check_cell_is_unseen(model, plan)
    if jobs > 1 and os.environ.get('ROS_DOMAIN_ID') and any(c.env == 'cell' and c.transport == 'ros' for c in configs):
        raise UserError('ROS_DOMAIN_ID is set, but --jobs runs worlds of equal names side by side: unset it, and each '
                        'run takes a domain that is free')
    for cell in ablation.cells:
        check_settings(cell)
        check_worlds(cell, plan)


def _print_plan(ablation: Ablation, waiting: list[Cell]) -> None:
    """What is going to be done, before it is."""
    evaluate = ablation.evaluate
    for variant, fields in ablation.variants.items():
        print(f'{variant}: ' + (', '.join(f'{key} = {value}' for key, value in fields.items()) or 'as the base'))
    decisions = sum(cell.config.decisions for cell in waiting)
    episodes = len(evaluate.tasks) * len(evaluate.worlds) * len(evaluate.splits) * evaluate.episodes
    print(f'{len(ablation.variants)} variants, {len(ablation.cells)} runs, {len(ablation.cells) - len(waiting)} of '
          f'them finished; left are about {decisions:,} decisions of training and {len(waiting) * episodes:,} held-out '
          'episodes', flush=True)


def _run_all(ablation: Ablation, cells: list[Cell], jobs: int) -> dict[Cell, str]:
    """Run cells side by side; returns those that failed, with the reason."""
    from ..progress import Progress
    from .ablation_cell import start

    waiting, running, lost = deque(cells), dict[Cell, 'NodeProcess'](), {}
    try:
        with Progress(sys.stderr) as progress:
            phase = progress.phase('runs', len(cells))
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.popleft()
                    running[cell] = start(cell, ablation.evaluate)
                time.sleep(_POLL_S)
                for cell in [cell for cell, process in running.items() if process.exit_code() is not None]:
                    process = running.pop(cell)
                    if process.exit_code():
                        lost[cell] = process.exit_reason() or ''
                    progress.say(f'{cell}: ' + (f'lost, {lost[cell]}' if cell in lost else 'finished'))
                    phase.advance()
    except KeyboardInterrupt:
        for process in running.values():
            process.signal(signal.SIGTERM)
        for process in running.values():
            process.end(_END_S)
        left = len(waiting) + len(running)
        raise KeyboardInterrupt(f'stopped with {left} of {len(ablation.cells)} runs unfinished: the same command '
                                'continues them') from None
    return lost
