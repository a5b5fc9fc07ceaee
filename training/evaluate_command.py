"""``vlm-agent evaluate``: success of a model or checkpoint on held-out episodes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_agent_ros.errors import UserError

if TYPE_CHECKING:
    from .evaluate import Suite

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--checkpoint', default='tiny_vlm', help='checkpoint, model directory or models file')
    add_evaluation_options(parser)
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the result, single episodes and all, to this '
                        'JSON file instead of the terminal')


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Which episodes are played and how, whoever plays them."""
    parser.add_argument('--task', nargs='+', help='tasks (default: place)')
    parser.add_argument('--world', nargs='+', help='world files, by name or path; every task is evaluated in each '
                        '(default: panda_table)')
    parser.add_argument('--episodes', type=int, help='held-out episodes of each task in each world (default: 200)')
    parser.add_argument('--temperature', type=float, default=0.0, help='sampling temperature; 0 = greedy')
    parser.add_argument('--transport', default='ros', choices=('ros', 'in-process'), help='how worlds are reached')
    parser.add_argument('--worlds', type=int, default=8, help='worlds in lock step')
    parser.add_argument('--attach', nargs='*', default=(), metavar='NAMESPACE', help='running worlds to attach to')
    parser.add_argument('--unconstrained', action='store_true', help='decode without the grammar')
    parser.add_argument('--torch-threads', type=int, default=1, help='threads of PyTorch')


def check_options(args: argparse.Namespace) -> None:
    """Refuse numbers out of range.

    Raises:
        UserError: Naming the option.
    """
    for name in ('episodes', 'worlds', 'torch_threads'):
        if (value := getattr(args, name)) is not None and value < 1:
            flag = '--' + name.replace('_', '-')
            raise UserError(f'{flag} is {value}, but must be at least 1')
    if not 0.0 <= args.temperature <= 5.0:
        raise UserError(f'--temperature is {args.temperature}, but must be between 0 and 5')


def plan_from(args: argparse.Namespace) -> dict[Suite, list[int]]:
    """The held-out seeds of every suite that the options name."""
    from .evaluator import make_plan

    return make_plan(args.task or ['place'], args.world or ['panda_table'], args.episodes or 200)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the result as JSON.

    Raises:
        UserError: A checkpoint, task or world does not exist, or the file cannot be written.
    """
    check_options(args)
    from .transport import prepare

    prepare(args.transport)
    from .evaluator import Evaluator
    from .metrics import write_atomically
    from .progress import Progress

    with Progress(sys.stderr) as progress, Evaluator(plan_from(args), args, progress) as evaluator:
        text = json.dumps(evaluator.evaluate(args.checkpoint), indent=2) + '\n'
    if args.out:
        write_atomically(args.out, text)
    else:
        print(text, end='')
