"""Messages and types convert into each other without losing a bit, and refuse what does not fit."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vlm_agent_ros.camera import Camera
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import messages
from vlm_agent_ros.types import Outcome, Trajectory

# Values that a decimal or single precision detour would change.
AWKWARD = np.array([0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, np.nextafter(1.0, 2.0)])


def camera_of(width: int, height: int) -> Camera:
    return Camera(width, height, fov_deg=40.0, position=(1.0, 0.0, 0.8), target=(0.5, 0.0, 0.0))


def over_the_wire(message: object) -> object:
    return deserialize_message(serialize_message(message), type(message))


def test_image_round_trip_keeps_every_pixel_and_the_stamp() -> None:
    camera = camera_of(64, 48)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    message = over_the_wire(messages.image_message(image, 12_345_678_901_234_567, camera.frame))
    assert np.array_equal(messages.image_array(message, 'camera/image_raw', camera), image)
    assert messages.to_ns(message.header.stamp) == 12_345_678_901_234_567


def test_bgr_padding_and_png_give_the_same_pixels() -> None:
    camera = camera_of(20, 16)
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    rows = np.pad(image[:, :, ::-1].reshape(16, 60), ((0, 0), (0, 4)))
    padded = Image(height=16, width=20, encoding='bgr8', step=64, data=rows.tobytes())
    assert np.array_equal(messages.image_array(padded, 'camera/image_raw', camera), image)
    png = io.BytesIO()
    PillowImage.fromarray(image).save(png, 'PNG')
    compressed = CompressedImage(format='png', data=png.getvalue())
    assert np.array_equal(messages.image_array(compressed, 'camera/image_raw/compressed', camera), image)


@pytest.mark.parametrize(('change', 'told'), [
    ({'encoding': '16UC1'}, 'rgb8'), ({'width': 63}, 'bytes'), ({'data': bytes(10)}, 'bytes'),
    ({'height': 24, 'data': bytes(24 * 192)}, 'cell file'),
])
def test_unusable_image_is_one_sentence_with_the_topic(change: dict[str, object], told: str) -> None:
    camera = camera_of(64, 48)
    fields = {'height': 48, 'width': 64, 'encoding': 'rgb8', 'step': 192, 'data': bytes(48 * 192), **change}
    fields['step'] = 3 * 63 if 'width' in change else fields['step']
    with pytest.raises(UserError, match=told) as error:
        messages.image_array(Image(**fields), '/cell/camera/image_raw', camera)
    assert '/cell/camera/image_raw' in str(error.value)


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(UserError, match='no readable JPEG or PNG'):
        messages.image_array(CompressedImage(data=b'garbage'), 'camera/image_raw/compressed', camera_of(64, 48))


def test_joint_positions_keep_their_bits_and_follow_the_order_asked_for() -> None:
    names = tuple('abcdef')
    message = over_the_wire(messages.joint_state_message(names, AWKWARD, 5))
    assert messages.joint_positions(message, 'joint_states', names).tobytes() == AWKWARD.tobytes()
    assert messages.joint_positions(message, 'joint_states', ('c', 'a')).tolist() == [AWKWARD[2], AWKWARD[0]]


@pytest.mark.parametrize('position', [np.nan, np.inf])
def test_joint_position_that_is_not_finite_names_topic_and_joint(position: float) -> None:
    message = messages.joint_state_message(('a', 'b'), np.array([0.0, position]), 0)
    with pytest.raises(UserError, match=r"joint_states: the position of joint 'b'"):
        messages.joint_positions(message, 'joint_states', ('a', 'b'))
    with pytest.raises(UserError, match="no position of joint 'c'"):
        messages.joint_positions(message, 'joint_states', ('c',))


def test_trajectory_split_in_two_and_merged_again_is_the_same_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    whole = Trajectory(('a', 'b', 'g'), np.array([0, 1, 40_000_001, 12_345_678_901]), rng.normal(size=(4, 3)),
                       rng.normal(size=(4, 3)))
    halves = [over_the_wire(messages.trajectory_message(whole.select(names), 7)) for names in (('a', 'b'), ('g',))]
    merged = messages.merge(*(messages.trajectory_from(half, 'command') for half in halves))
    assert merged.joint_names == whole.joint_names
    for name in ('times_ns', 'positions', 'velocities'):
        assert getattr(merged, name).tobytes() == getattr(whole, name).tobytes()
        assert getattr(merged, name).dtype == getattr(whole, name).dtype


def test_efforts_survive_the_way_through_ros_and_missing_ones_stay_missing() -> None:
    zeros = np.zeros((2, 2))
    asking = Trajectory(('a', 'g'), np.array([0, 5]), zeros, zeros, np.array([[0.0, 7.5], [0.0, -1.0]]))
    for trajectory in (asking, asking.select(('g',))):
        received = messages.trajectory_from(over_the_wire(messages.trajectory_message(trajectory, 7)), 'proposal')
        assert received.efforts.tobytes() == trajectory.efforts.tobytes()
    message = messages.trajectory_message(asking, 7)
    message.points[1].effort = []
    assert messages.trajectory_from(message, 'proposal').efforts.tolist() == [[0.0, 7.5], [0.0, 0.0]]
    message.points[0].effort = [1.0]
    with pytest.raises(UserError, match=r'proposal: point 0 has .* 1 efforts for 2 joints'):
        messages.trajectory_from(message, 'proposal')
    assert messages.trajectory_from(messages.trajectory_message(asking.select(('a',)), 7), 'x').efforts is not None
    no_efforts = Trajectory(('a', 'g'), np.array([0, 5]), zeros, zeros)
    assert messages.trajectory_from(messages.trajectory_message(no_efforts, 7), 'proposal').efforts is None


def test_efforts_of_a_half_survive_the_merge() -> None:
    zeros, times = np.zeros((2, 1)), np.array([0, 5])
    arm, gripper = Trajectory(('a',), times, zeros, zeros), Trajectory(('g',), times, zeros, zeros, zeros + 7.5)
    efforts = messages.merge(arm, gripper).efforts
    assert efforts is not None
    assert efforts.tolist() == [[0.0, 7.5], [0.0, 7.5]]
    assert messages.merge(arm, replace(gripper, efforts=None)).efforts is None


@pytest.mark.parametrize('text', ['{[]: 1}', '-' * 100_000 + '1', '(' * 10_000])
def test_no_text_on_the_outcome_topic_ends_the_process_that_reads_it(text: str) -> None:
    message = messages.outcome_message(Outcome(1.0, True, False, True, 0, 1, 0), 0)
    next(pair for pair in message.status[0].values if pair.key == 'expert_thought').value = text
    with pytest.raises(UserError, match='no outcome of vlm_agent_ros'):
        messages.outcome_from(message, 'outcome')


def test_halves_of_different_motions_are_not_merged() -> None:
    zeros = np.zeros((1, 1))
    with pytest.raises(UserError, match='different times'):
        messages.merge(Trajectory(('a',), np.array([1]), zeros, zeros), Trajectory(('g',), np.array([2]), zeros, zeros))


def test_no_motion_is_a_trajectory_without_points() -> None:
    assert messages.trajectory_from(over_the_wire(messages.trajectory_message(None, 7)), 'command') is None


def test_point_of_wrong_length_is_refused() -> None:
    message = JointTrajectory(joint_names=['a', 'b'], points=[JointTrajectoryPoint(positions=[1.0])])
    with pytest.raises(UserError, match='proposal: point 0 has 1 positions'):
        messages.trajectory_from(message, 'proposal')


@pytest.mark.parametrize('reward', AWKWARD)
def test_outcome_round_trip_is_exact(reward: float) -> None:
    outcome = Outcome(float(reward), True, False, True, 3, 2, 2**62 + 1, {'progress': float(reward) / 3, 'a.b': -0.0},
                      'red cube at 01 02 , "so"\n', "pick '01' 02")
    message = over_the_wire(messages.outcome_message(outcome, 42))
    back = messages.outcome_from(message, 'outcome')
    assert back == outcome
    assert struct.pack('d', back.reward) == struct.pack('d', outcome.reward)
    assert messages.to_ns(message.header.stamp) == 42


def test_outcome_of_a_cell_without_a_simulator_has_no_expert() -> None:
    message = messages.outcome_message(Outcome(1.0, True, False, True, 0, 1, 0, {}, 'thought', 'pick 01 02'), 0)
    message.status[0].values = [pair for pair in message.status[0].values if not pair.key.startswith('expert')]
    assert messages.outcome_from(message, 'outcome') == Outcome(1.0, True, False, True, 0, 1, 0)


def test_foreign_status_on_the_outcome_topic_is_refused() -> None:
    message = messages.outcome_message(Outcome(0.0, False, False, False, 0, 1, 0), 0)
    del message.status[0].values[0]
    with pytest.raises(UserError, match='no outcome of vlm_agent_ros'):
        messages.outcome_from(message, 'outcome')


def test_camera_info_maps_points_like_the_camera(cell: Cell) -> None:
    message = messages.camera_info_message(cell.camera, 0)
    point = np.array([0.5, 0.1, 0.0])
    optical = cell.camera.rotation.T @ (point - cell.camera.position)
    u, v, w = np.asarray(message.k).reshape(3, 3) @ optical
    assert (u / w, v / w) == pytest.approx(cell.camera.project(point))


def test_a_distorted_image_is_refused_until_the_cell_file_says_that_it_is_rectified(cell: Cell) -> None:
    # What a driver says of such a lens: k and d of the raw image, and p of the rectified one, as in the cell file.
    message = messages.camera_info_message(cell.camera, 0)
    message.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    message.k = [1.1 * value for value in message.k[:8]] + [1.0]
    with pytest.raises(UserError, match=r'distorts the image \(d is -0\.2.*image_rect.*camera\.rectified'):
        messages.check_camera_info(message, '/camera_info', cell.camera)
    rectified = replace(cell.camera, rectified=True)
    messages.check_camera_info(message, '/camera_info', rectified)
    message.p[0] *= 1.1
    with pytest.raises(UserError, match=r'fx, fy, cx, cy'):
        messages.check_camera_info(message, '/camera_info', rectified)
    message.p[0] = 0.0
    with pytest.raises(UserError, match=r'not calibrated \(p\[0\] is 0\)'):
        messages.check_camera_info(message, '/camera_info', rectified)


@pytest.mark.parametrize(('change', 'told'), [
    ({'binning_x': 2, 'binning_y': 2}, r'binned 2x2.*switch binning off'),
    ({'roi': RegionOfInterest(x_offset=16, width=64, height=64)}, r'part of 64x64 pixels at \(16, 0\)')])
def test_pixels_of_which_the_intrinsics_do_not_speak_are_refused(cell: Cell, change: dict[str, Any], told: str) -> None:
    message = messages.camera_info_message(cell.camera, 0)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(UserError, match=told):
        messages.check_camera_info(message, '/camera_info', cell.camera)


def test_one_pixel_to_a_bin_and_the_whole_image_as_a_part_are_nothing_special(cell: Cell) -> None:
    message = messages.camera_info_message(cell.camera, 0)
    message.binning_x = message.binning_y = 1
    message.roi = RegionOfInterest(width=cell.camera.width, height=cell.camera.height)
    messages.check_camera_info(message, '/camera_info', cell.camera)
