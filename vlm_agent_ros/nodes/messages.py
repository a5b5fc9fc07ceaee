"""Conversions between ROS messages and the core's types, exact to the bit in both directions."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..camera import Camera
from ..errors import UserError
from ..message_content import OUTCOME_STATUS, image_array, outcome_from, to_ns, trajectory_from
from ..types import Outcome, Trajectory

__all__ = ['camera_info_message', 'check_camera_info', 'image_array', 'image_message', 'joint_positions',
           'joint_state_message', 'merge', 'outcome_from', 'outcome_message', 'to_ns', 'to_time', 'trajectory_from',
           'trajectory_message']

_NS = 1_000_000_000
_CAMERA_TOLERANCE = 0.03  # of the focal length; what a calibration and a round field of view differ by


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds as a message stamp."""
    return Time(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS)


def image_message(image: np.ndarray, stamp_ns: int, frame: str) -> Image:
    """An rgb8 message from (height, width, 3) uint8."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding='rgb8', step=image.shape[1] * 3)
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), frame
    message.data = np.ascontiguousarray(image).tobytes()
    return message


def camera_info_message(camera: Camera, stamp_ns: int) -> CameraInfo:
    """Intrinsics of an undistorted camera."""
    message = CameraInfo(height=camera.height, width=camera.width, distortion_model='plumb_bob', d=[0.0] * 5)
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), camera.frame
    matrix = camera.intrinsics
    message.k = matrix.reshape(-1)
    message.r = np.eye(3).reshape(-1)
    message.p = np.hstack([matrix, np.zeros((3, 1))]).reshape(-1)
    return message


def check_camera_info(message: CameraInfo, topic: str, camera: Camera) -> None:
    """Compare the intrinsics that a driver publishes with those of the cell file.

    A raw image has the matrix K and the distortion D, one that was rectified has P; which of the two the images are is
    not in the message (sensor_msgs/CameraInfo), but in the cell file.

    Raises:
        UserError: The camera is not calibrated, it is another one than the cell file describes, or what it publishes is
            distorted, binned or a part of the image.
    """
    size = message.width, message.height
    if size != (camera.width, camera.height):
        raise UserError(f'{topic}: {size[0]}x{size[1]} pixels, but the cell file says {camera.width}x{camera.height}: '
                        'correct camera.width and camera.height, or scale the image')
    _check_whole(message, topic)
    measured = np.array(message.p).reshape(3, 4)[:, :3] if camera.rectified else np.array(message.k).reshape(3, 3)
    expected = camera.intrinsics
    if not measured[0, 0] > 0.0:
        raise UserError(f'{topic}: the camera is not calibrated ({"p" if camera.rectified else "k"}[0] is '
                        f'{measured[0, 0]:g}): calibrate it and give its driver the result')
    if not camera.rectified and any(message.d):
        distortion = ', '.join(f'{value:g}' for value in message.d)
        raise UserError(f'{topic}: the lens distorts the image (d is {distortion}): '
                        "rectify it, remap the image topic to the result (image_proc's image_rect) and set "
                        'camera.rectified to true')
    off = np.abs(measured - expected).max() / expected[0, 0]
    if not off <= _CAMERA_TOLERANCE:
        found, wanted = (', '.join(f'{value:.1f}' for value in matrix[[0, 1, 0, 1], [0, 1, 2, 2]])
                         for matrix in (measured, expected))
        raise UserError(f'{topic}: fx, fy, cx, cy are {found} pixels, but the cell file says {wanted}: correct '
                        'camera.fov_deg, or rectify and crop the image')


def _check_whole(message: CameraInfo, topic: str) -> None:
    """Refuse pixels that are not those of which the intrinsics speak: K, D and P are of the full image, unbinned."""
    binning = message.binning_x, message.binning_y
    if max(binning) > 1:  # 0 means 1
        raise UserError(f'{topic}: pixels are binned {binning[0]}x{binning[1]}, which intrinsics do not tell: switch '
                        'binning off in the driver, or scale image and intrinsics afterwards')
    roi = message.roi
    part = roi.x_offset, roi.y_offset, roi.width, roi.height
    if part not in ((0, 0, 0, 0), (0, 0, message.width, message.height)):  # all zeros mean the full image
        raise UserError(f'{topic}: the image is a part of {roi.width}x{roi.height} pixels at ({roi.x_offset}, '
                        f'{roi.y_offset}) (roi): switch it off in the driver, or crop image and intrinsics afterwards')


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
        UserError: A joint is missing, or there twice, or its position is not a finite number.
    """
    values = dict(zip(message.name, message.position))
    twice = next((name for name in names if list(message.name).count(name) > 1), None)
    if twice is not None:
        raise UserError(f'{topic}: joint {twice!r} is there twice: let one driver publish it')
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


def merge(arm: Trajectory, gripper: Trajectory) -> Trajectory:
    """One trajectory of two that were split from one: arm joints, then gripper joints.

    Raises:
        UserError: Their points are at different times, so that they do not belong together.
    """
    if not np.array_equal(arm.times_ns, gripper.times_ns):
        raise UserError('arm and gripper trajectories of the same stamp have points at different times: '
                        'give them different stamps')
    efforts = None
    if arm.efforts is not None or gripper.efforts is not None:  # a half that asks for none has the message's default
        efforts = np.hstack([np.zeros_like(half.positions) if half.efforts is None else half.efforts
                             for half in (arm, gripper)])
    return Trajectory(arm.joint_names + gripper.joint_names, arm.times_ns,
                      np.hstack([arm.positions, gripper.positions]), np.hstack([arm.velocities, gripper.velocities]),
                      efforts)


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
