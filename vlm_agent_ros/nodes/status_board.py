"""Publishes what a node shows of itself: at once when it changes, and again every second, with its age."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from ..cot import escape
from ..status import Status
from .interface import DIAGNOSTICS, EVENT_QOS
from .status_names import full_name, hardware_id


class StatusBoard:
    """The newest status about each thing, under constant names.

    Args:
        node: The publishing node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, DIAGNOSTICS, EVENT_QOS)
        self._shown: dict[str, tuple[Status, float]] = {}

    def tell(self, status: Status) -> None:
        """Publish a new status."""
        self._shown[status.about] = status, time.monotonic()
        self._send([self._message(status)])

    def forget(self, about: str) -> None:
        """Do not repeat a status any more."""
        self._shown.pop(about, None)

    def repeat(self) -> None:
        """Publish every status again: viewers mark as stale what is not refreshed."""
        now = time.monotonic()
        if self._shown:
            self._send([self._message(status, now - then) for status, then in self._shown.values()])

    def _message(self, status: Status, age_s: float | None = None) -> DiagnosticStatus:
        values = status.values if age_s is None else {**status.values, 'age_s': f'{age_s:.3f}'}
        return DiagnosticStatus(
            level=bytes([status.level]), name=f'{full_name(self._node)}: {status.about}',
            message=escape(status.message), hardware_id=hardware_id(self._node),
            values=[KeyValue(key=key, value=escape(value)) for key, value in values.items()])

    def _send(self, statuses: list[DiagnosticStatus]) -> None:
        array = DiagnosticArray(status=statuses)
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
