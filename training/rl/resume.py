"""Where a run that was interrupted, or killed at any moment, goes on."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm_agent_ros.checkpoint import config_of, is_checkpoint, open_checkpoint, restore_policy
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig, merge
from .run_folder import steps_in
from .training_state import read_config

_FIXED = ('algorithm', 'cot', 'worlds', 'group_size', 'env', 'env_id', 'task', 'world', 'seed')
"""What a run is made of; a change would go on with something else under the same name, and report what was measured
of the one before as its beginning."""


@dataclass(frozen=True)
class ResumePoint:
    """A run and the state that it goes on from.

    Attributes:
        folder: Of the run.
        checkpoint: None where the run was killed before its first one: it starts again.
        config: Its configuration, with flags over it.
    """

    folder: Path
    checkpoint: Path | None
    config: TrainConfig


def find_resume_point(name: str, overrides: dict[str, Any]) -> ResumePoint:
    """What ``--resume`` means.

    Args:
        name: A run folder or its ``checkpoints/latest``, for the newest checkpoint that is whole; or a checkpoint.
        overrides: Flags over the configuration of the run.

    Raises:
        UserError: There is no such run or checkpoint, no whole one, or a flag would make another run of it.
    """
    path = Path(name).expanduser().absolute()
    if path.name == 'latest':
        path = path.parent.parent
    if (path / 'config.json').is_file() or (path / 'checkpoints').is_dir():
        folder, checkpoint = path, _newest_whole(path / 'checkpoints')
        newest = True
    else:
        folder, checkpoint = path.resolve().parent.parent, path.resolve()
        newest = checkpoint in steps_in(path.resolve().parent)[-1:]
    written = _settings(folder, checkpoint, newest)
    # The worlds that it was attached to belonged to the launch that was interrupted.
    written.pop('attach', None)
    try:
        config = merge(TrainConfig, written, overrides, 'command line')
    except UserError:
        _check_configuration(written, folder, checkpoint)  # if it is not the flags' fault, the run has to be named
        raise
    for key in _FIXED:
        before, now = written.get(key, getattr(TrainConfig, key)), getattr(config, key)
        if before != now:
            flag = 'no-cot' if key == 'cot' and before else key.replace('_', '-')
            raise UserError(f'{folder} is a run with {key} {before}, it cannot go on with {now}: leave --{flag} out, '
                            f'or start a new run with --model {checkpoint or folder}')
    # Another name of the same base does no harm, and whether it is the same is seen when it has been loaded.
    if config.model != written.get('model') and is_checkpoint(Path(config.model).expanduser()):
        raise UserError(f'{folder} goes on from its own weights, not from those of {config.model}: leave --model out, '
                        'or start a new run with it')
    return ResumePoint(folder, checkpoint, config)


def restore_run(checkpoint: Path, policy: Policy) -> None:
    """Give the policy of a run's configuration the weights of its checkpoint.

    Raises:
        UserError: As of ``restore_policy``, or the models file says otherwise how to write than when the run began.
    """
    bundle = open_checkpoint(checkpoint)
    restore_policy(bundle, policy)
    before, now = asdict(config_of(bundle).decoding), asdict(policy.config.decoding)
    for key in before:
        if before[key] != now[key] and key != 'constrained':  # which a run may change
            raise UserError(f'{checkpoint} was written with decoding.{key} {before[key]}, the models file says '
                            f'{now[key]}: make them equal, or start a new run with --model {checkpoint}')


def _newest_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint that can be read; None where none was ever finished."""
    reason = None
    for path in reversed(steps_in(checkpoints)):
        try:
            open_checkpoint(path)
        except UserError as error:
            reason = error
            print(f'vlm-agent: {error}; trying the one before', file=sys.stderr)
        else:
            return path
    if reason is not None:
        raise UserError(f'none of the checkpoints in {checkpoints} can be read, the oldest because {reason}')
    return None


def _settings(folder: Path, checkpoint: Path | None, newest: bool) -> dict[str, Any]:
    """What a run goes on with. Its config.json is of its last start, which may have changed what the newest checkpoint
    says and have ended before it wrote another one."""
    if checkpoint is None:
        return _config_of(folder)
    written = read_config(checkpoint)
    if newest:
        with suppress(UserError):
            return _config_of(folder)
    return written


def _check_configuration(written: dict[str, Any], folder: Path, checkpoint: Path | None) -> None:
    try:
        merge(TrainConfig, {}, written, 'its configuration')
    except UserError as error:
        raise UserError(f'{folder} holds no run that could go on ({error}): begin one with --model '
                        f'{checkpoint or folder}') from error


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / 'config.json'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(content, dict):
            raise ValueError('it is no mapping')
    except (OSError, ValueError) as error:
        raise UserError(f'{folder} holds no checkpoint that is whole, and its config.json cannot be read ({error}): '
                        'start a new run') from error
    return content
