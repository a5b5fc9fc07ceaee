"""``vlm-agent train``: from a configuration to a finished run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_agent_ros.errors import UserError

from ..config import TrainConfig, load_train_config, unread

if TYPE_CHECKING:  # these bring PyTorch and the simulator with them
    from vlm_agent_ros.policy.policy import Policy

    from ..worlds.environment import Environment
    from .learner_group import LearnerGroup
    from .resume import ResumePoint
    from .rollout import Players


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options: every field of ``TrainConfig``, and where it comes from."""
    from ..cli import add_config_flags

    parser.add_argument('--config', default=None, metavar='NAME|FILE',
                        help='training file in config/training, by name or path (default: ppo; gymnasium with '
                             '--env gymnasium)')
    parser.add_argument('--resume', default=None, metavar='RUN|CHECKPOINT',
                        help='continue a run from its newest checkpoint, e.g. runs/x, or from the one that is given; '
                             'its configuration holds unless flags change it')
    parser.add_argument('--from-cell', nargs='+', type=Path, metavar='LOG', help='learn from audit logs of a cell '
                        '(files or folders) instead of playing; --world is then where success is measured before and '
                        'after, without it nothing is simulated (training file: from_cell)')
    parser.add_argument('--cell', metavar='NAME|FILE', help='cell file of the cell that was logged (--from-cell; '
                        'default: as the log says)')
    add_config_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Train.

    Raises:
        UserError: Bad input, told before any world is started; or a disk that is full.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    if args.from_cell:
        _learn_from_cell(args)
        return
    if args.cell is not None:
        raise UserError('--cell belongs to --from-cell: a world file names its cell, give --world')
    from ..cli import config_overrides

    started = time.perf_counter()
    config, resume = configuration(args)
    for words in unread(config, config_overrides(args)):
        print(f'warning: {words}', flush=True)
    path = _run_path(config, resume, hasattr(args, 'run_name'))

    environment = environment_of(config)
    # After the environment, because these bring PyTorch.
    from ..session import use_threads
    from .learner_group import learner_group
    from .resume import restore_run

    use_threads(config.torch_threads)
    with learner_group() as group:
        policy = policy_of(config, environment)
        if group is not None and group.rank > 0:
            _follow(config, policy, group)
            return
        checkpoint = resume.checkpoint if resume else None
        if checkpoint is not None:
            restore_run(checkpoint, policy)  # refuses another model before any world is started
        summary = _lead(config, environment, policy, path, checkpoint, group, started)
    print(_closing_words(summary, path), flush=True)


def _lead(config: TrainConfig, environment: Environment, policy: Policy, path: Path, checkpoint: Path | None,
          group: LearnerGroup | None, started: float) -> dict[str, Any]:
    """The run; the content of its summary.json."""
    from ..progress import Progress
    from .run_folder import RunFolder, claimed
    from .trainer import Trainer

    with claimed(path), _players(config, environment, policy, path / 'logs') as players:
        commander_of = environment.commanders(policy.prompt, config.illegal_rule)
        trainer = Trainer(config, RunFolder(path), policy, players, commander_of, Progress(), checkpoint, group)
        return trainer.run(started)


def _follow(config: TrainConfig, policy: Policy, group: LearnerGroup) -> None:
    """What a process of the learner does that is not the first."""
    from ..session import use_threads
    from .learner import Learner

    use_threads(config.update_threads)
    Learner(policy, config, config.seed, group=group).follow()


def policy_of(config: TrainConfig, environment: Environment, device: str = 'auto') -> Policy:
    """The policy that a run starts from, on a device as ``load_policy`` takes it.

    Raises:
        UserError: As of ``load_policy``, or it does not fit into the memory of its device.
    """
    from vlm_agent_ros.checkpoint import load_policy
    from vlm_agent_ros.policy.config import tells_prompt

    from ..device_memory import with_memory_advice

    prompt = None if tells_prompt(config.model) and not config.prompt else environment.prompt

    def load() -> Policy:
        return load_policy(config.model, language=environment.language, prompt=prompt,
                           constrained=config.constrained, cot=config.cot, device=device, seed=config.seed)

    return with_memory_advice(load, 'loading the model', 'choose a smaller one, or dtype or quantization in its '
                              'models file')


@contextmanager
def _players(config: TrainConfig, environment: Environment, policy: Policy, logs: Path) -> Iterator[Players]:
    """Worlds of this process, or workers, for as long as the context lasts."""
    if config.workers:
        from ..cluster.connection import connected
        from ..cluster.players import ClusterPlayers

        with connected(config, policy) as cluster, ClusterPlayers(config, policy, cluster) as workers:
            yield workers
        return
    from .rollout import LocalPlayers

    pool = environment.open(config.worlds, logs)
    try:
        yield LocalPlayers(config, policy, pool, environment.commanders(policy.prompt, config.illegal_rule))
    finally:
        pool.close()


def _learn_from_cell(args: argparse.Namespace) -> None:
    from ..cli import config_overrides
    from ..from_cell.config import CellTrainConfig

    if args.resume is not None:
        raise UserError('--from-cell and --resume exclude each other: give the checkpoint to start from as --model')
    overrides = config_overrides(args)
    cell = {} if args.cell is None else {'cell': args.cell}
    config = load_train_config(args.config or 'from_cell', {**overrides, **cell}, CellTrainConfig)
    if config.workers:
        raise UserError('--from-cell plays nothing that workers could play: set workers to 0')
    # After the configuration, because it brings PyTorch and the simulator.
    from ..from_cell.learn import learn_from_cell

    summary = learn_from_cell(args.from_cell, config, overrides.get('world', ''))
    before, after = (summary[name]['corrections'] for name in ('before', 'after'))
    measured = (f'; held-out corrections that it agrees with, to a cell: {before["within_1"]:.1%} before, '
                f'{after["within_1"]:.1%} after (n = {after["n"]})' if after['n'] else '')
    print(f'learned from {summary["learned"]}{measured}; see {summary["checkpoint"]}', flush=True)


def configuration(args: argparse.Namespace) -> tuple[TrainConfig, ResumePoint | None]:
    """What the options amount to: the training file, or the configuration of the resumed run, with flags over it.

    Raises:
        UserError: A key or a flag is wrong, or the checkpoint is unusable.
    """
    from ..cli import config_overrides

    overrides = config_overrides(args)
    if args.resume is None:
        return load_train_config(args.config or _shipped(overrides), overrides), None
    if args.config is not None:
        raise UserError('--config and --resume exclude each other: a resumed run keeps its configuration, which single '
                        'flags may change')
    from .resume import find_resume_point

    resume = find_resume_point(args.resume, overrides)
    return resume.config, resume


def _shipped(overrides: dict[str, Any]) -> str:
    """The training file where none is named."""
    return 'gymnasium' if overrides.get('env') == 'gymnasium' else 'ppo'


def environment_of(config: TrainConfig) -> Environment:
    """What a run takes place in.

    Raises:
        UserError: A task, a world or the environment does not exist or does not fit, or ROS is not installed.
    """
    # After the configuration, because these bring PyTorch and the simulator and ROS, or the user's environment.
    if config.env == 'gymnasium':
        from ..worlds.gymnasium_environment import GymnasiumEnvironment

        return GymnasiumEnvironment(config)
    from ..worlds.transport import prepare

    transport = 'in-process' if config.workers else config.transport
    prepare(transport)
    from ..worlds.environment import CellEnvironment

    worlds = [config.world, *([config.own_world] if config.own_world else [])]
    return CellEnvironment([config.task], worlds, transport, config.attach)


def _run_path(config: TrainConfig, resume: ResumePoint | None, renamed: bool) -> Path:
    from .run_folder import new_run_path

    if resume is not None and not renamed:
        return resume.folder
    subject = config.scene[0].replace('/', '-').replace(':', '-')
    return new_run_path(config.runs_dir, config.run_name or time.strftime(f'{subject}-%Y%m%d-%H%M%S'))


def _closing_words(summary: dict[str, Any], path: Path) -> str:
    before, after = summary['before'], summary['after']
    result = ''
    if before and after:
        result = (f'held-out success on {summary["task"]} in {summary["world"]}: {before["success"]:.1%} before, '
                  f'{after["success"]:.1%} after; ')
    return f'{result}see {path / "report.html"}'
