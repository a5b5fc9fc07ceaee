"""``vlm-agent record``: an expert's decisions in simulated episodes as a dataset for ``sft``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from training.config import EnvironmentConfig
from training.demonstrations.dataset_schema import DatasetInfo, DemonstrationRow
from training.demonstrations.dataset_writer import DatasetWriter
from training.rl.run_folder import claimed
from training.seeds import DEMONSTRATION_START, EVALUATION_START
from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.process import end_with_parent

_SHARD = 100  # episodes per file, which is the unit of work and of progress
_CELL_OPTIONS = ('world', 'model', 'tasks', 'mistakes', 'noise')


class Recording(Protocol):
    """What to record; goes to other processes."""

    @property
    def total(self) -> int:
        """Number of episodes."""
        ...

    def info(self) -> DatasetInfo:
        """What the dataset says of itself: enough to make it again, and to refuse to go on with another one.

        Raises:
            UserError: What it names does not exist or does not fit, or nobody can demonstrate there.
        """
        ...

    def rows(self, first: int, last: int) -> Iterator[DemonstrationRow]:
        """Every decision of the episodes from ``first`` on, ``last`` excluded; a function of these numbers."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    from ..cli import add_config_flags

    parser.add_argument('--from-cell', nargs='+', type=Path, metavar='LOG', help='record what operators corrected and '
                        'approved, from audit logs of a cell (files or folders); only --out, --model and --cell are '
                        'used then')
    parser.add_argument('--cell', default='', help='cell file of the cell that was logged (--from-cell; default: '
                        'as the log says)')
    parser.add_argument('--out', type=Path, default=Path('data/demonstrations'), help='folder to write; the same '
                        'command continues a recording that was cut off')
    parser.add_argument('--episodes', type=int, default=4_000, help='episodes played to the end')
    parser.add_argument('--scenes', type=int, default=argparse.SUPPRESS, help='episodes before those of which only the '
                        'first decision is kept (default: 40000 in the cell, none in Gymnasium)')
    parser.add_argument('--seed', type=int, default=DEMONSTRATION_START, help='first episode seed; those from '
                        f'{EVALUATION_START} to {DEMONSTRATION_START - 1} are for evaluation and pilots')
    parser.add_argument('--workers', type=int, default=2, help='processes')
    add_config_flags(parser, EnvironmentConfig)
    cell = parser.add_argument_group('of the cell alone', argument_default=argparse.SUPPRESS)
    cell.add_argument('--world', help='world file, by name or path (default: panda_table)')
    cell.add_argument('--model', help='models file whose prompt template is used (default: tiny_vlm)')
    cell.add_argument('--tasks', nargs='+', help='tasks, in turn (default: place pick place)')
    cell.add_argument('--mistakes', type=float, help='share of spoilt turns in full episodes (default: 0.2)')
    cell.add_argument('--noise', action='store_true', help="keep the world's sensor noise (sft adds its own)")


def run(args: argparse.Namespace) -> None:
    """Record and write the dataset.

    Raises:
        UserError: A task, world, model or environment does not exist or does not fit, the environment has no expert, or
            the folder cannot be written to or holds something else.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    if args.from_cell:
        from ..from_cell.record import record_from_cell

        print(record_from_cell(args.from_cell, args.out, args.cell,
                               getattr(args, 'model', 'tiny_vlm')))
        return
    if args.cell:
        raise UserError('--cell belongs to --from-cell: a world file names its cell, give --world')
    for name, low in (('scenes', 0), ('episodes', 0), ('workers', 1)):
        if getattr(args, name, low) < low:
            raise UserError(f'--{name} is {getattr(args, name)}, but must be at least {low}')
    if not 0.0 <= getattr(args, 'mistakes', 0.0) <= 1.0:
        raise UserError(f'--mistakes is {args.mistakes}, but must be a share, from 0 to 1')
    recording = _recording(args)
    if not recording.total:
        raise UserError('there is nothing to record without episodes: raise --episodes')
    _check_seeds(args.seed, recording.total)
    writer = DatasetWriter(args.out, recording.info(), -(-recording.total // _SHARD))
    with claimed(args.out, 'recording', '--out'):
        _write(recording, writer, args.workers)
    print(f'{args.out}: {recording.total} episodes')


def _write(recording: Recording, writer: DatasetWriter, workers: int) -> None:
    """Record what is missing, in several processes."""
    missing = writer.missing()
    done = writer.shards - len(missing)
    if done:
        print(f'{writer.folder}: {done} of {writer.shards} shards are there', flush=True)
    try:
        with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
            try:
                for decisions in pool.map(_record, [(recording, writer, shard, _SHARD) for shard in missing]):
                    done += 1
                    print(f'{min(done * _SHARD, recording.total)} of {recording.total} episodes, {decisions} decisions '
                          'in the latest shard', flush=True)
            except KeyboardInterrupt:  # a shard that is begun would be played to its end
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        raise UserError('a recording process was killed (out of memory?): the same command goes on') from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt('stopped: the same command continues with the next shard') from None
    if not writer.finished:
        writer.finish()


def _check_seeds(first: int, count: int) -> None:
    """Refuse seeds that no world takes, and those that success is measured on."""
    if not 0 <= first < 2**63 - count:
        raise UserError(f'--seed is {first}, but must be from 0 to {2**63 - 1 - count}')
    if first < DEMONSTRATION_START and first + count > EVALUATION_START:
        raise UserError(f'--seed {first} and {count} episodes meet the seeds from {EVALUATION_START} to '
                        f'{DEMONSTRATION_START - 1}, on which success is measured: leave --seed out, or take one from '
                        f'{DEMONSTRATION_START} on')


def _recording(args: argparse.Namespace) -> Recording:
    from ..cli import config_overrides

    config = parse(EnvironmentConfig, config_overrides(args, EnvironmentConfig), 'command line')
    given = {name: getattr(args, name) for name in _CELL_OPTIONS if hasattr(args, name)}
    scenes = {'scenes': args.scenes} if hasattr(args, 'scenes') else {}
    if config.env == 'gymnasium':
        if given:
            raise UserError(f'env is gymnasium, which knows no {", ".join(given)}: leave that out')
        from training.demonstrations.gymnasium_recording import GymnasiumRecording

        return GymnasiumRecording(args.episodes, args.seed, config, **scenes)
    from training.demonstrations.cell_recording import CellRecording

    if 'tasks' in given:
        given['tasks'] = tuple(given['tasks'])
    return CellRecording(args.episodes, args.seed, **scenes, **given)


def _start_worker(parent_pid: int) -> None:
    """A worker ends by signals at once, since shards are whole or not there, and with the main process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent_pid)


def _record(work: tuple[Recording, DatasetWriter, int, int]) -> int:
    """A shard of a recording, in one process; returns its number of decisions."""
    recording, writer, shard, size = work
    return writer.write(shard, recording.rows(shard * size, min((shard + 1) * size, recording.total)))
