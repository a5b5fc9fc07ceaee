"""``vlm-agent evaluate``: success of a model, a checkpoint or the scripted expert on held-out episodes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sim_worlds.splits import SPLITS
from vlm_agent_ros.errors import UserError

if TYPE_CHECKING:
    from .episodes import Episode
    from .evaluate import Plays

EXPERT = 'expert'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--checkpoint', default='tiny_vlm', help='checkpoint, model directory or models file; '
                        f'{EXPERT} = the scripted expert, in process')
    parser.add_argument('--task', default='place', help='task')
    parser.add_argument('--world', help='world file, by name or path (default: panda_table; shifted for the split '
                        'unseen-cell)')
    parser.add_argument('--split', default='', choices=SPLITS, help='combinations and wordings that are drawn '
                        '(default: those that training draws)')
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

    world = args.world or ('shifted' if args.split == 'unseen-cell' else 'panda_table')
    if args.checkpoint != EXPERT:
        from .transport import prepare

        prepare(args.transport)
    from .evaluate import evaluate
    from .metrics import write_atomically
    from .progress import Progress
    from .seeds import evaluation_seeds
    from .session import check_names, use_threads, versions

    use_threads(args.torch_threads)
    check_names(args.task, world)
    seeds = evaluation_seeds(args.episodes)
    with _player(args, world) as (player, transport), Progress(sys.stderr) as progress:
        phase = progress.phase(f'{args.task} in {world}', args.episodes)

        def show(episode: Episode) -> None:
            phase.advance()

        result = evaluate(player, args.task, world, seeds, split=args.split, temperature=args.temperature,
                          on_episode=show)
        phase.end('success {:.1%} ({:.1%} to {:.1%}, n = {})'.format(result.success, *result.ci95, result.n))
    text = json.dumps({**result.to_json(), 'checkpoint': args.checkpoint, 'transport': transport,
                       'first_seed': seeds[0], 'versions': versions()}, indent=2)
    if args.out:
        write_atomically(args.out, text + '\n')
    else:
        print(text)


@contextlib.contextmanager
def _player(args: argparse.Namespace, world: str) -> Iterator[tuple[Plays, str]]:
    """Who plays, and by which transport."""
    from .session import commanders, language_of

    if args.checkpoint == EXPERT:
        from vlm_agent_ros.policy.prompt import PromptTemplate

        from .expert_player import ExpertPlayer

        with contextlib.closing(ExpertPlayer(world, commanders(PromptTemplate()))) as expert:
            yield expert, 'in_process'
        return
    from vlm_agent_ros.checkpoint import load_policy

    from .episodes import Player
    from .transport import open_worlds

    policy = load_policy(args.checkpoint, language=language_of(world), constrained=not args.unconstrained)
    pool = open_worlds(args.transport, len(args.attach) or min(args.worlds, args.episodes), world, attach=args.attach)
    with contextlib.closing(pool):
        yield Player(policy, pool, commanders(policy.prompt), checkpoint=Path(args.checkpoint).name), pool.transport
