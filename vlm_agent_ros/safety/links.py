"""Margins of the links: against each other, the table and the keep-out boxes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from operator import itemgetter

import numpy as np

from ..cell import Cell
from ..motion.kinematics import Kinematics
from ..motion.segments import Segments
from .clearance import Margin
from .shapes import Capsule, box_distance, link_capsules, segment_distance

_NEAR_M = 0.05  # farther than a link goes between two samples of a planned motion


class LinkMargins:
    """See ``Margins``.

    Args:
        cell: Table and keep-out boxes.
        kinematics: Of the same cell.

    Attributes:
        pairs: Names of the links that are judged against each other. Links that a joint connects are not, nor those
            whose shapes overlap in the home pose: that says that the shapes are coarse there, not that they collide.
    """

    def __init__(self, cell: Cell, kinematics: Kinematics) -> None:
        self._chain, self._table_z = kinematics.chain, cell.workspace.table_z
        self._capsules = sorted(link_capsules(cell, kinematics), key=lambda capsule: capsule.body)
        self._radii = np.array([capsule.radius for capsule in self._capsules])
        halves = [np.linalg.norm(capsule.ends[1] - capsule.ends[0]) / 2 for capsule in self._capsules]
        self._sizes = self._radii + np.array(halves)  # of spheres around them
        # The base stands on the table, and the link after it turns on it.
        self._over_table = [i for i, capsule in enumerate(self._capsules) if capsule.body > 1]
        moving = [capsule for capsule in self._capsules if capsule.body]
        coverings = [capsule.covering() for capsule in moving]
        self._ends = _by_body((capsule.body, capsule.ends) for capsule in self._capsules)
        self._spheres = _by_body((capsule.body, centres) for capsule, (centres, _) in zip(moving, coverings))
        counts = [len(centres) for centres, _ in coverings]
        self._sphere_radii = np.repeat([radius for _, radius in coverings], counts)
        self._first_spheres = np.cumsum([0, *counts[:-1]])  # of each moving capsule
        self._boxes = [(np.array(box.low), np.array(box.high)) for box in cell.workspace.keep_out]
        self._pairs = self._apart_at(np.array(cell.robot.home))
        self.pairs = {(self._capsules[a].link, self._capsules[b].link) for a, b in self._pairs.T}
        described = [
            *((Margin('keep_out', f'{capsule.link} enters the box {box.name!r}: distance', 0.0), self._slope(capsule))
              for box in cell.workspace.keep_out for capsule in moving),
            *((Margin('collision', f'{self._capsules[i].link} meets the table: distance', 0.0, may_return=True),
               self._slope(self._capsules[i])) for i in self._over_table),
            *((Margin('collision', f'{self._capsules[b].link} meets {self._capsules[a].link}: distance', 0.0),
               self._slope(self._capsules[b], self._capsules[a].body)) for a, b in self._pairs.T)]
        self.margins = [margin for margin, _ in described]
        self._slopes = np.array([slope for _, slope in described])

    def sample(self, arm: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """See Margins."""
        poses = self._chain.poses(arm)
        columns: list[np.ndarray] = []
        if self._boxes:
            centres = _placed(self._spheres, poses)
            columns = [np.minimum.reduceat(box_distance(centres, low, high) - self._sphere_radii, self._first_spheres,
                                           axis=1) for low, high in self._boxes]
        ends = self._ends_at(poses)
        heights = ends[..., 2].min(axis=0) - self._radii - self._table_z
        return np.concatenate([*columns, heights[:, self._over_table], self._distances(ends, self._pairs)], axis=1)

    def change(self, motion: Segments) -> np.ndarray:
        """See Margins."""
        return motion.peak_velocity * motion.width_s[:, None] @ self._slopes.T

    def _slope(self, capsule: Capsule, carrier: int = 0) -> np.ndarray:
        """(joints,) how far a capsule moves at most per unit of each joint, as seen from the body ``carrier``."""
        slope = np.maximum(*(self._chain.reach(capsule.body, end) for end in capsule.ends))
        slope[:carrier] = 0.0
        return slope

    def _apart_at(self, arm: np.ndarray) -> np.ndarray:
        """(2, pairs) indices of capsules on bodies that no joint connects and that are apart at an arm position."""
        bodies = np.array([capsule.body for capsule in self._capsules])
        pairs = np.stack(np.nonzero(bodies[None] - bodies[:, None] > 1))
        return pairs[:, self._distances(self._ends_at(self._chain.poses(arm[None])), pairs)[0] > 0.0]

    def _ends_at(self, poses: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """(2, samples, capsules, 3) ends of all capsules in the base frame."""
        placed = _placed(self._ends, poses)
        return np.stack([placed[:, ::2], placed[:, 1::2]])

    def _distances(self, ends: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """(samples, pairs) m; of links that are farther apart than ``_NEAR_M``, at least so much."""
        a, b = pairs
        centres = ends.mean(axis=0)
        apart = np.linalg.norm(centres[:, a] - centres[:, b], axis=2) - (self._sizes[a] + self._sizes[b])
        near = np.nonzero(apart < _NEAR_M)
        one, other = ends[:, near[0], a[near[1]]], ends[:, near[0], b[near[1]]]
        apart[near] = segment_distance(one, other) - (self._radii[a] + self._radii[b])[near[1]]
        return apart


def _by_body(parts: Iterable[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """Points of the same body as one array; ``parts`` has them (points, 3) with their bodies, by rising body."""
    return [(body, np.concatenate([points for _, points in group]))
            for body, group in itertools.groupby(parts, key=itemgetter(0))]


def _placed(points: list[tuple[int, np.ndarray]], poses: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(samples, points, 3) in the base frame, of points in the frames of their bodies."""
    rotations, origins = poses
    return np.concatenate([origins[body][:, None] + fixed @ rotations[body].swapaxes(1, 2) for body, fixed in points],
                          axis=1)
