"""What the messages of the interface say, whoever decoded them: rclpy, or a reader of an audit log. Free of ROS.

A message is anything with the fields of its ROS type.
"""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from .camera import Camera
from .errors import UserError
from .types import Outcome, Trajectory

OUTCOME_STATUS = 'world: outcome'
_NS = 1_000_000_000
_READ: dict[str, Callable[[str], Any]] = {
    'float': float, 'int': int, 'bool': {'True': True, 'False': False}.__getitem__, 'str': ast.literal_eval}


def to_ns(stamp: Any) -> int:
    """A message's stamp or duration in nanoseconds."""
    return stamp.sec * _NS + stamp.nanosec


def pixels(message: Any, topic: str) -> np.ndarray:
    """The pixels of an Image or a CompressedImage.

    Args:
        message: Of encoding rgb8 or bgr8, or JPEG/PNG data.
        topic: Resolved name of the topic, for the error message.

    Returns:
        (height, width, 3) uint8, rgb8.

    Raises:
        UserError: It is of another encoding, or damaged.
    """
    if hasattr(message, 'format'):
        try:
            return np.asarray(PillowImage.open(io.BytesIO(bytes(message.data))).convert('RGB'))
        except Exception as error:  # damage is told by errors of many types
            raise UserError(f'{topic}: {len(message.data)} bytes that are no readable JPEG or PNG: check its '
                            'publisher') from error
    height, width = message.height, message.width
    if message.encoding not in ('rgb8', 'bgr8'):
        raise UserError(f'{topic}: encoding {message.encoding!r}, but the agent needs rgb8 or bgr8: set the '
                        "camera driver's encoding")
    if message.step < 3 * width or len(message.data) != message.step * height:
        raise UserError(f'{topic}: {len(message.data)} bytes do not make {width}x{height} pixels of '
                        f'{message.encoding} with step {message.step}: check its publisher')
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, message.step)
    image = rows[:, :3 * width].reshape(height, width, 3)
    return image[:, :, ::-1].copy() if message.encoding == 'bgr8' else image.copy()


def image_array(message: Any, topic: str, camera: Camera) -> np.ndarray:
    """The pixels of a raw or compressed image, as ``pixels``, of the size that the cell file says.

    Raises:
        UserError: Encoding or size are not as the cell file says.
    """
    image = pixels(message, topic)
    height, width = image.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise UserError(f'{topic}: {width}x{height} pixels, but the cell file says {camera.width}x{camera.height}: '
                        'correct camera.width and camera.height, or scale the image')
    return image


def trajectory_from(message: Any, topic: str) -> Trajectory | None:
    """The trajectory of a message, or None where it has no points.

    Velocities that are left out are zero, and so are efforts where only some points have them. Nothing else is judged
    here: that is the safety rules' task.

    Raises:
        UserError: A point does not have one position (and velocity and effort, if any) per joint.
    """
    if not message.points:
        return None
    names = tuple(message.joint_names)
    for i, point in enumerate(message.points):
        if len(point.positions) != len(names) or any(len(values) not in (0, len(names))
                                                     for values in (point.velocities, point.effort)):
            raise UserError(f'{topic}: point {i} has {len(point.positions)} positions, {len(point.velocities)} '
                            f'velocities, {len(point.effort)} efforts for {len(names)} joints: correct its publisher')
    zeros = [0.0] * len(names)
    return Trajectory(
        names,
        np.array([to_ns(point.time_from_start) for point in message.points], dtype=np.int64),
        np.array([point.positions for point in message.points], dtype=np.float64),
        np.array([point.velocities if len(point.velocities) else zeros for point in message.points],
                 dtype=np.float64),
        np.array([point.effort if len(point.effort) else zeros for point in message.points], dtype=np.float64)
        if any(len(point.effort) for point in message.points) else None,
    )


def outcome_from(message: Any, topic: str) -> Outcome:
    """The outcome that ``outcome_message`` wrote.

    Raises:
        UserError: A value is missing or is not of its type.
    """
    values = {v.key: v.value for status in message.status if status.name == OUTCOME_STATUS for v in status.values}
    try:
        parsed = {f.name: _READ[str(f.type)](values[f.name]) for f in fields(Outcome)
                  if f.name != 'kpi' and (f.default is MISSING or f.name in values)}
        kpi = {key[4:]: float(value) for key, value in values.items() if key.startswith('kpi.')}
        if not math.isfinite(parsed['reward']):
            raise ValueError(f'a reward of {parsed["reward"]}')
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # as literal_eval may
        raise UserError(f'{topic}: no outcome of vlm_agent_ros ({error}): check which node publishes it') from error
    return Outcome(**parsed, kpi=kpi)
