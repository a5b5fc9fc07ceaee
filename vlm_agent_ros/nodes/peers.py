"""The processes of a cell watch each other: one that was killed cannot say so itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from rclpy.clock import Clock
from rclpy.node import Node
from std_msgs.msg import Header

from ..safety.fault import Fault, Pulse
from ..safety.supervisor import HEARTBEAT_S
from ..status import ERROR, OK, Status
from .interface import SENSOR_QOS
from .status_board import StatusBoard

# As in safety/supervisor.py: 0.4 + 2 * HEARTBEAT_S = 0.5 s at the latest, and 0.3 s of silence are no fault.
_SILENT_S = 0.4
_IN_A_ROW = 2  # a process that was busy itself finds its messages and its timer late together


def pulse(node: Node) -> Header:
    """One heartbeat of a node; by the system's clock, because a simulation's stands still where it does."""
    return Header(stamp=Clock().now().to_msg(), frame_id=node.get_name())


class Peers:
    """Shows that a node lives, and says on ``/diagnostics`` which of the others no longer does, once one is missed.

    Args:
        node: The node.
        board: Where the status ``peers`` is shown.
        watched: Heartbeat topics of others; one that has never been heard is not missed.
        own: Heartbeat topic of this node; empty where it has none, or publishes it elsewhere.
    """

    def __init__(self, node: Node, board: StatusBoard, watched: Sequence[str], own: str = '') -> None:
        self._node, self._board = node, board
        self._pulses = {topic: Pulse() for topic in watched}
        self._faults = {topic: Fault(_IN_A_ROW, 0.0) for topic in watched}
        self._lost: list[str] = []
        self._publisher = node.create_publisher(Header, own, SENSOR_QOS) if own else None
        for topic in watched:
            node.create_subscription(Header, topic, partial(self._on_beat, topic), SENSOR_QOS)
        node.create_timer(HEARTBEAT_S, self._beat)

    def _on_beat(self, topic: str, message: Header) -> None:
        self._pulses[topic].beat(message.stamp.sec * 1_000_000_000 + message.stamp.nanosec, time.monotonic())

    def _beat(self) -> None:
        if self._publisher is not None:
            self._publisher.publish(pulse(self._node))
        now = time.monotonic()
        lost = [topic for topic, pulse in self._pulses.items()
                if self._faults[topic].observe(pulse.seen and pulse.age_s(now) > _SILENT_S, now)]
        if lost != self._lost:
            self._lost = lost
            message = f'no {" and no ".join(lost)} for more than {_SILENT_S:g} s: its process has ended or hangs'
            self._board.tell(Status('peers', ERROR if lost else OK, message if lost else 'all there',
                                    {'lost': ', '.join(lost)}))
