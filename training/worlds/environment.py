"""What a run takes place in: all that the commands know of it, and the simulated cell behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sim_worlds.world_file import world_digest
from vlm_agent_ros.actions import ActionLanguage
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.prompt import PromptTemplate

from ..session import check_names, commanders, language_of
from .commands import CommanderOf
from .expert_player import ExpertPlayer
from .pool import WorldPool
from .transport import open_worlds


class Environment(Protocol):
    """Worlds of one kind, with what a policy has to know to act in them; made and checked before a model is loaded."""

    @property
    def language(self) -> ActionLanguage:
        """All the actions."""
        ...

    @property
    def prompt(self) -> PromptTemplate | None:
        """The template of the user message; None where it belongs to the model."""
        ...

    def open(self, count: int, logs: Path | None = None) -> WorldPool:
        """Start worlds; what they have to say goes to the folder ``logs``."""
        ...

    def commanders(self, prompt: PromptTemplate, illegal_rule: str) -> CommanderOf:
        """The commanders of its worlds; ``illegal_rule`` as in ``TrainConfig``."""
        ...

    def digest(self, world: str) -> str:
        """SHA-256 (hex) of what a world's episodes are made from; empty where that is not known."""
        ...

    def expert(self) -> ExpertPlayer:
        """The scripted expert, who needs no worlds but his own.

        Raises:
            UserError: There is none.
        """
        ...


class CellEnvironment:
    """The simulated cell.

    Args:
        tasks: Tasks of the episodes.
        worlds: World files; worlds start with the first.
        transport: ``ros`` or ``in-process``.
        attach: Namespaces of running worlds.

    Raises:
        UserError: A task or a world does not exist, or the worlds do not share an action language.
    """

    prompt = None

    def __init__(self, tasks: Sequence[str], worlds: Sequence[str], transport: str, attach: Sequence[str] = ()) -> None:
        check_names(tasks, worlds)
        self._world, self._transport, self._attach = worlds[0], transport, attach
        self.language = language_of(self._world)
        for other in worlds[1:]:
            if language_of(other).digest() != self.language.digest():
                raise UserError(f'the worlds {self._world} and {other} have different action languages, because the '
                                'grids of their cells differ: take worlds of one grid (in training own_world is one '
                                "of them, which --own-world '' leaves out)")

    def open(self, count: int, logs: Path | None = None) -> WorldPool:
        """See Environment."""
        return open_worlds(self._transport, count, self._world, attach=self._attach, logs=logs)

    def commanders(self, prompt: PromptTemplate, illegal_rule: str) -> CommanderOf:
        """See Environment."""
        return commanders(prompt, 'lost_turn' if illegal_rule == 'auto' else illegal_rule)

    def digest(self, world: str) -> str:
        """See Environment."""
        return world_digest(world)

    def expert(self) -> ExpertPlayer:
        """See Environment."""
        return ExpertPlayer(self._world, commanders(PromptTemplate()))
