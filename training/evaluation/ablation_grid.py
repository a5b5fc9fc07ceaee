"""The file that declares an ablation, checked whole before anything is started."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_worlds.splits import check_split
from sim_worlds.world_file import world_place
from vlm_agent_ros.config import bounded, find_config, load_yaml, parse
from vlm_agent_ros.errors import UserError

from ..config import TrainConfig, merge

# An ablation gives every run its place, its seed and its evaluation itself.
_OWN = {'run_name': 'name', 'runs_dir': '--runs-dir', 'seed': 'seeds', 'eval_episodes': 'evaluate', 'attach': 'worlds'}


@dataclass(frozen=True)
class FinalEvaluation:
    """What the final checkpoint of every run is measured on: each split of each task in each world."""

    tasks: tuple[str, ...] = bounded((), help='none = the task of base')
    worlds: tuple[str, ...] = bounded((), help='none = the world of base')
    splits: tuple[str, ...] = bounded((), help='see sim_worlds/splits.py; none = what training draws')
    episodes: int = bounded(200, low=1, help='held-out episodes of each suite')


@dataclass(frozen=True)
class GridFile:
    """Content of a file in config/training/ablations.

    Every variant is trained at every point of the grid with every seed.
    """

    base: Any = bounded('ppo', help='training file, or a mapping of its keys')
    grid: dict[str, list[Any]] = bounded({}, help='values by training key')
    variants: dict[str, dict[str, Any]] = bounded({}, help='training keys by the name of a variant')
    seeds: tuple[int, ...] = bounded((0, 1, 2), low=0, help='seeds of each variant')
    evaluate: FinalEvaluation = FinalEvaluation()
    target: float = bounded(0.8, low=0.0, high=1.0, help='training success to which decisions are counted')


@dataclass(frozen=True)
class Cell:
    """One training run of an ablation.

    Attributes:
        config: All of its settings, its folder and seed included.
    """

    variant: str
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return Path(self.config.runs_dir).expanduser() / self.config.run_name

    def __str__(self) -> str:
        return f'{self.variant} seed {self.config.seed}'


@dataclass(frozen=True)
class Ablation:
    """A declared grid.

    Attributes:
        variants: Settings that differ from the base, by variant.
        evaluate: With tasks and worlds filled in.
        content: The file as it was read.
    """

    name: str
    variants: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]
    evaluate: FinalEvaluation
    target: float
    content: dict[str, Any]


def load_ablation(name: str, runs_dir: str) -> Ablation:
    """An ablation from its file.

    Args:
        name: Path of a YAML file, or name of a shipped one in config/training/ablations.
        runs_dir: Folder within which the ablation has its own.

    Raises:
        UserError: A key is unknown, or any run of the grid would have a wrong setting; the message names file and key.
    """
    path = find_config('training/ablations', name)
    content = load_yaml(path)
    grid = parse(GridFile, content, str(path))
    base, plain = _base(grid.base, path)
    variants = dict(_variants(grid, path))
    if not grid.seeds or len(set(grid.seeds)) < len(grid.seeds):
        raise UserError(f'{path}: seeds must name one seed or several different ones')
    cells = []
    for variant, fields in variants.items():
        for seed in grid.seeds:
            owned = {'runs_dir': runs_dir, 'run_name': f'{path.stem}/{variant}/seed{seed}', 'seed': seed,
                     'eval_episodes': 0, **({'attach': []} if plain.env == 'cell' else {})}
            cells.append(Cell(variant, merge(TrainConfig, base, {**fields, **owned}, f'{path}: {variant}')))
    if len({(cell.config.env, cell.config.env_id) for cell in cells} | {(plain.env, plain.env_id)}) > 1:
        raise UserError(f'{path}: env and env_id cannot be varied, because all runs are measured on the same episodes: '
                        'make an ablation of each environment')
    task, world = plain.scene
    asked = grid.evaluate
    if plain.env == 'gymnasium' and (asked.tasks or asked.worlds or asked.splits):
        raise UserError(f'{path}: evaluate names tasks, worlds or splits, but the base is a Gymnasium environment, '
                        'which has none: leave them out')
    evaluate = FinalEvaluation(asked.tasks or (task,), asked.worlds or (world,), asked.splits or ('',), asked.episodes)
    for key in ('tasks', 'worlds', 'splits'):
        named = getattr(evaluate, key)
        if len(set(named)) < len(named):
            raise UserError(f'{path}: evaluate.{key} names one of them twice: leave it out')
    for split in asked.splits:
        if not split:
            raise UserError(f'{path}: evaluate.splits names no split in one place: write seen, or leave it out')
        try:
            check_split(split)
        except UserError as error:
            raise UserError(f'{path}: evaluate.splits: {error}') from error
    seen = {world_place(world) for cell in cells for world in (cell.config.world, cell.config.own_world)}
    if 'unseen-cell' in asked.splits and (both := [world for world in evaluate.worlds if world_place(world) in seen]):
        raise UserError(f'{path}: evaluate.splits names unseen-cell, but the runs are trained in {both[0]}, or their '
                        'model was (own_world), which evaluate.worlds then may not be: name another world there')
    return Ablation(path.stem, variants, tuple(cells), evaluate, grid.target, content)


def _base(base: Any, path: Path) -> tuple[dict[str, Any], TrainConfig]:
    """The keys that the base sets, and the run that they describe."""
    source = f'{path}: base'
    if isinstance(base, str):
        source = str(find_config('training', base))
        base = load_yaml(Path(source))
    elif not isinstance(base, dict):
        raise UserError(f'{source} must be the name of a training file or a mapping, got {base!r}')
    return base, merge(TrainConfig, {}, base, source)


def _variants(grid: GridFile, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of every variant at every point of the grid."""
    if not grid.grid and not grid.variants:
        raise UserError(f'{path}: neither grid nor variants says what is to be varied')
    for key, values in grid.grid.items():
        if not values:
            raise UserError(f'{path}: grid.{key} has no values')
    _refuse_own(grid.grid, f'{path}: grid')
    seen: set[str] = set()
    for variant, fields in (grid.variants or {'': {}}).items():
        _refuse_own(fields, f'{path}: variants.{variant}')
        if both := sorted(fields.keys() & grid.grid.keys()):
            raise UserError(f'{path}: {both[0]} is set by grid and by variants.{variant}: leave one of them out')
        for choice in itertools.product(*grid.grid.values()):
            point = dict(zip(grid.grid, choice))
            name = _folder_name([str(variant)] * (variant != '') + [f'{key}={value}' for key, value in point.items()])
            if name in seen:
                raise UserError(f'{path}: two variants are named {name}: name them by hand under variants')
            seen.add(name)
            yield name, {**fields, **point}


def _refuse_own(fields: Iterable[str], source: str) -> None:
    for key in fields:
        if key in _OWN:
            raise UserError(f'{source}: {key} cannot be varied, because an ablation sets it for every run itself: see '
                            f'{_OWN[key]}')


def _folder_name(parts: list[str]) -> str:
    return re.sub(r'[^\w.,=+-]', '-', ','.join(parts)).strip('.') or '-'
