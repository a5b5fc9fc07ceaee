"""Splits for evaluation: which combinations and wordings an episode may draw.

| split | combinations | wordings |
|---|---|---|
| ``seen`` | those that training draws | those that training draws |
| ``unseen-combination`` | at least one that training never draws | those that training draws |
| ``unseen-wording`` | those that training draws | those that training never draws |
| ``unseen-cell`` | as ``seen``; what is new is the world file that the request names | as ``seen`` |

A request without a split (training, demonstrations) gets the task's default. For most tasks that is ``seen``. ``pick``
and ``place`` drew every combination before there were splits, and still do, so that their episodes stay the same: a
model that was trained on that stream knows the combinations of their ``unseen-combination``, but no held-out wording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from vlm_agent_ros.errors import UserError

from .tasks import Task

SPLITS = ('seen', 'unseen-combination', 'unseen-wording', 'unseen-cell')


def check_split(split: str) -> None:
    """Refuse a split that does not exist; the empty one stands for the task's default.

    Raises:
        UserError: There is none of that name; the message lists those that there are.
    """
    if split and split not in SPLITS:
        raise UserError(f'no split named {split!r}: choose one of {", ".join(SPLITS)}, or leave it empty')


def held_out(pair: tuple[str, str]) -> bool:
    """Whether a combination is never drawn in training: one in five, by a hash, so for any names."""
    return int.from_bytes(hashlib.sha256(' and '.join(pair).encode()).digest()[:4], 'big') % 5 == 0


def wordings(task: Task, split: str) -> tuple[str, ...]:
    """The paraphrases that a split draws from.

    Raises:
        UserError: The task holds none out.
    """
    if split == 'unseen-wording' and not task.held_out_instructions:
        raise UserError(f'task {task.name} has no held_out_instructions: write some, or choose another split')
    return task.held_out_instructions if split == 'unseen-wording' else task.instructions


def admits(split: str, combinations: Iterable[tuple[str, str]]) -> bool:
    """Whether an episode with these combinations belongs to a split; the empty one admits all."""
    return not split or (split == 'unseen-combination') == any(map(held_out, combinations))
