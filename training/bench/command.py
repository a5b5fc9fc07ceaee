"""``vlm-agent bench``: every part that is asked for, then a table, results.json and one line of JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vlm_agent_ros.errors import UserError

from .bench_setup import BenchSetup, Part

PARTS = {
    'rollout': 'decisions per second of the rollout engine',
    'update': 'samples per second and peak memory of the update',
    'world': 'turns and frames per second of the simulated cell',
    'ros': 'what a turn through ROS costs',
    'end_to_end': 'seconds until the main job is at 85 %',
    'cluster': 'decisions per second of workers on a Ray cluster of this machine',
}
"""Every part: a module of this package with a function ``run``."""

_OPTIONAL = ('cluster',)
"""Parts that are measured only when they are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=[name for name in PARTS if name not in _OPTIONAL],
                        help=f'what is measured (default: all but {", ".join(_OPTIONAL)})')
    parser.add_argument('--repeats', type=int, default=5, help='interleaved rounds of each comparison (default: 5)')
    parser.add_argument('--seed', type=int, default=0, help='seed of everything that is drawn (default: 0)')
    parser.add_argument('--model', default='tiny_vlm', help='models file or model directory (default: tiny_vlm)')
    parser.add_argument('--device', default='cpu', help='device of the model, e.g. cuda (default: cpu)')
    parser.add_argument('--quick', action='store_true', help='the smallest sizes, to see whether it works at all')
    parser.add_argument('--out', type=Path, default=Path('bench'), metavar='FOLDER',
                        help='folder of results.json and results.md; parts that are not run keep their figures there '
                        '(default: bench)')


def run(args: argparse.Namespace) -> None:
    """Measure, and print the figures as the last line.

    Raises:
        UserError: An option is out of range, a part cannot use the device, the model does not exist, or the folder is
            unusable.
    """
    from vlm_agent_ros.policy.loading import select_device

    from ..metrics import write_atomically, write_error
    from ..session import machine, versions

    if args.repeats < 1:
        raise UserError(f'--repeats is {args.repeats}: it must be 1 or more, 5 for figures to be published')
    if not 0 <= args.seed < 2**31:
        raise UserError(f'--seed is {args.seed}: it must be at least 0 and less than 2^31')
    _check_device(str(select_device(args.device)), args.parts)
    folder = args.out.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    results = _earlier(folder / 'results.json')
    setup = BenchSetup(args.seed, args.repeats, args.quick, folder, args.model, args.device)
    for name in (name for name in PARTS if name in args.parts):
        part = part_named(name)
        started = time.monotonic()
        print(f'{name}: {PARTS[name]} …', file=sys.stderr, flush=True)
        found = part(setup)
        seconds = time.monotonic() - started
        for row in found.rows:
            print('  ' + '  '.join(filter(None, row)), file=sys.stderr)
        print(f'{name}: {seconds:.0f} s', file=sys.stderr, flush=True)
        results[name] = {**found.figures, 'table': found.rows, 'seconds': round(seconds, 1), 'seed': args.seed,
                         'repeats': found.repeats or args.repeats, 'model': args.model, 'device': args.device,
                         'quick': args.quick, 'machine': machine(), 'versions': versions()}
        write_atomically(folder / 'results.json', json.dumps(results, indent=1) + '\n')
        write_atomically(folder / 'results.md', table(results))
    print(json.dumps({name: _scalars(results[name]) for name in results if name in args.parts}))


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table of the parts that were measured."""
    lines = ['| part | figure | measured | target |', '|---|---|---|---|']
    for name in (name for name in PARTS if name in results):
        quick = ' (--quick: means little)' if results[name].get('quick') else ''
        lines += [f'| {name}{quick} | ' + ' | '.join(row) + ' |' for row in results[name]['table']]
    machines = {json.dumps(results[name]['machine'], sort_keys=True) for name in results}
    return '\n'.join([*lines, '', *(f'Machine: `{text}`' for text in sorted(machines)), ''])


def part_named(name: str) -> Part:
    """The function that measures a part; only then are its libraries imported."""
    part: Part = importlib.import_module(f'{__package__}.{name}').run
    return part


def _check_device(device: str, parts: Collection[str]) -> None:
    """Refuse, before hours of other parts, what a part would measure elsewhere."""
    if 'cluster' in parts and device != 'cpu':
        raise UserError(f'--device is {device}, but the part cluster compares processes that have no GPU: measure it '
                        'by itself, with --device cpu')
    if 'end_to_end' in parts and device not in ('cpu', 'cuda'):
        raise UserError(f'--device is {device}, but the part end_to_end trains on the CPU or on the first GPU that it '
                        'sees: give --device cpu or cuda, and choose another GPU by CUDA_VISIBLE_DEVICES')


def _scalars(part: Mapping[str, Any]) -> dict[str, Any]:
    kept = ('seconds', 'seed', 'repeats', 'quick')
    return {key: value for key, value in part.items() if isinstance(value, (int, float)) and key not in kept}


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs left, so that a part can be measured anew by itself.

    Raises:
        UserError: The file is not a result of this command.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        return {name: content[name] for name in PARTS if name in content and 'table' in content[name]}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f'{path} cannot be read ({error}): move it away or choose another --out') from error
