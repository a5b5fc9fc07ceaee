"""Bounds of cubic segments against a dense evaluation of random ones."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_agent_ros.motion.segments import Segments


@pytest.fixture
def segments() -> Segments:
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.02, 1.0, 400))
    return Segments.through(times, random.normal(size=(400, 3)), random.normal(0.0, 3.0, (400, 3)))


def dense(segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (samples, segments, joints)."""
    positions, velocities = zip(*(segments.at(s) for s in np.linspace(0.0, 1.0, 2001)))
    return np.stack(positions), np.stack(velocities)


def test_a_segment_goes_through_its_ends(segments: Segments) -> None:
    for end in (0, 1):
        position, velocity = segments.at(float(end))
        np.testing.assert_allclose(position, segments.positions[end], atol=1e-12)
        np.testing.assert_allclose(velocity, segments.velocities[end], atol=1e-9)


def test_the_peaks_are_those_of_a_dense_evaluation(segments: Segments) -> None:
    positions, velocities = dense(segments)
    low, high = segments.extremes()
    np.testing.assert_allclose(low, positions.min(axis=0), atol=1e-4)
    np.testing.assert_allclose(high, positions.max(axis=0), atol=1e-4)
    np.testing.assert_allclose(segments.peak_velocity, np.abs(velocities).max(axis=0), rtol=1e-5)
    acceleration = np.abs(np.diff(velocities, axis=0)) * 2000 / segments.width_s[:, None]
    np.testing.assert_allclose(segments.peak_acceleration, acceleration.max(axis=0), rtol=5e-3)


def test_a_straight_segment_and_one_at_rest_have_bounds_too() -> None:
    ends = np.array([[0.0, 1.0], [2.0, 1.0]])
    straight = Segments.through(np.array([0.0, 2.0]), ends, np.array([[1.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(straight.peak_velocity, [[1.0, 0.0]])
    np.testing.assert_allclose(straight.extremes(), [[[0.0, 1.0]], [[2.0, 1.0]]])


def test_a_split_motion_is_the_same_motion(segments: Segments) -> None:
    parts = np.random.default_rng(1).integers(1, 5, len(segments.width_s))
    split = segments.split(parts)
    assert len(split.width_s) == parts.sum()
    np.testing.assert_allclose(split.positions[1, :-1], split.positions[0, 1:], atol=1e-9)
    np.testing.assert_allclose(split.start_s[1:], (split.start_s + split.width_s)[:-1], atol=1e-9)
    first = np.cumsum(parts) - parts
    np.testing.assert_allclose(np.maximum.reduceat(split.peak_velocity, first), segments.peak_velocity, atol=1e-9)
