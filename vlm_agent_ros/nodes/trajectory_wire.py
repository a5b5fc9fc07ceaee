"""A JointTrajectory as the bytes that are sent, from and to whole arrays.

rclpy makes Python objects of every point, at both ends; that was half of what a turn through ROS cost. Here all points
are one structured array. The bytes are those of ``serialize_message``: plain CDR, little endian (OMG DDS-XTypes 1.3,
7.4.1), in which a number stands at a multiple of its size behind the encapsulation header.
"""

from __future__ import annotations

import struct

import numpy as np
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory

from ..errors import UserError
from ..message_content import trajectory_from
from ..types import Trajectory

_ENCAPSULATION = b'\x00\x01\x00\x00'
_HEAD = len(_ENCAPSULATION)
_NS = 1_000_000_000


def trajectory_bytes(trajectory: Trajectory | None, stamp_ns: int) -> bytes:
    """``messages.trajectory_message``, serialised; a trajectory has at least one joint."""
    head = bytearray(struct.pack('<iIIx', *divmod(stamp_ns, _NS), 1))  # an empty frame_id has its terminator
    names = trajectory.joint_names if trajectory is not None else ()
    _append(head, len(names))
    for name in names:
        text = name.encode() + b'\0'
        _append(head, len(text))
        head += text
    _append(head, len(trajectory.times_ns) if trajectory is not None else 0)
    if trajectory is None or not len(trajectory.times_ns):
        return _ENCAPSULATION + head
    assert names, 'empty sequences of numbers are not padded'
    rows = np.zeros(len(trajectory.times_ns), _layout(len(names), trajectory.efforts is not None))
    rows['seconds'], rows['nanoseconds'] = np.divmod(trajectory.times_ns, _NS)
    rows['positions'], rows['velocities'] = trajectory.positions, trajectory.velocities
    rows['position_count'] = rows['velocity_count'] = len(names)
    if trajectory.efforts is not None:
        rows['efforts'], rows['effort_count'] = trajectory.efforts, len(names)
    points = rows.tobytes()
    return _ENCAPSULATION + head + (points if len(head) % 8 == 0 else points[:4] + points[8:])


def stamp_of(content: bytes) -> int:
    """``to_ns(message.header.stamp)`` of a message that was received raw; 0 where it is too short to have a stamp."""
    if len(content) < _HEAD + 8:
        return 0
    seconds, nanoseconds = struct.unpack_from('<iI' if content[1] & 1 else '>iI', content, _HEAD)
    return int(seconds * _NS + nanoseconds)


def read_trajectory(content: bytes, topic: str) -> Trajectory | None:
    """``messages.trajectory_from`` of a message that was received raw.

    Args:
        content: Serialised by anyone.
        topic: Resolved name of the topic, for the error message.

    Raises:
        UserError: As by ``messages.trajectory_from``, or these bytes are no JointTrajectory.
    """
    try:
        return _read_regular(content)
    except (_Irregular, struct.error, ValueError):
        pass
    try:
        message = deserialize_message(content, JointTrajectory)
    except Exception as error:  # whatever the middleware has for it
        raise UserError(f'{topic}: {len(content)} bytes that are no JointTrajectory ({error}): check which node '
                        'publishes it') from error
    return trajectory_from(message, topic)


class _Irregular(Exception):
    """Not every point has positions, velocities and, in all or none, efforts; or these are other bytes altogether."""


def _read_regular(content: bytes) -> Trajectory | None:
    if not content.startswith(_ENCAPSULATION):
        raise _Irregular
    body = memoryview(content)[_HEAD:]
    count, at = _count(body, 12 + struct.unpack_from('<I', body, 8)[0])  # behind stamp and frame_id
    names = []
    for _ in range(count):
        length, at = _count(body, at)
        names.append(str(body[at:at + length - 1], 'utf-8'))
        at += length
    points, at = _count(body, at)
    if not points:
        return None
    if not count:  # empty sequences of numbers are not padded
        raise _Irregular
    first = at - at % 8  # where the first point would begin if its count were followed by padding, as in the others
    # Before the count of efforts: positions and velocities, each with its padded count, and that of accelerations.
    efforts = bool(struct.unpack_from('<I', body, first + 2 * (8 + 8 * count) + 4)[0])
    rows = np.frombuffer(body, _layout(count, efforts), points, first)
    counts = np.stack([rows['velocity_count'], rows['effort_count'], rows['position_count']], 1)
    counts[0, 2] = struct.unpack_from('<I', body, at)[0]
    if (counts != [count, count * efforts, count]).any() or rows['acceleration_count'].any():
        raise _Irregular
    return Trajectory(
        tuple(names), rows['seconds'] * np.int64(_NS) + rows['nanoseconds'], rows['positions'].copy(),
        rows['velocities'].copy(), rows['efforts'].copy() if efforts else None)


def _append(head: bytearray, count: int) -> None:
    head += b'\0' * (-len(head) % 4) + struct.pack('<I', count)


def _count(body: memoryview, at: int) -> tuple[int, int]:
    """The count at the next multiple of 4, and where it ends."""
    at += -at % 4
    return struct.unpack_from('<I', body, at)[0], at + 4


def _layout(joints: int, efforts: bool) -> np.dtype:
    """A point at a multiple of 8. The first one may stand 4 bytes further on; then its count is not padded."""
    return np.dtype([
        ('position_count', '<u4'), ('padding', '<u4'), ('positions', '<f8', (joints,)),
        ('velocity_count', '<u4'), ('more_padding', '<u4'), ('velocities', '<f8', (joints,)),
        ('acceleration_count', '<u4'), ('effort_count', '<u4'), *([('efforts', '<f8', (joints,))] if efforts else ()),
        ('seconds', '<i4'), ('nanoseconds', '<u4')])
