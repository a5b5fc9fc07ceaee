"""One run of an ablation: ``vlm-agent train``, then ``vlm-agent evaluate``, in a process of its own.

How far a run has come stands in its folder and nowhere else: ``summary.json`` is there when it is trained, and
``evaluation.json`` of the right episodes when it is measured. So the same command goes on after whatever ended it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sim_worlds.world_file import world_digest
from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.process import NodeProcess, end_with_parent

from ..config import TrainConfig, as_mapping, load_train_config
from ..metrics import write_atomically
from .ablation_grid import Cell, FinalEvaluation

if TYPE_CHECKING:
    from .evaluate import Suite

SETTINGS = 'training.yaml'
SUMMARY = 'summary.json'
EVALUATION = 'evaluation.json'


def check_settings(cell: Cell) -> None:
    """Refuse a folder that holds a run with other settings.

    Raises:
        UserError: Naming the folder and the first setting that differs.
    """
    path = cell.folder / SETTINGS
    if not path.exists():
        if (cell.folder / 'metrics.jsonl').exists() or (cell.folder / SUMMARY).exists():
            raise UserError(f'{cell.folder} holds a run that is not of an ablation: choose another --runs-dir')
        return
    there, wanted = as_mapping(load_train_config(str(path), {})), as_mapping(cell.config)
    for key in wanted:
        if there[key] != wanted[key]:
            raise UserError(f'{cell.folder} holds a run with {key} {there[key]!r}, but the grid now says '
                            f'{wanted[key]!r}: delete that folder, or choose another --runs-dir')


def check_worlds(cell: Cell, plan: Iterable[Suite]) -> None:
    """Refuse a run that was measured before a world file was changed: the same seeds are other scenes now.

    Raises:
        UserError: Naming folder and world.
    """
    from .evaluator import read_evaluation, worlds_of

    path = cell.folder / EVALUATION
    measured = worlds_of(read_evaluation(path)) if path.exists() else {}
    for suite in plan:
        if (digest := measured.get(suite)) and digest != world_digest(suite.world):
            raise UserError(f'{cell.folder} holds a run of before the world file or cell file of {suite.world} was '
                            'changed: delete that folder, or choose another --runs-dir')


def is_trained(folder: Path) -> bool:
    """Whether the training run in a folder has come to its end."""
    return (folder / SUMMARY).exists()


def is_evaluated(folder: Path, evaluation: FinalEvaluation) -> bool:
    """Whether the final checkpoint has been measured on the episodes that are asked for."""
    from .evaluator import plan_of, read_evaluation

    path = folder / EVALUATION
    return path.exists() and plan_of(read_evaluation(path)) == plan_of_grid(evaluation)


def plan_of_grid(evaluation: FinalEvaluation) -> dict[Suite, list[int]]:
    """The held-out seeds of every suite, in the order of the grid file."""
    from .evaluate import make_plan

    return make_plan(evaluation.tasks, evaluation.worlds, evaluation.splits, evaluation.episodes)


def start(cell: Cell, evaluation: FinalEvaluation) -> NodeProcess:
    """Start or continue a run; its process ends with this one, and its output goes to ``log.txt`` in its folder.

    Raises:
        UserError: The folder cannot be written to.
    """
    settings = yaml.safe_dump(as_mapping(cell.config), allow_unicode=True, sort_keys=False)
    write_atomically(cell.folder / SETTINGS, settings)
    command = [sys.executable, '-m', __name__, str(os.getpid()), str(cell.folder), json.dumps(asdict(evaluation))]
    process = NodeProcess(command, dict(os.environ), cell.folder / 'log.txt')
    process.start()
    return process


def main(parent_pid: str, folder: str, evaluation: str) -> int:
    """What the process does.

    Returns:
        The exit status of the first command that fails, or 0.
    """
    end_with_parent(int(parent_pid))
    # After the line above: PyTorch takes a second, in which the parent may die.
    from ..cli import main as command

    path, asked = Path(folder), parse(FinalEvaluation, json.loads(evaluation), 'evaluate')
    if not is_trained(path) and (status := command(train_arguments(path))):
        return status
    if not is_evaluated(path, asked):
        return command(_evaluate_arguments(path, asked))
    return 0


def train_arguments(folder: Path) -> list[str]:
    """The command that begins the run of a folder, or continues it."""
    if (folder / 'config.json').exists():
        return ['train', '--resume', str(folder)]
    return ['train', '--config', str(folder / SETTINGS)]


def _evaluate_arguments(folder: Path, evaluation: FinalEvaluation) -> list[str]:
    config: TrainConfig = load_train_config(str(folder / SETTINGS), {})
    best = folder / 'checkpoints' / 'best'
    checkpoint = best if config.select == 'best' and best.exists() else folder / 'checkpoints' / 'latest'
    splits = ['--split', *evaluation.splits] if any(evaluation.splits) else []
    where = ['--task', *evaluation.tasks, '--world', *evaluation.worlds, *splits, '--transport', config.transport]
    if config.env == 'gymnasium':
        # Without one it is the model's own, which an empty --prompt would replace by the general one.
        prompt = [f'--prompt={config.prompt}'] if config.prompt else []
        where = ['--env', 'gymnasium', '--env-id', config.env_id, '--import', config.import_, *prompt,
                 '--actions', json.dumps(config.actions)]
    return ['evaluate', '--checkpoint', str(checkpoint), *where,
            '--episodes', str(evaluation.episodes), '--temperature', str(config.eval_temperature),
            '--worlds', str(config.worlds), '--illegal-rule', config.illegal_rule,
            '--torch-threads', str(config.torch_threads), *([] if config.constrained else ['--unconstrained']),
            '--out', str(folder / EVALUATION)]


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
