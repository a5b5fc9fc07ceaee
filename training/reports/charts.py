"""Charts as inline SVG, coloured by the style sheet of the page that they are put into."""

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
class Series:
    """A curve over the decisions of a run, or over those of several runs.

    Attributes:
        x: Decisions.
        y: Values; points that are not finite are left out.
        band: Lower and upper end around each value, e.g. over seeds. A curve with a band is drawn as it is; one
            without is drawn raw and smoothed.
        style: Class of the style sheet.
    """

    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    style: str = ''

    def points(self, y: Sequence[float] | None = None) -> list[tuple[float, float]]:
        """The finite points of the curve, or of one end of its band."""
        pairs = ((float(x), float(value)) for x, value in zip(self.x, self.y if y is None else y))
        return [(x, value) for x, value in pairs if math.isfinite(x) and math.isfinite(value)]


@dataclass(frozen=True)
class Chart:
    """Curves over decisions.

    Attributes:
        title: Shown above.
        series: The curves; one of fewer than two finite points is left out.
        levels: Horizontal lines, the last one's label at the right end and the others' at the left, so that two equal
            ones can be read.
        span: Fixed lower and upper end of the y axis, or None for the data's own.
    """

    title: str
    series: Sequence[Series]
    levels: Sequence[Level] = ()
    span: tuple[float, float] | None = None

    def svg(self) -> str:
        """The chart as an ``<svg>`` element; empty without a curve."""
        drawn = [series for series in self.series if len(series.points()) > 1]
        if not drawn:
            return ''
        points = [point for series in drawn for y in (series.y, *(series.band or ())) for point in series.points(y)]
        frame = _Frame(points, self.levels, self.span)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(self.title)}">{frame.grid()}'
            f'{"".join(frame.level(level, level is not self.levels[-1]) for level in self.levels)}'
            f'{"".join(frame.curve(series) for series in drawn)}</svg>'
        )


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, in a row of its own."""

    label: str
    value: float
    interval: tuple[float, float]
    style: str = ''


def whiskers(title: str, rows: Sequence[Whisker]) -> str:
    """Shares with their intervals, one below the other on an axis from 0 to 1, as an ``<svg>`` element.

    Args:
        title: Read out instead of the picture.
        rows: From the top; labels of a few characters.
    """
    left, right, row_height = 40, 64, 26
    height = row_height * len(rows) + 30

    def x(share: float) -> float:
        return left + share * (_WIDTH - left - right)

    parts = []
    for tick in ticks(0.0, 1.0):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" y1="4" x2="{x(tick):.1f}" y2="{height - 24}"/>'
                     f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:.0%}</text>')
    for i, row in enumerate(rows):
        y, (low, high) = row_height * i + row_height // 2 + 4, map(x, row.interval)
        parts.append(
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{html.escape(row.label)}</text>'
            f'<line class="whisker {row.style}" x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}"/>'
            f'<rect class="dot {row.style}" x="{x(row.value) - 4:.1f}" y="{y - 4}" width="8" height="8" rx="4"/>'
            f'<text x="{_WIDTH - 6}" y="{y + 4}" text-anchor="end">{row.value:.1%}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'


def legend(labels: Sequence[str]) -> str:
    """HTML that says which colour is what; the i-th label is that of ``series_style(i)``."""
    return '<p class="legend">' + ''.join(f'<span class="{series_style(i)}">{html.escape(label)}</span>'
                                          for i, label in enumerate(labels)) + '</p>'


def series_style(index: int) -> str:
    """Class of the i-th of several curves, in the style sheet's eight colours."""
    return f'series c{index % 8}'


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
            low, high = low - 0.5 if low < 0 else max(low - 0.5, 0.0), high + 0.5  # no share is negative
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

    def curve(self, series: Series) -> str:
        if series.band is None:
            raw = self._polyline(f'raw {series.style}', series.points())
            return raw + self._polyline(f'curve {series.style}', smoothed(series.points()))
        low, high = (series.points(end) for end in series.band)
        band = ' '.join(f'{self.x(x):.1f},{self.y(y):.1f}' for x, y in [*low, *reversed(high)])
        return (f'<polygon class="band {series.style}" points="{band}"/>'
                + self._polyline(f'curve {series.style}', series.points()))

    def _polyline(self, style: str, points: Sequence[tuple[float, float]]) -> str:
        path = ' '.join(f'{self.x(x):.1f},{self.y(y):.1f}' for x, y in points)
        return f'<polyline class="{style.strip()}" points="{path}"/>'

    def level(self, level: Level, label_left: bool) -> str:
        top, bottom, y = self.y(level.high), self.y(level.low), self.y(level.value)
        left, right = _LEFT, _WIDTH - _RIGHT
        x, anchor = (left + 4, 'start') if label_left else (right - 4, 'end')
        return (
            f'<rect class="band {level.style}" x="{left}" y="{top:.1f}" width="{right - left}" '
            f'height="{max(bottom - top, 1.0):.1f}"/>'
            f'<line class="level {level.style}" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            f'<text class="{level.style}" x="{x}" y="{y - 4:.1f}" text-anchor="{anchor}">'
            f'{html.escape(level.label)}</text>'
        )


def _count(value: float) -> str:
    return f'{value / 1000:g}k' if abs(value) >= 1000 else f'{value:g}'
