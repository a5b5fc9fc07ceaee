"""An image there and a trajectory back between two processes with nothing but rclpy: the least that a turn costs.

Both sides make their messages from arrays and read what comes in as arrays, with the functions and the qualities of
service that the nodes use. ``python -m training.bench.ping_pong TRAJECTORY`` is the other side.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.message_content import to_ns, trajectory_from
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import image_message, trajectory_message
from vlm_agent_ros.nodes.process import NodeProcess, end_with_parent, with_sources
from vlm_agent_ros.nodes.ros_env import free_domain, keep_local
from vlm_agent_ros.types import Trajectory

_START_S, _ANSWER_S, _AGAIN_S, _END_S = 60.0, 10.0, 1.0, 2.0


class PingPong:
    """The side that sends images, and the process of the other one.

    Args:
        size: Width and height of the images, pixels.
        trajectory: What comes back.
        folder: Gets the trajectory and the log of the other side.

    Raises:
        UserError: The other side does not come up.
    """

    def __init__(self, size: int, trajectory: Trajectory, folder: Path) -> None:
        keep_local()
        domain = free_domain()
        path = folder / 'trajectory.npz'
        np.savez(path, names=np.array(trajectory.joint_names), times_ns=trajectory.times_ns,
                 positions=trajectory.positions, velocities=trajectory.velocities)
        self._image = np.zeros((size, size, 3), np.uint8)
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('ping', context=self._context, use_global_arguments=False, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._stamp_ns, self._back = 0, JointTrajectory()
        self._images = self._node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
        self._node.create_subscription(JointTrajectory, interface.ARM_COMMAND, self._take, interface.COMMAND_QOS)
        self._process = NodeProcess(
            [sys.executable, '-m', 'training.bench.ping_pong', str(path), str(os.getpid())],
            {**with_sources(os.environ), 'ROS_DOMAIN_ID': str(domain)}, folder / 'pong.log')
        self._process.start()
        self._wait_for_pong()

    def _wait_for_pong(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._images.get_subscription_count():
            if time.monotonic() > deadline or self._process.exit_code() is not None:
                self.close()
                raise UserError(f'the other side of the ping-pong did not come up; see {self._process.log}')
            self._executor.spin_once(timeout_sec=0.1)

    def _take(self, message: JointTrajectory) -> None:
        self._back = message

    def round_trip(self) -> Trajectory:
        """Send an image and wait for the trajectory that answers it.

        Images are sent as cameras do, so that one may be lost, the first above all: the other side need not have found
        this one yet. Then it is sent again, and the round trip takes as long as it took.

        Raises:
            UserError: None came.
        """
        self._stamp_ns += 1_000_000
        image = image_message(self._image, self._stamp_ns, 'camera')
        self._images.publish(image)
        sent = began = time.monotonic()
        while to_ns(self._back.header.stamp) != self._stamp_ns:
            self._executor.spin_once(timeout_sec=0.1)
            now = time.monotonic()
            if now - began > _ANSWER_S:
                raise UserError(f'the other side of the ping-pong did not answer; see {self._process.log}')
            if now - sent > _AGAIN_S:
                self._images.publish(image)
                sent = now
        trajectory = trajectory_from(self._back, interface.ARM_COMMAND)
        assert trajectory is not None
        return trajectory

    def close(self) -> None:
        """End both sides."""
        self._process.signal(15)
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()
        self._process.end(_END_S)


def pong(path: str, parent_pid: str) -> None:
    """Answer every image with the trajectory of a file."""
    end_with_parent(int(parent_pid))
    content = np.load(path, allow_pickle=False)
    trajectory = Trajectory(tuple(content['names'].tolist()), content['times_ns'], content['positions'],
                            content['velocities'])
    rclpy.init()
    node = Node('pong', start_parameter_services=False)
    back = node.create_publisher(JointTrajectory, interface.ARM_COMMAND, interface.COMMAND_QOS)

    def answer(message: Image) -> None:
        np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        back.publish(trajectory_message(trajectory, to_ns(message.header.stamp)))

    node.create_subscription(Image, interface.IMAGE, answer, interface.NEWEST_QOS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin()


if __name__ == '__main__':
    pong(*sys.argv[1:])
