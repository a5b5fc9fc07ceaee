"""Line charts as inline SVG, coloured by the style sheet of the page that they are put into."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 30


@dataclass(frozen=True)
class Level:
    """A horizontal line with a band around it, e.g. an evaluation and its confidence interval."""

    label: str
    value: float
    low: float
    high: float
    style: str


@dataclass(frozen=True)
class Chart:
    """One curve over the decisions of a run.

    Attributes:
        title: Shown above.
        x: Decisions.
        y: Values; points that are not finite are left out.
        levels: Horizontal lines.
        span: Fixed lower and upper end of the y axis, or None for the data's own.
    """

    title: str
    x: Sequence[float]
    y: Sequence[float]
    levels: Sequence[Level] = ()
    span: tuple[float, float] | None = None

    def svg(self) -> str:
        """The chart as an ``<svg>`` element; empty without two finite points."""
        points = [(float(x), float(y)) for x, y in zip(self.x, self.y) if math.isfinite(x) and math.isfinite(y)]
        if len(points) < 2:
            return ''
        frame = _Frame(points, self.levels, self.span)
        raw = ' '.join(f'{frame.x(x):.1f},{frame.y(y):.1f}' for x, y in points)
        smooth = ' '.join(f'{frame.x(x):.1f},{frame.y(y):.1f}' for x, y in smoothed(points))
        title = html.escape(self.title)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{frame.grid()}'
            f'{"".join(frame.level(level) for level in self.levels)}'
            f'<polyline class="raw" points="{raw}"/><polyline class="curve" points="{smooth}"/></svg>'
        )


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred moving average over about a tenth of the points."""
    reach = max(1, len(points) // 20)
    result = []
    for i, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, i - reach):i + reach + 1]]
        result.append((x, sum(window) / len(window)))
    return result


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two ends, about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Axes: from values to pixels."""

    def __init__(self, points: Sequence[tuple[float, float]], levels: Sequence[Level],
                 span: tuple[float, float] | None) -> None:
        xs = [x for x, _ in points]
        ys = [y for _, y in points] + [level.value for level in levels]
        self._x0, self._x1 = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1.0
        low, high = span or (min(ys), max(ys))
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        self._y0, self._y1 = (low, high) if span else (low - 0.05 * (high - low), high + 0.05 * (high - low))

    def x(self, value: float) -> float:
        return _LEFT + (value - self._x0) / (self._x1 - self._x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self._y0), self._y1) - self._y0) / (self._y1 - self._y0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        parts = []
        for tick in ticks(self._y0, self._y1):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
                         f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
        for tick in ticks(self._x0, self._x1):
            parts.append(f'<text x="{self.x(tick):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{_count(tick)}</text>')
        return ''.join(parts)

    def level(self, level: Level) -> str:
        top, bottom, y = self.y(level.high), self.y(level.low), self.y(level.value)
        left, right = _LEFT, _WIDTH - _RIGHT
        return (
            f'<rect class="band {level.style}" x="{left}" y="{top:.1f}" width="{right - left}" '
            f'height="{max(bottom - top, 1.0):.1f}"/>'
            f'<line class="level {level.style}" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            f'<text class="{level.style}" x="{right - 4}" y="{y - 4:.1f}" text-anchor="end">{html.escape(level.label)}'
            '</text>'
        )


def _count(value: float) -> str:
    return f'{value / 1000:g}k' if abs(value) >= 1000 else f'{value:g}'
