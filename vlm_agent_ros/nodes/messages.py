"""Conversions between ROS messages and the core's types, exact to the bit in both directions."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..camera import Camera
from ..errors import UserError
from ..types import Outcome, Trajectory

OUTCOME_STATUS = 'world: outcome'
_NS = 1_000_000_000
_READ: dict[str, Callable[[str], Any]] = {
    'float': float, 'int': int, 'bool': {'True': True, 'False': False}.__getitem__, 'str': ast.literal_eval}


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds as a message stamp."""
    return Time(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS)


def to_ns(stamp: Time | Duration) -> int:
    """A message's stamp or duration in nanoseconds."""
    return stamp.sec * _NS + stamp.nanosec


def image_message(image: np.ndarray, stamp_ns: int, frame: str) -> Image:
    """An rgb8 message from (height, width, 3) uint8."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding='rgb8', step=image.shape[1] * 3)
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), frame
    message.data = np.ascontiguousarray(image).tobytes()
    return message


def image_array(message: Image | CompressedImage, topic: str, camera: Camera) -> np.ndarray:
    """The pixels of a raw or compressed image.

    Args:
        message: Of encoding rgb8 or bgr8, or JPEG/PNG data.
        topic: Resolved name of the topic, for the error message.
        camera: The cell's camera, whose size the image must have.

    Returns:
        (height, width, 3) uint8, rgb8.

    Raises:
        UserError: Encoding or size are not as the cell file says.
    """
    if isinstance(message, CompressedImage):
        try:
            image = np.asarray(PillowImage.open(io.BytesIO(bytes(message.data))).convert('RGB'))
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f'{topic}: {len(message.data)} bytes that are neither JPEG nor PNG: check its publisher') \
                from error
        height, width = image.shape[:2]
    else:
        height, width = message.height, message.width
        if message.encoding not in ('rgb8', 'bgr8'):
            raise UserError(f'{topic}: encoding {message.encoding!r}, but the agent needs rgb8 or bgr8: set the '
                            "camera driver's encoding")
        if message.step < 3 * width or len(message.data) != message.step * height:
            raise UserError(f'{topic}: {len(message.data)} bytes do not make {width}x{height} pixels of '
                            f'{message.encoding} with step {message.step}: check its publisher')
        rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, message.step)
        image = rows[:, :3 * width].reshape(height, width, 3)
        image = image[:, :, ::-1].copy() if message.encoding == 'bgr8' else image.copy()
    if (width, height) != (camera.width, camera.height):
        raise UserError(f'{topic}: {width}x{height} pixels, but the cell file says {camera.width}x{camera.height}: '
                        'correct camera.width and camera.height, or scale the image')
    return image


def camera_info_message(camera: Camera, stamp_ns: int) -> CameraInfo:
    """Intrinsics of an undistorted camera."""
    message = CameraInfo(height=camera.height, width=camera.width, distortion_model='plumb_bob', d=[0.0] * 5)
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), camera.frame
    matrix = camera.intrinsics
    message.k = matrix.reshape(-1)
    message.r = np.eye(3).reshape(-1)
    message.p = np.hstack([matrix, np.zeros((3, 1))]).reshape(-1)
    return message


def joint_state_message(names: tuple[str, ...], positions: np.ndarray, stamp_ns: int) -> JointState:
    """Measured positions, rad or m."""
    message = JointState(name=list(names), position=positions.tolist())
    message.header.stamp = to_time(stamp_ns)
    return message


def joint_positions(message: JointState, topic: str, names: tuple[str, ...]) -> np.ndarray:
    """Positions of the named joints, whatever else the message holds.

    Returns:
        (joints,) float64 in the order of ``names``, rad or m.

    Raises:
        UserError: A joint is missing or its position is not a finite number.
    """
    values = dict(zip(message.name, message.position))
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f'{topic}: no position of joint {missing[0]!r}: correct the joint names of the cell file')
    positions = np.array([values[name] for name in names], dtype=np.float64)
    if not np.isfinite(positions).all():
        bad = names[int(np.flatnonzero(~np.isfinite(positions))[0])]
        raise UserError(f'{topic}: the position of joint {bad!r} is {values[bad]}: check the driver of its encoder')
    return positions


def trajectory_message(trajectory: Trajectory | None, stamp_ns: int) -> JointTrajectory:
    """A trajectory; None becomes a message without points, which controllers take as *hold*."""
    message = JointTrajectory()
    message.header.stamp = to_time(stamp_ns)
    if trajectory is None:
        return message
    message.joint_names = list(trajectory.joint_names)
    efforts = [[]] * len(trajectory.times_ns) if trajectory.efforts is None else trajectory.efforts.tolist()
    rows = zip(trajectory.times_ns.tolist(), trajectory.positions.tolist(), trajectory.velocities.tolist(), efforts)
    message.points = [
        JointTrajectoryPoint(positions=position, velocities=velocity, effort=effort,
                             time_from_start=Duration(sec=time // _NS, nanosec=time % _NS))
        for time, position, velocity, effort in rows
    ]
    return message


def trajectory_from(message: JointTrajectory, topic: str) -> Trajectory | None:
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


def merge(arm: Trajectory, gripper: Trajectory) -> Trajectory:
    """One trajectory of two that were split from one: arm joints, then gripper joints.

    Raises:
        UserError: Their points are at different times, so that they do not belong together.
    """
    if not np.array_equal(arm.times_ns, gripper.times_ns):
        raise UserError('arm and gripper trajectories of the same stamp have points at different times: '
                        'give them different stamps')
    return Trajectory(arm.joint_names + gripper.joint_names, arm.times_ns,
                      np.hstack([arm.positions, gripper.positions]), np.hstack([arm.velocities, gripper.velocities]))


def outcome_message(outcome: Outcome, stamp_ns: int) -> DiagnosticArray:
    """One status of key-values; ``repr`` of a float is its shortest text that reads back to the same bits.

    Args:
        outcome: What the turn led to.
        stamp_ns: Stamp of the image that it refers to.
    """
    values = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != 'kpi'}
    values |= {f'kpi.{name}': float(value) for name, value in outcome.kpi.items()}
    ended = 'success' if outcome.success else 'failure' if outcome.terminated else \
        'turn limit' if outcome.truncated else 'running'
    status = DiagnosticStatus(
        level=DiagnosticStatus.OK, name=OUTCOME_STATUS, message=f'{ended}, reward {outcome.reward:.3f}',
        values=[KeyValue(key=key, value=repr(value)) for key, value in values.items()])
    message = DiagnosticArray(status=[status])
    message.header.stamp = to_time(stamp_ns)
    return message


def outcome_from(message: DiagnosticArray, topic: str) -> Outcome:
    """The outcome that ``outcome_message`` wrote.

    Raises:
        UserError: A value is missing or is not of its type.
    """
    values = {v.key: v.value for status in message.status if status.name == OUTCOME_STATUS for v in status.values}
    try:
        parsed = {f.name: _READ[str(f.type)](values[f.name]) for f in fields(Outcome)
                  if f.name != 'kpi' and (f.default is MISSING or f.name in values)}
        kpi = {key[4:]: float(value) for key, value in values.items() if key.startswith('kpi.')}
    except (KeyError, ValueError, SyntaxError) as error:
        raise UserError(f'{topic}: no outcome of vlm_agent_ros ({error}): check which node publishes it') from error
    return Outcome(**parsed, kpi=kpi)
