"""Trajectories as bytes are the messages that rclpy would have sent and read."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import trajectory_wire
from vlm_agent_ros.nodes.messages import trajectory_from, trajectory_message
from vlm_agent_ros.nodes.trajectory_wire import read_trajectory, stamp_of, trajectory_bytes
from vlm_agent_ros.types import Trajectory

STAMP_NS = 1_700_000_000_987_654_321


def trajectories():
    """Of any number of joints and points, with names of every length, so that points begin at every alignment."""
    rng = np.random.default_rng(0)
    for number in range(200):
        joints, points = int(rng.integers(1, 10)), int(rng.integers(1, 80))
        names = tuple('é' * (i % 2) + 'j' * int(rng.integers(0, 9)) for i in range(joints))
        arrays = rng.normal(size=(3, points, joints))
        yield Trajectory(names, np.sort(rng.integers(0, 10**11, points)), arrays[0], arrays[1],
                         arrays[2] if number % 2 else None)


def assert_same(read, expected):
    assert read.joint_names == expected.joint_names
    assert (read.efforts is None) == (expected.efforts is None)
    for name in ('times_ns', 'positions', 'velocities', 'efforts'):
        values = getattr(read, name)
        assert values is None or (values.dtype, values.tobytes()) == (
            getattr(expected, name).dtype, getattr(expected, name).tobytes())


def test_what_is_written_is_the_message_to_every_other_reader() -> None:
    for trajectory in trajectories():
        message = deserialize_message(trajectory_bytes(trajectory, STAMP_NS), JointTrajectory)
        assert message == trajectory_message(trajectory, STAMP_NS)
    assert deserialize_message(trajectory_bytes(None, STAMP_NS), JointTrajectory) == trajectory_message(None, STAMP_NS)


def test_what_rclpy_has_written_is_read_to_the_bit_without_an_object_for_every_point(monkeypatch) -> None:
    monkeypatch.setattr(trajectory_wire, 'deserialize_message', None)
    for trajectory in trajectories():
        for content in (serialize_message(trajectory_message(trajectory, STAMP_NS)),
                        trajectory_bytes(trajectory, STAMP_NS)):
            read = read_trajectory(content, 'command')
            assert stamp_of(content) == STAMP_NS
            assert_same(read, trajectory)
            read.positions[:] = 0.0  # its own memory
    hold = serialize_message(trajectory_message(None, STAMP_NS))
    assert (stamp_of(hold), read_trajectory(hold, 'command')) == (STAMP_NS, None)


@pytest.mark.parametrize('change', [
    {'velocities': []}, {'effort': [1.0, 2.0]}, {'accelerations': [3.0, 4.0]}, {'velocities': [], 'effort': [5.0, 6.0]},
])
@pytest.mark.parametrize('changed', [(0,), (1,), (0, 1, 2)])
def test_what_a_standard_publisher_may_leave_out_or_add_is_read_as_ever(change, changed) -> None:
    message = JointTrajectory(joint_names=['a', 'b'], points=[
        JointTrajectoryPoint(positions=[0.5, i], velocities=[1.5, -i]) for i in (0.0, 1.0, 2.0)])
    message.header.frame_id = 'base'
    for index in changed:
        for name, values in change.items():
            setattr(message.points[index], name, values)
    read = read_trajectory(serialize_message(message), 'command')
    assert_same(read, trajectory_from(message, 'command'))


@pytest.mark.parametrize('change', [{'positions': [1.0]}, {'velocities': [1.0]}, {'effort': [1.0, 2.0, 3.0]}])
@pytest.mark.parametrize('index', [0, 1])
def test_a_point_of_wrong_length_is_refused_with_the_topic(change, index) -> None:
    message = JointTrajectory(joint_names=['a', 'b'], points=[
        JointTrajectoryPoint(positions=[0.5, 0.5], velocities=[0.0, 0.0]) for _ in range(2)])
    for name, values in change.items():
        setattr(message.points[index], name, values)
    with pytest.raises(UserError, match=f'command: point {index} has'):
        read_trajectory(serialize_message(message), 'command')


@pytest.mark.parametrize('seed', range(20))
def test_bytes_that_are_no_trajectory_are_refused_and_end_nobody(seed) -> None:
    rng = np.random.default_rng(seed)
    content = trajectory_bytes(next(trajectories()), STAMP_NS)
    with pytest.raises(UserError, match=r'command: .* bytes that are no JointTrajectory'):
        read_trajectory(content[:int(rng.integers(0, len(content) - 8))], 'command')
    assert stamp_of(content[:11]) == 0
    spoilt = bytearray(content)
    for at in rng.integers(0, len(content), 8):
        spoilt[at] = rng.integers(256)
    try:
        read = read_trajectory(bytes(spoilt), 'command')
    except UserError:
        return
    assert read is None or read.positions.shape == (len(read.times_ns), len(read.joint_names))
