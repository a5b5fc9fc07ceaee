"""``vlm-agent evaluate``: success of a model or checkpoint on held-out episodes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vlm_agent_ros.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--checkpoint', default='tiny_vlm', help='checkpoint, model directory or models file')
    parser.add_argument('--task', default='place', help='task')
    parser.add_argument('--world', default='panda_table', help='world file, by name or path')
    parser.add_argument('--episodes', type=int, default=200, help='held-out episodes')
    parser.add_argument('--temperature', type=float, default=0.0, help='sampling temperature; 0 = greedy')
    parser.add_argument('--transport', default='ros', choices=('ros', 'in-process'), help='how worlds are reached')
    parser.add_argument('--worlds', type=int, default=8, help='worlds in lock step')
    parser.add_argument('--attach', nargs='*', default=(), metavar='NAMESPACE', help='running worlds to attach to')
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

    from .transport import open_worlds, prepare

    prepare(args.transport)
    from vlm_agent_ros.checkpoint import load_policy

    from .episodes import Episode, Player
    from .evaluate import evaluate
    from .metrics import require_writable, write_atomically
    from .progress import Progress
    from .seeds import evaluation_seeds
    from .session import check_names, commanders, language_of, use_threads, versions

    if args.out:
        require_writable(args.out)
    use_threads(args.torch_threads)
    check_names(args.task, args.world)
    policy = load_policy(args.checkpoint, language=language_of(args.world), constrained=not args.unconstrained)
    pool = open_worlds(args.transport, len(args.attach) or min(args.worlds, args.episodes), args.world,
                       attach=args.attach)
    try:
        with Progress(sys.stderr) as progress:
            phase = progress.phase(f'{args.task} in {args.world}', args.episodes)

            def show(episode: Episode) -> None:
                phase.advance()

            player = Player(policy, pool, commanders(policy.prompt), checkpoint=Path(args.checkpoint).name)
            result = evaluate(player, args.task, args.world, evaluation_seeds(args.episodes),
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
