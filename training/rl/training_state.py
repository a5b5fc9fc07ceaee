"""Training checkpoints: a policy's checkpoint with the optimiser and the run's state for an exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim_worlds.world_file import load_world
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.checkpoint import open_checkpoint, restore_policy, save_checkpoint
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy

from ..optimizer_state import restore, split_state
from .correction_memory import packed_corrections, unpacked_corrections
from .learner import Learner


def save_training(path: Path, policy: Policy, learner: Learner, state: dict[str, Any], config: dict[str, Any]) -> None:
    """Write a checkpoint from which training resumes and which deploys as it is.

    Args:
        path: Its directory.
        policy: In training.
        learner: Its optimiser, and what it remembers.
        state: JSON; where the run stands.
        config: JSON; the run's configuration.

    Raises:
        UserError: The disk is full or the place cannot be written to.
    """
    tensors, rest = split_state(learner.state_dict())
    camera = load_cell(load_world(config['world']).cell).camera if config['env'] == 'cell' else None
    parts = {'optimizer': tensors}
    documents: dict[str, Any] = {'optimizer_groups': rest, 'run_state': state, 'train_config': config}
    if learner.memory.samples:
        parts['corrections'], documents['corrections'] = packed_corrections(learner.memory.samples)
    save_checkpoint(path, policy, step=state['update'], metrics=state['evaluations'], camera=camera, tensors=parts,
                    documents=documents)


def restore_training(path: Path, learner: Learner) -> dict[str, Any]:
    """Give policy, optimiser and memory the state of a checkpoint.

    Returns:
        The state that the run had.

    Raises:
        UserError: It is missing or corrupt, belongs to another model, or was not written by a training run.
    """
    bundle = open_checkpoint(path)
    restore_policy(bundle, learner.policy)
    restore(learner.optimizer, bundle.tensors('optimizer'), bundle.document('optimizer_groups'), str(path))
    if 'corrections.json' in bundle.files:
        learner.memory.restore(unpacked_corrections(bundle.tensors('corrections'), bundle.document('corrections'),
                                                    learner.policy))
    return dict(bundle.document('run_state'))


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint.

    Raises:
        UserError: It is missing or corrupt, or was not written by a training run.
    """
    content = open_checkpoint(path).document('train_config')
    if not isinstance(content, dict):
        raise UserError(f'{path / "train_config.json"} is no mapping: use another checkpoint')
    return content
