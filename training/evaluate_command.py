"""``vlm-agent evaluate``: success of a model or checkpoint on held-out episodes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError

from .config import CELL_KEYS, EnvironmentConfig

if TYPE_CHECKING:
    from .environment import Environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    from .cli import add_config_flags

    parser.add_argument('--checkpoint', default='tiny_vlm', help='checkpoint, model directory or models file')
    add_config_flags(parser, EnvironmentConfig)
    parser.add_argument('--task', help='task of the cell (default: place)')
    parser.add_argument('--world', help='world file of the cell, by name or path (default: panda_table)')
    parser.add_argument('--episodes', type=int, default=200, help='held-out episodes')
    parser.add_argument('--temperature', type=float, default=0.0, help='sampling temperature; 0 = greedy')
    parser.add_argument('--transport', choices=('ros', 'in-process'), help='how cells are reached (default: ros)')
    parser.add_argument('--worlds', type=int, default=8, help='worlds in lock step')
    parser.add_argument('--attach', nargs='*', metavar='NAMESPACE', help='running worlds to attach to')
    parser.add_argument('--unconstrained', action='store_true', help='decode without the grammar')
    parser.add_argument('--torch-threads', type=int, default=1, help='threads of PyTorch')
    parser.add_argument('--out', type=Path, help='write the result to this JSON file')


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the result as JSON.

    Raises:
        UserError: A checkpoint, task or world does not exist, or the file cannot be written.
    """
    for name in ('episodes', 'worlds', 'torch_threads'):
        if (value := getattr(args, name)) < 1:
            flag = '--' + name.replace('_', '-')
            raise UserError(f'{flag} is {value}, but must be at least 1')
    if not 0.0 <= args.temperature <= 5.0:
        raise UserError(f'--temperature is {args.temperature}, but must be between 0 and 5')

    environment, task, world = _environment(args)
    from vlm_agent_ros.checkpoint import is_checkpoint, load_policy

    from .episodes import Episode, Player
    from .evaluate import evaluate
    from .metrics import write_atomically
    from .progress import Progress
    from .seeds import evaluation_seeds
    from .session import use_threads, versions

    use_threads(args.torch_threads)
    own_prompt = is_checkpoint(Path(args.checkpoint)) and not hasattr(args, 'prompt')
    policy = load_policy(args.checkpoint, language=environment.language, constrained=not args.unconstrained,
                         prompt=None if own_prompt else environment.prompt)
    pool = environment.open(len(args.attach or ()) or min(args.worlds, args.episodes))
    try:
        with Progress(sys.stderr) as progress:
            phase = progress.phase(f'{task} in {world}', args.episodes)

            def show(episode: Episode) -> None:
                phase.advance()

            player = Player(policy, pool, environment.commanders(policy.prompt, 'auto'),
                            checkpoint=Path(args.checkpoint).name)
            result = evaluate(player, task, world, evaluation_seeds(args.episodes),
                              temperature=args.temperature, on_episode=show)
            phase.end('success {:.1%} ({:.1%} to {:.1%}, n = {})'.format(result.success, *result.ci95, result.n))
    finally:
        pool.close()
    text = json.dumps({**result.to_json(), 'checkpoint': args.checkpoint, 'transport': pool.transport,
                       'versions': versions()}, indent=2)
    if args.out:
        write_atomically(args.out, text + '\n')
    else:
        print(text)


def _environment(args: argparse.Namespace) -> tuple[Environment, str, str]:
    """What the flags name, with the task and the world of its episodes."""
    from .cli import config_overrides

    config = parse(EnvironmentConfig, config_overrides(args, EnvironmentConfig), 'command line')
    if config.env == 'gymnasium':
        useless = [key for key in CELL_KEYS if getattr(args, key, None) is not None]
        if useless:
            raise UserError(f'env is gymnasium, which knows no {", ".join(useless)}: leave that out')
        from .gymnasium_environment import GymnasiumEnvironment

        return GymnasiumEnvironment(config), config.env_id, 'gymnasium'
    from .transport import prepare

    transport = args.transport or 'ros'
    prepare(transport)
    from .environment import CellEnvironment

    task, world = args.task or 'place', args.world or 'panda_table'
    return CellEnvironment(task, [world], transport, args.attach or ()), task, world
