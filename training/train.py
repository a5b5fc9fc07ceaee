"""``vlm-agent train``: from a configuration to a finished run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from vlm_agent_ros.errors import UserError

from .config import TrainConfig, load_train_config, merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options: every field of ``TrainConfig``, and where it comes from."""
    from .cli import add_config_flags

    parser.add_argument('--config', default=None, metavar='NAME|FILE',
                        help='training file in config/training, by name or path (default: ppo)')
    parser.add_argument('--resume', default=None, metavar='CHECKPOINT',
                        help='continue the run of this checkpoint, e.g. runs/x/checkpoints/latest; its configuration '
                             'holds unless flags change it')
    add_config_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Train.

    Raises:
        UserError: Bad input, told before any world is started; or a disk that is full.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    started = time.perf_counter()
    config, resume = configuration(args), _resumed(args)
    path = _run_path(config, resume, hasattr(args, 'run_name'))

    # After the configuration, because these bring the simulator, ROS and PyTorch.
    from .transport import open_worlds, prepare

    prepare(config.transport)
    from vlm_agent_ros.checkpoint import load_policy

    from .progress import Progress
    from .run_folder import RunFolder
    from .session import check_names, commanders, language_of, use_threads
    from .trainer import Trainer

    use_threads(config.torch_threads)
    check_names(config.task, config.world, *([config.own_world] if config.own_world else []))
    policy = load_policy(config.model, language=language_of(config.world), constrained=config.constrained,
                         seed=config.seed)
    folder = RunFolder(path)
    pool = open_worlds(config.transport, config.worlds, config.world, attach=config.attach, logs=path / 'logs')
    try:
        trainer = Trainer(config, folder, policy, pool, commanders(policy.prompt, config.illegal_rule), Progress(),
                          resume)
        summary = trainer.run(started)
    finally:
        pool.close()
    print(_closing_words(summary, path), flush=True)


def configuration(args: argparse.Namespace) -> TrainConfig:
    """What the options amount to: the training file, or the configuration of the resumed run, with flags over it.

    Raises:
        UserError: A key or a flag is wrong, or the checkpoint is unusable.
    """
    from .cli import config_overrides

    overrides, resume = config_overrides(args), _resumed(args)
    if resume is None:
        return load_train_config(args.config or 'ppo', overrides)
    if args.config is not None:
        raise UserError('--config and --resume exclude each other: a resumed run keeps its configuration, which single '
                        'flags may change')
    from .training_state import read_config

    # The worlds that it was attached to belonged to the launch that was interrupted.
    return merge(TrainConfig, {**read_config(resume), 'attach': []}, overrides, 'command line')


def _resumed(args: argparse.Namespace) -> Path | None:
    return Path(args.resume).expanduser().resolve() if args.resume else None


def _run_path(config: TrainConfig, resume: Path | None, renamed: bool) -> Path:
    from .run_folder import new_run_path

    if resume is not None and not renamed:
        return resume.parent.parent
    return new_run_path(config.runs_dir, config.run_name or time.strftime(f'{config.task}-%Y%m%d-%H%M%S'))


def _closing_words(summary: dict[str, Any], path: Path) -> str:
    before, after = summary['before'], summary['after']
    result = ''
    if before and after:
        result = (f'held-out success on {summary["task"]} in {summary["world"]}: {before["success"]:.1%} before, '
                  f'{after["success"]:.1%} after; ')
    return f'{result}see {path / "report.html"}'
