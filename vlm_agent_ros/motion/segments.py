"""The cubics between the points of a motion, which joint_trajectory_controller follows, and bounds of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Segments:
    """Cubic Hermite segments; a false velocity field hides nothing, because it is what bends them.

    Attributes:
        start_s: (segments,) float64 when each begins, from the start of the motion.
        width_s: (segments,) how long it takes.
        positions: (2, segments, joints) at its two ends, rad or m.
        velocities: (2, segments, joints) there, rad/s or m/s.
    """

    start_s: np.ndarray
    width_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray

    @classmethod
    def through(cls, times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> Segments:
        """From point to point: times (points,), positions and velocities (points, joints)."""
        return cls(times_s[:-1], np.diff(times_s), np.stack([positions[:-1], positions[1:]]),
                   np.stack([velocities[:-1], velocities[1:]]))

    def columns(self, joints: list[int]) -> Segments:
        """The same motion of some of the joints."""
        return Segments(self.start_s, self.width_s, self.positions[:, :, joints], self.velocities[:, :, joints])

    def rows(self, chosen: np.ndarray) -> Segments:
        """Some of the segments."""
        return Segments(self.start_s[chosen], self.width_s[chosen], self.positions[:, chosen],
                        self.velocities[:, chosen])

    @cached_property
    def peak_velocity(self) -> np.ndarray:
        """(segments, joints) largest absolute velocity in each segment."""
        first, linear, quadratic = self._velocity
        with np.errstate(divide='ignore', invalid='ignore'):
            vertex = _inside(-linear / (2 * quadratic))  # s = 0 adds nothing to the ends
        return np.maximum.reduce([np.abs(self.velocities[0]), np.abs(self.velocities[1]),
                                  np.abs(first + vertex * (linear + quadratic * vertex))])

    @cached_property
    def peak_acceleration(self) -> np.ndarray:
        """(segments, joints) largest absolute acceleration; it is linear, so that it is largest at an end."""
        _, linear, quadratic = self._velocity
        return np.maximum(np.abs(linear), np.abs(linear + 2 * quadratic)) / self.width_s[:, None]

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """(segments, joints) lowest and highest position in each segment: at an end, or where the velocity is zero."""
        first, linear, quadratic = self._velocity
        root = np.sqrt(np.maximum(linear**2 - 4 * quadratic * first, 0.0))
        # Of the two forms of each root, the one without cancellation; where it does not exist, an end takes its place.
        pivot = -0.5 * (linear + np.where(linear < 0, -root, root))
        with np.errstate(divide='ignore', invalid='ignore'):
            turns = [self.at(_inside(s))[0] for s in (pivot / quadratic, first / pivot)]
        candidates = np.stack([*self.positions, *turns])
        return candidates.min(axis=0), candidates.max(axis=0)

    def at(self, s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (segments, joints) at a share 0 … 1 of each segment."""
        width, (p, q), (v, w) = self.width_s[:, None], self.positions, self.velocities
        first, linear, quadratic = self._velocity
        position = ((1 + 2 * s) * (1 - s)**2 * p + s**2 * (3 - 2 * s) * q
                    + width * s * (1 - s) * ((1 - s) * v - s * w))
        return position, first + s * (linear + quadratic * s)

    def split(self, parts: np.ndarray) -> Segments:
        """The same motion with each segment in equal parts.

        Args:
            parts: (segments,) int, at least 1.
        """
        chosen = np.repeat(np.arange(len(parts)), parts)
        first = np.arange(len(chosen)) - np.repeat(np.cumsum(parts) - parts, parts)
        whole, count = self.rows(chosen), parts[chosen]
        ends = [whole.at(((first + i) / count)[:, None]) for i in (0, 1)]
        return Segments(whole.start_s + whole.width_s * (first / count), whole.width_s / count,
                        np.stack([ends[0][0], ends[1][0]]), np.stack([ends[0][1], ends[1][1]]))

    @cached_property
    def _velocity(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coefficients of the velocity a + b s + c s² over the share s of a segment.

        With mean velocity m and end velocities v and w it is v + (6m - 4v - 2w) s + (3v + 3w - 6m) s².
        """
        mean = (self.positions[1] - self.positions[0]) / self.width_s[:, None]
        v, w = self.velocities
        return v, 6 * mean - 4 * v - 2 * w, 3 * v + 3 * w - 6 * mean


def _inside(share: np.ndarray) -> np.ndarray:
    """Shares within a segment; others, and what is no number, become its start."""
    return np.where((share > 0) & (share < 1), share, 0.0)
