"""``vlm-agent train``: from a configuration to a finished run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_agent_ros.errors import UserError

from .config import TrainConfig, load_train_config, merge

if TYPE_CHECKING:
    from .environment import Environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options: every field of ``TrainConfig``, and where it comes from."""
    from .cli import add_config_flags

    parser.add_argument('--config', default=None, metavar='NAME|FILE',
                        help='training file in config/training, by name or path (default: ppo; gymnasium with '
                             '--env gymnasium)')
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
    from .cli import config_overrides

    overrides = config_overrides(args)
    resume = Path(args.resume).expanduser().resolve() if args.resume else None
    config = _configure(args.config, resume, overrides)
    path = _run_path(config, resume, 'run_name' in overrides)

    environment = _environment(config)
    # After the environment, because these bring PyTorch.
    from vlm_agent_ros.checkpoint import load_policy

    from .progress import Progress
    from .run_folder import RunFolder
    from .session import use_threads
    from .trainer import Trainer

    use_threads(config.torch_threads)
    policy = load_policy(config.model, language=environment.language, prompt=environment.prompt,
                         constrained=config.constrained, seed=config.seed)
    folder = RunFolder(path)
    pool = environment.open(config.worlds, path / 'logs')
    try:
        commander_of = environment.commanders(policy.prompt, config.illegal_rule)
        trainer = Trainer(config, folder, policy, pool, commander_of, Progress(), resume)
        summary = trainer.run(started)
    finally:
        pool.close()
    print(_closing_words(summary, path), flush=True)


def _configure(name: str | None, resume: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    if resume is None:
        shipped = 'gymnasium' if overrides.get('env') == 'gymnasium' else 'ppo'
        return load_train_config(name or shipped, overrides)
    if name is not None:
        raise UserError('--config and --resume exclude each other: a resumed run keeps its configuration, which single '
                        'flags may change')
    from .training_state import read_config

    return merge(TrainConfig, read_config(resume), overrides, 'command line')


def _environment(config: TrainConfig) -> Environment:
    # After the configuration, because these bring PyTorch and the simulator and ROS, or the user's environment.
    if config.env == 'gymnasium':
        from .gymnasium_environment import GymnasiumEnvironment

        return GymnasiumEnvironment(config)
    from .transport import prepare

    prepare(config.transport)
    from .environment import CellEnvironment

    worlds = [config.world, *([config.own_world] if config.own_world else [])]
    return CellEnvironment(config.task, worlds, config.transport, config.attach)


def _run_path(config: TrainConfig, resume: Path | None, renamed: bool) -> Path:
    from .run_folder import new_run_path

    if resume is not None and not renamed:
        return resume.parent.parent
    subject = config.scene[0].replace('/', '-').replace(':', '-')
    return new_run_path(config.runs_dir, config.run_name or time.strftime(f'{subject}-%Y%m%d-%H%M%S'))


def _closing_words(summary: dict[str, Any], path: Path) -> str:
    before, after = summary['before'], summary['after']
    result = ''
    if before and after:
        result = (f'held-out success on {summary["task"]} in {summary["world"]}: {before["success"]:.1%} before, '
                  f'{after["success"]:.1%} after; ')
    return f'{result}see {path / "report.html"}'
