"""``vlm-agent evaluate``: success of a model, a checkpoint or the scripted expert on held-out episodes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim_worlds.splits import SPLITS
from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError

from ..config import CELL_KEYS, ILLEGAL_HELP, ILLEGAL_RULES, EnvironmentConfig, check_illegal_rule
from . import EXPERT

if TYPE_CHECKING:
    from ..worlds.environment import Environment
    from .evaluate import Suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--checkpoint', default='tiny_vlm', help='checkpoint, model directory or models file; '
                        f'{EXPERT} = the scripted expert, in process')
    add_evaluation_options(parser)
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the result, single episodes and all, to this '
                        'JSON file instead of the terminal')


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Which episodes are played and how, whoever plays them."""
    from ..cli import add_config_flags

    add_config_flags(parser, EnvironmentConfig)
    parser.add_argument('--task', nargs='+', help='tasks of the cell (default: place)')
    parser.add_argument('--world', nargs='+', help='world files of the cell, by name or path; every task is evaluated '
                        'in each (default: panda_table; shifted for the split unseen-cell)')
    parser.add_argument('--split', nargs='+', choices=SPLITS, help='combinations and wordings that are drawn, each for '
                        'every task (default: those that training draws)')
    parser.add_argument('--episodes', type=int, help='held-out episodes of each task in each world (default: 200)')
    parser.add_argument('--temperature', type=float, default=0.0, help='sampling temperature; 0 = greedy')
    parser.add_argument('--transport', choices=('ros', 'in-process'), help='how cells are reached (default: ros)')
    parser.add_argument('--worlds', type=int, default=8, help='worlds in lock step')
    parser.add_argument('--attach', nargs='*', metavar='NAMESPACE', help='running worlds to attach to')
    parser.add_argument('--unconstrained', action='store_true', help='decode without the grammar, '
                        'as a checkpoint that was trained so is decoded anyhow')
    parser.add_argument('--illegal-rule', choices=ILLEGAL_RULES, default='auto', help=f'{ILLEGAL_HELP} (default: auto)')
    parser.add_argument('--torch-threads', type=int, default=1, help='threads of PyTorch')


def check_options(args: argparse.Namespace) -> None:
    """Refuse numbers out of range, and a rule that the environment cannot follow.

    Raises:
        UserError: Naming the option.
    """
    for name in ('episodes', 'worlds', 'torch_threads'):
        if (value := getattr(args, name)) is not None and value < 1:
            flag = '--' + name.replace('_', '-')
            raise UserError(f'{flag} is {value}, but must be at least 1')
    if not 0.0 <= args.temperature <= 5.0:
        raise UserError(f'--temperature is {args.temperature}, but must be between 0 and 5')
    if args.attach and args.transport == 'in-process':
        raise UserError('--attach names running ROS worlds, but --transport is in-process: leave one of them out')
    check_illegal_rule(args.illegal_rule, getattr(args, 'env', 'cell'))


def prepare_worlds(args: argparse.Namespace, sources: Iterable[str]) -> None:
    """Import ROS, where options and models call for it, before anything expensive.

    Raises:
        UserError: Options contradict each other, or ROS is not installed.
    """
    if _environment_config(args).env == 'cell' and any(source != EXPERT for source in sources):
        from ..worlds.transport import prepare

        prepare(args.transport or 'ros')


def plan_from(args: argparse.Namespace) -> dict[Suite, list[int]]:
    """The held-out seeds of every suite that the options name.

    Raises:
        UserError: Options contradict each other.
    """
    config, episodes = _environment_config(args), args.episodes or 200
    from .evaluate import make_plan

    if config.env == 'gymnasium':
        return make_plan([config.env_id], ['gymnasium'], [''], episodes)
    plan: dict[Suite, list[int]] = {}
    for split in args.split or ['']:
        worlds = args.world or ['shifted' if split == 'unseen-cell' else 'panda_table']
        plan |= make_plan(args.task or ['place'], worlds, [split], episodes)
    return plan


def environment_of(plan: Mapping[Suite, Sequence[int]], args: argparse.Namespace) -> Environment:
    """Where a plan is played.

    Raises:
        UserError: A task, a world or the environment does not exist or does not fit.
    """
    config = _environment_config(args)
    if config.env == 'gymnasium':
        from ..worlds.gymnasium_environment import GymnasiumEnvironment

        return GymnasiumEnvironment(config)
    from ..worlds.environment import CellEnvironment

    tasks, worlds = ({getattr(suite, name): None for suite in plan} for name in ('task', 'world'))
    return CellEnvironment(list(tasks), list(worlds), args.transport or 'ros', args.attach or ())


def _environment_config(args: argparse.Namespace) -> EnvironmentConfig:
    from ..cli import config_overrides

    config = parse(EnvironmentConfig, config_overrides(args, EnvironmentConfig), 'command line')
    useless = [key for key in CELL_KEYS if getattr(args, key, None) is not None] if config.env == 'gymnasium' else []
    if useless:
        raise UserError(f'env is gymnasium, which knows no {", ".join(useless)}: leave that out')
    return config


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the result as JSON.

    Raises:
        UserError: A checkpoint, task or world does not exist, or the file cannot be written.
    """
    check_options(args)
    prepare_worlds(args, [args.checkpoint])
    from ..metrics import require_writable, write_atomically
    from ..progress import Progress
    from .evaluator import Evaluator

    if args.out:
        require_writable(args.out)
    plan = plan_from(args)
    environment = environment_of(plan, args)
    with Progress(sys.stderr) as progress, Evaluator(plan, environment, args, progress) as evaluator:
        text = json.dumps(evaluator.evaluate(args.checkpoint), indent=2) + '\n'
    if args.out:
        write_atomically(args.out, text)
    else:
        print(text, end='')
