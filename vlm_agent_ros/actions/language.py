"""What an action language is, and the typed commands that the two shipped ones parse to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ActionError(ValueError):
    """A text that is not an action of the language; the message says why."""


@dataclass(frozen=True)
class Pick:
    """Grasp what is at an image cell (column from the left, row from the top)."""

    column: int
    row: int


@dataclass(frozen=True)
class Place:
    """Release what is held at an image cell."""

    column: int
    row: int


@dataclass(frozen=True)
class Stack:
    """Release what is held on top of the object at an image cell."""

    column: int
    row: int


@dataclass(frozen=True)
class Push:
    """Push what is at an image cell in a direction of the image: left, right, up (away from its bottom edge), down."""

    column: int
    row: int
    direction: str


@dataclass(frozen=True)
class Done:
    """The agent holds the task to be finished."""


@dataclass(frozen=True)
class Discrete:
    """An entry of a fixed list of actions."""

    index: int


Command = Pick | Place | Stack | Push | Done | Discrete


class ActionLanguage(Protocol):
    """Texts that a policy may write as its action.

    Attributes:
        name: Short name, e.g. ``skills``.
        regex: Regular expression (Rust syntax, no anchors) that matches exactly the legal texts; the constrained
            decoder compiles it.
        description: One line for the prompt.
        examples: Legal texts for the prompt.
    """

    name: str
    regex: str
    description: str
    examples: tuple[str, ...]

    def parse(self, text: str) -> Command:
        """The typed command, or an ActionError that says what is wrong."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of everything that defines the language; a checkpoint is bound to it."""
        ...
