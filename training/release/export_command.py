"""``vlm-agent export``: a checkpoint as a signed bundle for a cell, with what its form costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.release import DTYPES

if TYPE_CHECKING:
    from vlm_agent_ros.cell import Cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint, model directory or models file')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='directory of the bundle')
    parser.add_argument('--key', type=Path, required=True, metavar='FILE', help='private key that signs it, as '
                        '`vlm-agent keygen` makes one')
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--merge', action='store_true', help='fold the adapters into the base model, which becomes part '
                      'of the bundle (default)')
    form.add_argument('--adapter', action='store_true', help='adapters and value head only: the cell has the base')
    parser.add_argument('--dtype', choices=DTYPES, default='', help='type of a merged model (default: as it is); int8 '
                        'holds the linear layers in 8 bits, on a CPU')
    parser.add_argument('--cell', default='panda_table', help='cell file: the bundle is bound to its camera and grid '
                        '(default: panda_table)')
    parser.add_argument('--measure', type=int, default=20, metavar='N', help='episodes in the simulated cell with the '
                        'bundle, and as many with the checkpoint that it was made from; '
                        '0 measures nothing (default: 20)')
    parser.add_argument('--task', default='place', help='task of these episodes (default: place)')
    parser.add_argument('--world', default='', help='world file of these episodes (default: the shipped one of the '
                        'cell)')


def run(args: argparse.Namespace) -> None:
    """Write the bundle, and print what it costs against the original.

    Raises:
        UserError: Checkpoint, key or cell do not exist or do not fit, or the bundle cannot be written.
    """
    if args.measure < 0:
        raise UserError(f'--measure is {args.measure}, but must be 0 or more')
    from vlm_agent_ros.bundle import is_bundle
    from vlm_agent_ros.cell import load_cell
    from vlm_agent_ros.checkpoint import KIND
    from vlm_agent_ros.release.export import export_checkpoint
    from vlm_agent_ros.release.keys import load_private_key

    source = Path(args.checkpoint).expanduser()
    if source.exists() and args.out.resolve() == source.resolve():
        raise UserError(f'{args.out} is the checkpoint that is exported: choose another --out')
    # What a run goes on from is no bundle to be replaced.
    if args.out.exists() and (not is_bundle(args.out, KIND) or (args.out / 'train_config.json').exists()):
        raise UserError(f'{args.out} exists and is no bundle: choose another --out, or delete it')
    key, cell = load_private_key(args.key), load_cell(args.cell)
    form: dict[str, Any] = {'merge': not args.adapter, 'dtype': args.dtype}
    from .measure import Trial, measure, measured, size_mib, table

    trial = Trial(args.task, args.world or (_world_of(cell) if args.measure else ''), args.measure)
    if args.measure:
        trial.check(cell.grid)
    export_checkpoint(args.out, args.checkpoint, cell, key, **form)
    if not args.measure:
        print(f'{args.out} is signed; what its form costs was not measured')
        return
    print(f'measuring {args.checkpoint} and {args.out}, {args.measure} episodes each …', file=sys.stderr, flush=True)
    original, bundle = measure(args.checkpoint, trial), measure(str(args.out), trial)
    bundle['size_mib'] = size_mib(args.out)
    export_checkpoint(args.out, args.checkpoint, cell, key, **form, measured=measured(original, bundle, trial))
    print(table(original, bundle))
    print(f'{args.out} is signed')


def _world_of(cell: Cell) -> str:
    """The shipped world in this cell."""
    from sim_worlds.world_file import load_world
    from vlm_agent_ros.cell import load_cell
    from vlm_agent_ros.config import resource_root

    for file in sorted((resource_root() / 'config' / 'worlds').glob('*.yaml')):
        if load_cell(load_world(str(file)).cell).name == cell.name:
            return str(file)
    raise UserError(f'there is no simulated world of the cell {cell.name}: give one with --world, or --measure 0')
