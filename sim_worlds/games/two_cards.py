"""Spell an equation worth 12 with two cards, one token a step (after EZPoints of RL4VLM's gym_cards)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont

from ..expert import Demonstration

SIZE = 128
WORTH = 12
HORIZON = 7

DEALS = tuple((first, second) for first in range(1, 11) for second in range(1, 11)
              if WORTH in (first + second, first * second))
"""Every deal that can be solved, in both orders."""


class TwoCards(gymnasium.Env[dict[str, Any], Any]):
    """Two number cards; the tokens are ``1`` … ``10``, ``+``, ``*`` and ``=``.

    Observation: a Dict of ``image`` (128, 128, 3) uint8 rgb8, the cards in random suits and places, and ``text``, the
    formula so far, such as ``3 *``. A token that cannot go on the formula is not written and costs the step: numbers
    are those of a card that has not been used, and stand at both ends of an operator. ``=`` ends the episode; the
    reward is 1 if the formula then uses both cards and is worth 12, and 0 everywhere else. Truncated after 7 steps.
    ``info['success']`` says whether the reward was earned.

    Args:
        render_mode: ``rgb_array`` or None.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 1}  # noqa: RUF012 - declared by gymnasium.Env
    actions = (*map(str, range(1, 11)), '+', '*', '=')

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Dict({
            'image': spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            'text': spaces.Text(min_length=0, max_length=20, charset='0123456789+* '),
        })
        self.action_space = spaces.Discrete(len(self.actions))
        self.cards: tuple[int, int] = (0, 0)
        self.formula: list[str] = []
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A deal that can be solved."""
        super().reset(seed=seed)
        self.cards = DEALS[self.np_random.integers(len(DEALS))]
        self.formula, self._steps = [], 0
        self._image = self._draw()
        return self._observe(), {'success': False}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Write a token."""
        token = self.actions[action]
        self._steps += 1
        ended = token == '='
        success = ended and self._is_right()
        if not ended and self._continues(token):
            self.formula.append(token)
        return self._observe(), float(success), ended, self._steps >= HORIZON and not ended, {'success': success}

    def render(self) -> np.ndarray | None:
        """The image, where ``render_mode`` is ``rgb_array``."""
        return self._image.copy() if self.render_mode else None

    def demonstrate(self) -> Demonstration:
        """The best token, and why; ``=``, which ends the episode, where the formula can no longer be worth 12."""
        first, second = self.cards
        solution = [str(first), '+' if first + second == WORTH else '*', str(second)]
        if self.formula[:1] == solution[2:]:  # begun with the other card
            solution.reverse()
        written = len(self.formula)
        action = (*solution, '=')[written] if self.formula == solution[:written] else '='
        return Demonstration(f'{first} and {second} , {" ".join(solution)}', action)

    def _continues(self, token: str) -> bool:
        if token in '+*':
            return len(self.formula) == 1
        left = list(self.cards)
        for used in self.formula[::2]:
            left.remove(int(used))
        return len(self.formula) in (0, 2) and int(token) in left

    def _is_right(self) -> bool:
        if len(self.formula) != 3:
            return False
        first, second = int(self.formula[0]), int(self.formula[2])
        return (first + second if self.formula[1] == '+' else first * second) == WORTH

    def _observe(self) -> dict[str, Any]:
        return {'image': self._image.copy(), 'text': ' '.join(self.formula)}

    def _draw(self) -> np.ndarray:
        image = Image.new('RGB', (SIZE, SIZE), (20, 110, 60))
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(40)
        for left, card in zip((6, 66), self.cards):
            x, y = left + int(self.np_random.integers(-3, 4)), 24 + int(self.np_random.integers(-12, 13))
            colour = ('black', 'firebrick')[self.np_random.integers(2)]
            draw.rounded_rectangle((x, y, x + 55, y + 79), 7, fill='white', outline='black')
            draw.text((x + 28, y + 40), str(card), colour, font, 'mm')
            for corner in ((x + 5, y + 5), (x + 42, y + 66)):
                draw.rectangle((*corner, corner[0] + 8, corner[1] + 8), fill=colour)
        return np.asarray(image)
