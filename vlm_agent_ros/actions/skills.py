"""The ``skills`` language: pick, place, stack and push at cells of a grid over the camera image, and done."""

from __future__ import annotations

import hashlib
import re

from .language import ActionError, Command, Done, Pick, Place, Push, Stack

_AT_CELL: dict[str, type[Pick] | type[Place] | type[Stack]] = {'pick': Pick, 'place': Place, 'stack': Stack}
DIRECTIONS = ('left', 'right', 'up', 'down')


class SkillLanguage:
    """Actions such as ``pick 07 35``: a skill, the column and the row of an image cell, each of two digits.

    Args:
        grid: Cells per image side, 2 … 100; cells are numbered from 00.
    """

    name = 'skills'

    def __init__(self, grid: int = 48) -> None:
        if not 2 <= grid <= 100:
            raise ValueError(f'grid is {grid}, but must be between 2 and 100')
        self.grid = grid
        cell = _cell_regex(grid)
        self.regex = f'(({"|".join(_AT_CELL)}) {cell} {cell}|push {cell} {cell} ({"|".join(DIRECTIONS)})|done)'
        last = f'{grid - 1:02d}'
        self.description = (
            f'pick x y | place x y | stack x y | push x y left/right/up/down | done, where x (00-{last}, from the '
            f'left) and y (00-{last}, from the top) are cells of a {grid}x{grid} grid over the image'
        )
        middle = f'{grid // 2:02d}'
        self.examples: tuple[str, ...] = (f'pick 00 {middle}', f'place {middle} 01', 'stack 01 01',
                                          f'push 01 {middle} left', 'done')
        self._pattern = re.compile(r'(pick|place|stack|push) ([0-9]{2}) ([0-9]{2})(?: (left|right|up|down))?')

    def parse(self, text: str) -> Command:
        """The command that a text means.

        Raises:
            ActionError: The text is not in the language.
        """
        if text == 'done':
            return Done()
        match = self._pattern.fullmatch(text)
        if match is None:
            raise ActionError(f'{text!r} is not one of: {self.description}')
        skill, column, row, direction = match[1], int(match[2]), int(match[3]), match[4]
        if column >= self.grid or row >= self.grid:
            raise ActionError(f'{text!r} names a cell outside the {self.grid}x{self.grid} grid')
        if (skill == 'push') != (direction is not None):
            raise ActionError(f'{text!r}: push takes a direction, other skills take none')
        if skill == 'push':
            return Push(column, row, direction)
        return _AT_CELL[skill](column, row)

    def digest(self) -> str:
        """SHA-256 of name and grammar."""
        return hashlib.sha256(f'{self.name}\n{self.regex}'.encode()).hexdigest()


def _cell_regex(grid: int) -> str:
    """Regular expression of the two-digit numbers 00 … grid-1."""
    tens, ones = divmod(grid - 1, 10)
    last = f'{tens}[0-{ones}]'
    return f'([0-{tens - 1}][0-9]|{last})' if tens else last
