"""``vlm-agent sft``: a model from demonstrations, as an ordinary Hugging Face directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlm_agent_ros.config import find_config, load_yaml, parse
from vlm_agent_ros.errors import UserError

from ..rl.run_folder import claimed

_STAGES = ('vision', 'text', 'joint')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; what is not given is taken from the training file."""
    parser.add_argument('--config', default='sft', metavar='NAME|FILE',
                        help='training file in config/training, by name or path (default: sft)')
    parser.add_argument('--data', nargs='+', metavar='FOLDER', help='datasets of `vlm-agent record`')
    parser.add_argument('--out', type=Path, default=Path('runs/sft'), metavar='FOLDER',
                        help='model directory that results (default: runs/sft); the same command continues a run that '
                             'was cut off')
    parser.add_argument('--model', metavar='NAME|FILE', help='models file whose prompt, base and LoRA are used')
    parser.add_argument('--cot', action=argparse.BooleanOptionalAction, help='learn the thoughts, or empty ones')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda (default: auto)')
    parser.add_argument('--seed', type=int, metavar='N', help='seed of weights, order, split and augmentation')
    for stage in _STAGES:
        parser.add_argument(f'--{stage}-steps', type=int, metavar='N', help=f'optimiser steps of the {stage} stage')


def run(args: argparse.Namespace) -> None:
    """Train and print what was reached on held-out demonstrations.

    Raises:
        UserError: A file is missing or does not fit, or the disk is full.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    # Imported here: PyTorch takes a second that `--help` should not.
    from transformers.utils.logging import disable_progress_bar

    from .sft_trainer import SftConfig, SftTrainer

    disable_progress_bar()
    config = parse(SftConfig, _mapping(args), f'{args.config} with the options given')
    with claimed(args.out, 'model', '--out'):
        trainer = SftTrainer(config, args.out, args.device)
        try:
            trainer.train()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f'stopped: the same command continues from {trainer.saved}') from None
        summary = trainer.finish()
    print(f'{args.out}: {summary["parameters"]} parameters, {summary["seconds"]:.0f} s; '
          + ', '.join(f'{name} {value:.3f}' for name, value in summary['greedy'].items()))


def _mapping(args: argparse.Namespace) -> dict[str, Any]:
    """The training file with the options over it."""
    path = find_config('training', args.config)
    mapping = load_yaml(path)
    given = {key: getattr(args, key) for key in ('data', 'model', 'cot', 'seed')}
    mapping.update({key: value for key, value in given.items() if value is not None})
    for stage in _STAGES:
        steps, settings = getattr(args, f'{stage}_steps'), mapping.get(stage) or {}
        if not isinstance(settings, dict):
            raise UserError(f'{path}: {stage} must be a mapping, got {settings!r}')
        if steps is not None:
            mapping[stage] = {**settings, 'steps': steps}
    return mapping
