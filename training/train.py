"""``vlm-agent train``: from a configuration to a finished run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_agent_ros.errors import UserError

from .config import TrainConfig, load_train_config

if TYPE_CHECKING:  # brings the simulator with it
    from .resume import ResumePoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options: every field of ``TrainConfig``, and where it comes from."""
    from .cli import add_config_flags

    parser.add_argument('--config', default=None, metavar='NAME|FILE',
                        help='training file in config/training, by name or path (default: ppo)')
    parser.add_argument('--resume', default=None, metavar='RUN|CHECKPOINT',
                        help='continue a run from its newest checkpoint, e.g. runs/x, or from the one that is given; '
                             'its configuration holds unless flags change it')
    add_config_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Train.

    Raises:
        UserError: Bad input, told before any world is started; or a disk that is full.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    started = time.perf_counter()
    from .cli import config_overrides

    overrides = config_overrides(args)
    resume = _resume_point(args.config, args.resume, overrides)
    config = resume.config if resume else load_train_config(args.config or 'ppo', overrides)
    path = _run_path(config, resume, 'run_name' in overrides)

    # After the configuration, because these bring the simulator, ROS and PyTorch.
    from .transport import open_worlds, prepare

    prepare(config.transport)
    from vlm_agent_ros.checkpoint import load_policy, open_checkpoint, restore_policy

    from .progress import Progress
    from .run_folder import RunFolder
    from .session import check_names, commanders, language_of, use_threads
    from .trainer import Trainer

    use_threads(config.torch_threads)
    check_names(config.task, config.world, *([config.own_world] if config.own_world else []))
    policy = load_policy(config.model, language=language_of(config.world), constrained=config.constrained,
                         cot=config.cot, seed=config.seed)
    checkpoint = resume.checkpoint if resume else None
    if checkpoint is not None:
        restore_policy(open_checkpoint(checkpoint), policy)  # refuses another model before any world is started
    folder = RunFolder(path)
    pool = open_worlds(config.transport, config.worlds, config.world, attach=config.attach, logs=path / 'logs')
    try:
        trainer = Trainer(config, folder, policy, pool, commanders(policy.prompt, config.illegal_rule), Progress(),
                          checkpoint)
        summary = trainer.run(started)
    finally:
        pool.close()
    print(_closing_words(summary, path), flush=True)


def _resume_point(config: str | None, resume: str | None, overrides: dict[str, Any]) -> ResumePoint | None:
    if resume is None:
        return None
    if config is not None:
        raise UserError('--config and --resume exclude each other: a resumed run keeps its configuration, which single '
                        'flags may change')
    from .resume import find_resume_point

    return find_resume_point(resume, overrides)


def _run_path(config: TrainConfig, resume: ResumePoint | None, renamed: bool) -> Path:
    from .run_folder import new_run_path

    if resume is not None and not renamed:
        return resume.folder
    return new_run_path(config.runs_dir, config.run_name or time.strftime(f'{config.task}-%Y%m%d-%H%M%S'))


def _closing_words(summary: dict[str, Any], path: Path) -> str:
    before, after = summary['before'], summary['after']
    result = ''
    if before and after:
        result = (f'held-out success on {summary["task"]} in {summary["world"]}: {before["success"]:.1%} before, '
                  f'{after["success"]:.1%} after; ')
    return f'{result}see {path / "report.html"}'
