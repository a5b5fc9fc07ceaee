"""Move a number along a line to a target, by ``+`` and ``-`` (after NumberLine of RL4VLM's gym_cards)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont

from ..expert import Demonstration

SIZE = 128
HORIZON = 10


class NumberLine(gymnasium.Env[np.ndarray, Any]):
    """A dot stands on a number, a triangle marks the target; both numbers are written beside them.

    Observation: (128, 128, 3) uint8 rgb8. Where the line lies and how light it is depends on the seed, so that two
    instances with the same numbers look different. Action: 0 is ``+``, 1 is ``-``. Reward: 1 at the target, which
    terminates; 0 for a step towards it, -1 for one away from it or against the end of the line. Truncated after 10
    steps. ``info['success']`` says whether the target has been reached.

    Args:
        highest: The numbers are 0 … highest, 1 … 10.
        render_mode: ``rgb_array`` or None.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 1}  # noqa: RUF012 - declared by gymnasium.Env
    actions = ('+', '-')

    def __init__(self, highest: int = 5, render_mode: str | None = None) -> None:
        if not 1 <= highest <= HORIZON:
            raise ValueError(f'highest is {highest}, but must be between 1 and {HORIZON}, the number of steps')
        self.highest, self.render_mode = highest, render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self.actions))
        self.number = self.target = self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[np.ndarray, dict[str, Any]]:
        """Two different numbers."""
        super().reset(seed=seed)
        self.number, self.target = (int(n) for n in self.np_random.choice(self.highest + 1, 2, replace=False))
        self._steps = 0
        self._height = int(self.np_random.integers(54, 75))
        self._shade = int(self.np_random.integers(200, 256))
        return self._draw(), {'success': False}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Add or subtract one."""
        distance = abs(self.target - self.number)
        self.number = min(max(self.number + (1, -1)[action], 0), self.highest)
        self._steps += 1
        success = self.number == self.target
        closer = abs(self.target - self.number) < distance
        reward = 1.0 if success else 0.0 if closer else -1.0
        return self._draw(), reward, success, self._steps >= HORIZON and not success, {'success': success}

    def render(self) -> np.ndarray | None:
        """The observation, where ``render_mode`` is ``rgb_array``."""
        return self._draw() if self.render_mode else None

    def demonstrate(self) -> Demonstration:
        """The best action, and why."""
        action = '+' if self.number < self.target else '-'
        return Demonstration(f'number {self.number} , target {self.target} , so {action}', action)

    def _draw(self) -> np.ndarray:
        image = Image.new('RGB', (SIZE, SIZE), (self._shade,) * 3)
        draw, y = ImageDraw.Draw(image), self._height
        draw.line((12, y, SIZE - 12, y), fill='black', width=2)
        for number in range(self.highest + 1):
            draw.line((self._x(number), y - 4, self._x(number), y + 4), fill='black', width=2)
        x, goal, font = self._x(self.number), self._x(self.target), ImageFont.load_default(26)
        draw.polygon((goal - 8, y - 20, goal + 8, y - 20, goal, y - 5), fill='red')
        draw.text((goal, y - 20), str(self.target), 'red', font, 'mb')
        draw.ellipse((x - 7, y + 6, x + 7, y + 20), fill='blue')
        draw.text((x, y + 22), str(self.number), 'blue', font, 'mt')
        return np.asarray(image)

    def _x(self, number: int) -> int:
        return round(12 + number * (SIZE - 24) / self.highest)
