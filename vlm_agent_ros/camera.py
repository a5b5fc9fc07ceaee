"""The calibrated pinhole camera (REP-103/REP-104: optical frame, z forward, x right, y down)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .config import bounded
from .errors import UserError


@dataclass(frozen=True)
class Camera:
    """Intrinsics and extrinsics of a camera whose images are undistorted.

    The optical axis passes through the image centre; ``position`` and ``target`` are the calibration's result in the
    robot's base frame, with the image's up direction as close to +z as possible.
    """

    # None has a default: a calibration that was left out must not become that of another camera.
    width: int = bounded(low=16, high=4096, help='image width, pixels')
    height: int = bounded(low=16, high=4096, help='image height, pixels')
    fov_deg: float = bounded(low=5.0, high=120.0, help='vertical field of view, degrees')
    position: tuple[float, float, float] = bounded(help='camera centre in the base frame, m')
    target: tuple[float, float, float] = bounded(help='point on the optical axis in the base frame, m')
    frame: str = bounded('camera_optical_frame', help='name of the optical frame')
    rectified: bool = bounded(False, help='the images are rectified, as by image_proc: p of camera_info describes '
                              'them, not k and d')
    calibrated: bool = bounded(True, help='false in a file whose camera values are examples: such a cell is refused')

    @property
    def focal_length(self) -> float:
        """fx = fy in pixels."""
        return self.height / 2 / float(np.tan(np.radians(self.fov_deg) / 2))

    @cached_property
    def rotation(self) -> np.ndarray:
        """(3, 3) float64; columns are the optical frame's x (right), y (down) and z (forward) in the base frame."""
        forward = np.subtract(self.target, self.position)
        norm = np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        if norm < 1e-6 or np.linalg.norm(right) < 1e-6 * norm:
            raise UserError('camera.target must differ from camera.position and not lie straight below or above it')
        forward, right = forward / norm, right / np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward], axis=1)

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """(3, 3) float64 matrix K of sensor_msgs/CameraInfo."""
        f = self.focal_length
        return np.array([[f, 0.0, self.width / 2], [0.0, f, self.height / 2], [0.0, 0.0, 1.0]])

    def project(self, point: np.ndarray) -> tuple[float, float]:
        """Pixel (u, v) of a point in the base frame; u to the right, v down, the image's corner at (0, 0)."""
        x, y, z = self.rotation.T @ np.subtract(point, self.position)
        f = self.focal_length
        return float(f * x / z + self.width / 2), float(f * y / z + self.height / 2)

    def pixel_to_plane(self, u: float, v: float, plane_z: float) -> np.ndarray:
        """Where the ray through a pixel meets the horizontal plane at height ``plane_z``.

        Returns:
            (3,) float64, metres in the base frame.

        Raises:
            UserError: The ray never meets the plane in front of the camera.
        """
        f = self.focal_length
        ray = self.rotation @ np.array([(u - self.width / 2) / f, (v - self.height / 2) / f, 1.0])
        scale = (plane_z - self.position[2]) / ray[2] if abs(ray[2]) > 1e-9 else -1.0
        if scale <= 0.0:
            raise UserError(f'pixel ({u:.0f}, {v:.0f}) looks past the table: check camera.position and camera.target')
        point = np.asarray(self.position) + scale * ray
        point[2] = plane_z
        return point
