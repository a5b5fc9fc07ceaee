"""What every part of the cell check is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float | int | bool]
"""What a part measured: the keys that ``command.PARTS`` promises for it, and any others worth printing.

A part raises UserError where a process does not come up; a promise that is not kept is a figure, not an error.
"""


@dataclass(frozen=True)
class CheckSetup:
    """One run of the cell check.

    Attributes:
        seed: Seed of everything that is drawn; episodes are the held-out ones.
        quick: A few seconds per part, for the tests: too few trials for the figures to mean much.
        folder: Exists; each part keeps its logs in a folder of its name within it.
        cell: Cell file, by name or path.
        world: World file that the emulator shows; its cell is ``cell``.
        checkpoint: What decides: models file, model directory, checkpoint or bundle.
    """

    seed: int
    quick: bool
    folder: Path
    cell: str = 'panda_table'
    world: str = 'panda_table'
    checkpoint: str = 'tiny_vlm'
