"""Shapes of the robot's links as capsules, from the collision geometry of the URDF, and distances of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np
import pinocchio as pin

from ..cell import Cell
from ..errors import UserError
from ..motion.kinematics import Kinematics


@dataclass(frozen=True)
class Capsule:
    """All points within ``radius`` of a line segment.

    Attributes:
        link: Link of the URDF.
        body: Body of the kinematic chain that it is fixed to.
        ends: (2, 3) float64 ends of the segment in the frame of the body, m.
        radius: m.
    """

    link: str
    body: int
    ends: np.ndarray
    radius: float

    def covering(self) -> tuple[np.ndarray, float]:
        """Centres (spheres, 3) in the frame of the body and the radius (m) of spheres that cover the capsule."""
        length = float(np.linalg.norm(self.ends[1] - self.ends[0]))
        count = int(np.ceil(length / self.radius)) + 1 if length > 0.0 else 1
        centres = self.ends[0] + np.linspace(0.0, 1.0, count)[:, None] * (self.ends[1] - self.ends[0])
        return centres, float(np.hypot(self.radius, length / max(count - 1, 1) / 2))


def link_capsules(cell: Cell, kinematics: Kinematics) -> list[Capsule]:
    """Capsules around every cylinder, sphere and box that is collision geometry in the URDF.

    Fingers belong to the link that carries them: its geometry has to cover them in every position.

    Raises:
        UserError: A collision geometry is a mesh, or there is none at all.
    """
    capsules = []
    for link in ElementTree.parse(cell.urdf_path).getroot().iter('link'):
        for collision in link.iter('collision'):
            body, rotation, origin = kinematics.body_of(link.attrib['name'])
            found = collision.find('origin')
            offset, turn = (np.array((found.get(key, '0 0 0') if found is not None else '0 0 0').split(), dtype=float)
                            for key in ('xyz', 'rpy'))
            half, radius = _core(collision, f'{cell.urdf_path}: link {link.attrib["name"]!r}')
            axis = pin.rpy.rpyToMatrix(*turn) @ half
            ends = np.array([origin + rotation @ (offset - axis), origin + rotation @ (offset + axis)])
            capsules.append(Capsule(link.attrib['name'], body, ends, radius))
    if not capsules:
        raise UserError(f'{cell.urdf_path} has no collision geometry: add cylinders, spheres or boxes to its links, or '
                        f'set safety.collision: false in {cell.path}')
    return capsules


def _core(collision: ElementTree.Element, source: str) -> tuple[np.ndarray, float]:
    """Half the segment (3,) in the frame of the geometry, and the radius, of a capsule around it."""
    cylinder, sphere, box = (collision.find(f'geometry/{name}') for name in ('cylinder', 'sphere', 'box'))
    if cylinder is not None:
        return np.array([0.0, 0.0, float(cylinder.attrib['length']) / 2]), float(cylinder.attrib['radius'])
    if sphere is not None:
        return np.zeros(3), float(sphere.attrib['radius'])
    if box is not None:
        half = np.array(box.attrib['size'].split(), dtype=float) / 2
        longest = int(np.argmax(half))
        return np.eye(3)[longest] * half[longest], float(np.linalg.norm(np.delete(half, longest)))
    raise UserError(f'{source} has a collision mesh: replace it by cylinders, spheres or boxes as in '
                    'config/robots/panda.urdf, or set safety.collision: false in the cell file')


def segment_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of line segments.

    Args:
        a, b: (2, ..., 3) float64 the ends of the segments.

    Returns:
        (...,) float64.

    Source: Ericson, Real-Time Collision Detection, section 5.1.9.
    """
    tiny = 1e-12
    along_a, along_b, between = a[1] - a[0], b[1] - b[0], a[0] - b[0]
    aa, bb, ab = _dot(along_a, along_a), _dot(along_b, along_b), _dot(along_a, along_b)
    to_a, to_b = _dot(along_a, between), _dot(along_b, between)
    s = np.clip((ab * to_b - to_a * bb) / np.maximum(aa * bb - ab * ab, tiny), 0.0, 1.0)
    t = np.clip((ab * s + to_b) / np.maximum(bb, tiny), 0.0, 1.0)
    s = np.clip((ab * t - to_a) / np.maximum(aa, tiny), 0.0, 1.0)
    return np.linalg.norm(between + s[..., None] * along_a - t[..., None] * along_b, axis=-1)


def box_distance(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(...,) distances of points (..., 3) from a box; within it, less than zero."""
    gap = np.maximum(low - points, points - high)
    return np.linalg.norm(np.maximum(gap, 0.0), axis=-1) + np.minimum(gap.max(axis=-1), 0.0)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum('...i,...i->...', a, b)
