"""The calibrated camera maps pixels to the table and back, in the frames of REP-103."""

import numpy as np
import pytest

from vlm_agent_ros.camera import Camera
from vlm_agent_ros.errors import UserError


@pytest.fixture
def camera() -> Camera:
    return Camera(width=640, height=480, fov_deg=45.0, position=(1.1, -0.3, 0.9), target=(0.5, 0.05, 0.0))


def test_a_pixel_comes_back_from_the_plane_that_it_sees(camera: Camera) -> None:
    for u in np.linspace(0, camera.width, 9):
        for v in np.linspace(0, camera.height, 9):
            point = camera.pixel_to_plane(u, v, plane_z=0.02)
            assert point[2] == 0.02
            assert camera.project(point) == pytest.approx((u, v), abs=1e-9)


def test_the_optical_axis_passes_through_the_image_centre_and_the_target(camera: Camera) -> None:
    assert camera.project(np.array(camera.target)) == pytest.approx((320.0, 240.0))
    np.testing.assert_allclose(camera.pixel_to_plane(320.0, 240.0, 0.0), camera.target, atol=1e-12)


def test_the_optical_frame_is_right_handed_with_z_forward_and_y_down(camera: Camera) -> None:
    np.testing.assert_allclose(camera.rotation.T @ camera.rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.rotation) == pytest.approx(1.0)
    right, down, forward = camera.rotation.T
    assert right[2] == pytest.approx(0.0)
    assert down[2] < 0.0
    assert forward @ np.subtract(camera.target, camera.position) > 0.0


def test_projection_agrees_with_the_published_intrinsics(camera: Camera) -> None:
    point = np.array([0.45, 0.12, 0.03])
    optical = camera.rotation.T @ (point - camera.position)
    u, v, w = camera.intrinsics @ optical
    assert camera.project(point) == pytest.approx((u / w, v / w))


def test_the_vertical_field_of_view_spans_the_image_height(camera: Camera) -> None:
    assert 2 * np.degrees(np.arctan2(camera.height / 2, camera.focal_length)) == pytest.approx(camera.fov_deg)


def test_a_pixel_above_the_horizon_is_refused() -> None:
    level = Camera(width=128, height=128, fov_deg=40.0, position=(0.0, 0.0, 1.0), target=(1.0, 0.0, 1.0))
    with pytest.raises(UserError, match='looks past the table'):
        level.pixel_to_plane(64.0, 10.0, 0.0)
    assert level.pixel_to_plane(64.0, 120.0, 0.0)[2] == 0.0


@pytest.mark.parametrize('target', [(1.0, 0.0, 0.8), (1.0, 0.0, 0.0)])
def test_a_view_without_an_up_direction_is_refused(target: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match='target'):
        _ = Camera(width=128, height=128, fov_deg=40.0, position=(1.0, 0.0, 0.8), target=target).rotation
