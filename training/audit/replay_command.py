"""``vlm-agent replay``: repeat the decisions of an audit log and tell which differ."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_agent_ros.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('log', type=Path, metavar='LOG', help='file (*.mcap) or folder of an audit log')
    parser.add_argument('--checkpoint', default='', help='decide with this one instead, on purpose: checkpoint, model '
                        'directory or models file (default: what decided, which must be unchanged)')
    parser.add_argument('--tolerance', type=float, default=1e-3, metavar='NATS', help='log-probabilities that are no '
                        'further apart count as equal (default: 0.001)')
    parser.add_argument('--limit', type=int, default=0, metavar='N', help='only the first N decisions (default: all)')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the result to this JSON file too')


def run(args: argparse.Namespace) -> int:
    """Repeat, and print what differs.

    Returns:
        0 if every decision is the same, else 1.

    Raises:
        UserError: There is no log, it holds no decision, or it was decided by something else than what is here.
    """
    if args.limit < 0 or not args.tolerance >= 0.0:
        raise UserError('--limit and --tolerance must not be negative')
    from ..metrics import require_writable, write_atomically

    if args.out:
        require_writable(args.out)
    from vlm_agent_ros.audit.log import AuditLog

    from .replay import repeat_all, summary

    log = AuditLog(args.log)
    left_out: Counter[str] = Counter()
    found = {'log': str(args.log), 'checkpoint': args.checkpoint or None,
             **summary(repeat_all(log, args.checkpoint, args.tolerance, args.limit, left_out)), 'left_out': left_out}
    if not found['decisions']:
        raise UserError(f'{args.log} holds no decision together with its image: give a log of a time when the agent '
                        'was active')
    if args.out:
        write_atomically(args.out, json.dumps(found, indent=2) + '\n')
    print_result(found)
    return 0 if found['identical'] == found['decisions'] else 1


def print_result(found: Mapping[str, Any]) -> None:
    """A table of the decisions that differ, and the count."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    differing = found['differing']
    if differing:
        table = Table('image', 'differs in', 'logged', 'repeated')
        for result in differing[:_SHOWN]:
            sides = [Text(f'{side["action"]}\n{side["logprob"]:.4f} nats\n{side["thought"]}')
                     for side in (result['logged'], result['repeated'])]
            table.add_row(str(result['image_stamp_ns']), ', '.join(result['differs']), *sides)
        console.print(table)
    if len(differing) > _SHOWN:
        print(f'… and {len(differing) - _SHOWN} more, all of them with --out')
    print(f'{found["identical"]} of {found["decisions"]} decisions are identical')
    for reason, count in found['left_out'].items():
        print(f'{count} were not repeated, {reason}')
