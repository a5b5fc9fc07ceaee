"""The bare ping-pong that the bench compares with: images go as cameras send them, so that one may be lost."""

import numpy as np
import pytest

from training.bench import ping_pong
from vlm_agent_ros.types import Trajectory


@pytest.fixture
def pinger(tmp_path):
    trajectory = Trajectory(('a', 'b'), np.array([1, 2_000_000]), np.ones((2, 2)), np.zeros((2, 2)))
    pinger = ping_pong.PingPong(32, trajectory, tmp_path)
    yield pinger, trajectory
    pinger.close()


def test_an_image_that_is_lost_is_sent_again(pinger, monkeypatch):
    monkeypatch.setattr(ping_pong, '_AGAIN_S', 0.3)
    side, sent = pinger
    publish, images = side._images.publish, []
    monkeypatch.setattr(side._images, 'publish', lambda image: images.append(image) or (
        publish(image) if len(images) > 1 else None))
    back = side.round_trip()
    assert len(images) >= 2 and images[0] is images[1]
    assert back.joint_names == sent.joint_names and np.array_equal(back.positions, sent.positions)
    side.round_trip()
    assert images[-1].header.stamp != images[0].header.stamp
