"""Reading a world file, with everything in it checked against the tasks that there are."""

from __future__ import annotations

from typing import Any

from vlm_agent_ros.bundle import sha256_of
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.config import find_config, load_yaml, parse
from vlm_agent_ros.errors import UserError

from .config import TERMS, Objects, WorldConfig
from .scene import TABLE_CENTRE, TABLE_HALF
from .tasks import TASKS


def load_world(name: str) -> WorldConfig:
    """A world by shipped name or path of its YAML file.

    Raises:
        UserError: The file or that of its cell is missing, or a key is unknown or out of range.
    """
    path = find_config('worlds', name)
    content = load_yaml(path)
    if 'path' in content:
        raise UserError(f"{path}: unknown key 'path': remove it, the path of the file is its own")
    config = parse(WorldConfig, {**_with_defaults(content), 'path': str(path)}, str(path))
    objects = config.objects
    if len(objects.palette) < max(objects.cubes, objects.pads):
        raise UserError(f'{path}: objects.palette has {len(objects.palette)} colours, fewer than the cubes or pads')
    span = min(high - low for low, high in zip(objects.span_low, objects.span_high))
    if span < max(objects.large_pad_size[1], objects.tray_size[1]):
        raise UserError(f'{path}: objects.span_low … span_high is {span:.2f} m wide, less than large_pad_size or '
                        'tray_size: enlarge it, or make them smaller')
    for key in ('turn_limits', 'task_rewards'):
        for task in getattr(config, key).keys() - TASKS.keys():
            raise UserError(f'{path}: {key} names {task!r}, but the tasks are {", ".join(sorted(TASKS))}')
    for task, limit in config.turn_limits.items():
        if not 1 <= limit <= 50:
            raise UserError(f'{path}: turn_limits.{task} is {limit}, but must be between 1 and 50')
    known = {*TERMS, *(name for task in TASKS.values() for name in task.term_names)}
    for name in {*config.reward, *(name for weights in config.task_rewards.values() for name in weights)} - known:
        raise UserError(f'{path}: reward names {name!r}, but the terms are {", ".join(sorted(known))}')
    spans = [(part, key) for part, keys in (
        ('objects', ('cube_size', 'pad_size', 'large_pad_size', 'tray_size', 'distractors')),
        ('appearance', ('ambient', 'diffuse', 'noise')),
        ('dynamics', ('friction', 'mass', 'command_latency_s', 'camera_latency_s'))) for key in keys]
    for part, key in spans:
        low, high = getattr(getattr(config, part), key)
        if low > high:
            raise UserError(f'{path}: {part}.{key} is [{low}, {high}], but its lower end must come first')
    for axis in (0, 1):
        if objects.area_low[axis] >= objects.area_high[axis]:
            raise UserError(f'{path}: objects.area_low is {list(objects.area_low)}, but must be less than '
                            f'objects.area_high in x and y')
    _check_reach(config)
    return config


def _with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """Rewards and turn limits of the shipped cell for a file that says nothing of them: without, nothing would be
    rewarded, and a task of twelve turns would end after four."""
    shipped = load_yaml(find_config('worlds', 'panda_table'))
    if 'reward' not in content:
        content = {'task_rewards': shipped['task_rewards'], **content, 'reward': shipped['reward']}
    given = content.get('turn_limits', {})
    return {**content, 'turn_limits': {**shipped['turn_limits'], **given} if isinstance(given, dict) else given}


def _check_reach(config: WorldConfig) -> None:
    """Refuse objects where the tool may not be, or where there is no table to lie on.

    A file that does not say where large pads and trays lie may be for other tasks.
    """
    workspace, objects = load_cell(config.cell).workspace, config.objects
    said = (objects.span_low, objects.span_high) != (Objects.span_low, Objects.span_high)
    for key in ('area', 'span') if said else ('area',):
        for axis, name in enumerate('xy'):
            low, high = (getattr(objects, f'{key}_{end}')[axis] for end in ('low', 'high'))
            least = max(workspace.low[axis], TABLE_CENTRE[axis] - TABLE_HALF[axis])
            most = min(workspace.high[axis], TABLE_CENTRE[axis] + TABLE_HALF[axis])
            if low < least or high > most:
                raise UserError(f'{config.path}: objects.{key}_low … {key}_high goes from {low:g} to {high:g} m in '
                                f'{name}, but the workspace of cell {config.cell} and the table from {least:g} to '
                                f'{most:g}: keep within')


def world_digest(name: str) -> str:
    """SHA-256 (hex) of what a world file and its cell file say."""
    return sha256_of(find_config('worlds', name), find_config('cells', load_world(name).cell))


def world_place(name: str) -> str:
    """A world file by its place, as both its name and a path give it; the name where it is not on this machine."""
    try:
        return str(find_config('worlds', name).resolve())
    except UserError:
        return name
