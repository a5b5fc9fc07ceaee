"""``vlm-agent cell-check``: every part that is asked for, then one line of JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vlm_agent_ros.errors import UserError

from .check_setup import CheckSetup, Figures

PARTS: dict[str, tuple[str, ...]] = {
    'fuzz': ('fuzzed', 'unsafe'),
    'latency': ('gate_ms_p50', 'gate_ms_p99'),
    'stop': ('stop_ms_p99',),
    'kill': ('kill_trials', 'kill_ok'),
    'replay': ('replay_identical',),
    'bringup': ('bringup_success', 'sim_success'),
    'rollback': ('rolled_back',),
}
"""Every part, a module of this package with a function ``run`` (``fuzz``: ``begun``), and what it contributes to the
result."""
_ALONE = ('latency', 'stop')
_ORDER = (*_ALONE, *(name for name in PARTS if name not in (*_ALONE, 'fuzz')), 'fuzz')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='what is checked (default: all)')
    parser.add_argument('--seed', type=int, default=0, help='seed of everything that is drawn (default: 0)')
    parser.add_argument('--world', default='panda_table', help='world file that the emulated cell shows '
                        '(default: panda_table)')
    parser.add_argument('--checkpoint', default='tiny_vlm', help='what decides: checkpoint, model directory or models '
                        'file (default: tiny_vlm)')
    parser.add_argument('--quick', action='store_true', help='a few seconds per part, to see whether it works at all')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='folder of the logs and of cell_check.json '
                        '(default: runs/cell-check-<time>)')


def run(args: argparse.Namespace) -> None:
    """Check, and print the result as the last line.

    Raises:
        UserError: World, cell or checkpoint do not exist, a process does not come up, or the folder is unusable.
    """
    from ..worlds.transport import prepare

    prepare('ros')
    from sim_worlds.world_file import load_world
    from vlm_agent_ros.cell import load_cell
    from vlm_agent_ros.checkpoint import find_policy
    from vlm_agent_ros.nodes.ros_env import loopback

    from ..metrics import write_atomically, write_error

    os.environ.update(loopback(os.environ))
    find_policy(args.checkpoint)
    cell = load_cell(load_world(args.world).cell).path
    folder = (args.out or Path('runs') / time.strftime('cell-check-%Y%m%d-%H%M%S')).absolute()
    if (folder / 'cell_check.json').exists():
        raise UserError(f'{folder} holds a check already: choose another --out or delete it')
    setup = CheckSetup(args.seed, args.quick, folder, cell, args.world, args.checkpoint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    line = json.dumps(result_of(run_parts(args.parts, setup)))
    write_atomically(folder / 'cell_check.json', line + '\n')
    print(line)


def run_parts(parts: Sequence[str], setup: CheckSetup) -> Figures:
    """The figures of some parts; what each one found goes to stderr.

    ``fuzz`` is a lot of computing, and most parts wait more than they compute: it begins after those that measure
    latencies, goes on beside the others in the time that these leave, and is finished last.
    """
    figures: Figures = {}
    begun: dict[str, Callable[[], Figures]] = {}
    with ExitStack() as beside:
        for name in (name for name in _ORDER if name in parts):
            if 'fuzz' in parts and not begun and name not in _ALONE:
                begun['fuzz'] = beside.enter_context(_module('fuzz').begun(setup))
            started = time.monotonic()
            print(f'{name} …', file=sys.stderr, flush=True)
            found = begun[name]() if name in begun else _module(name).run(setup)
            shown = ', '.join(f'{key} {value:.4g}' if isinstance(value, float) else f'{key} {value}'
                              for key, value in found.items())
            print(f'{name}: {shown} ({time.monotonic() - started:.0f} s)', file=sys.stderr, flush=True)
            figures |= found
    return figures


def _module(part: str) -> Any:
    return importlib.import_module(f'{__package__}.{part}')


def result_of(figures: Figures) -> dict[str, float | int | bool | None]:
    """The keys of every part, None where it was not run."""
    return {key: figures.get(key) for keys in PARTS.values() for key in keys}
