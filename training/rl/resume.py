"""Where a run that was interrupted, or killed at any moment, goes on."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_agent_ros.checkpoint import open_checkpoint
from vlm_agent_ros.errors import UserError

from ..config import TrainConfig, merge
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
    else:
        folder, checkpoint = path.resolve().parent.parent, path.resolve()
    written = read_config(checkpoint) if checkpoint else _config_of(folder)
    # The worlds that it was attached to belonged to the launch that was interrupted.
    written.pop('attach', None)
    config = merge(TrainConfig, written, overrides, 'command line')
    for key in _FIXED:
        before, now = written.get(key, getattr(TrainConfig, key)), getattr(config, key)
        if before != now:
            raise UserError(f'{folder} is a run with {key} {before}, it cannot go on with {now}: leave '
                            f'--{key.replace("_", "-")} out, or start a new run with --model {checkpoint or folder}')
    return ResumePoint(folder, checkpoint, config)


def _newest_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint that can be read; None where none was ever finished."""
    reason = None
    for path in sorted(checkpoints.glob('step_*'), reverse=True):
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


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / 'config.json'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{folder} holds no checkpoint that is whole, and its config.json cannot be read ({error}): '
                        'start a new run') from error
    return dict(content)
