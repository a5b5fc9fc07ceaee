"""Publishes the chain of thought: on ``/diagnostics`` for rqt, verbatim on ``~/chain_of_thought`` for bags."""

from __future__ import annotations

import threading
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import String

from ..cot import CotReport
from .interface import CHAIN_OF_THOUGHT, DIAGNOSTICS, EVENT_QOS, LATCHED_QOS
from .status_names import full_name, hardware_id

REPEAT_S = 1.0  # rqt marks a status that is not refreshed as stale
_LEAST_AGE_S = 0.001  # to the digits that are published, an age of 0 belongs to a new decision alone


class CotPublisher:
    """One constant diagnostic status per source, repeated at 1 Hz with its age.

    ``publish`` and ``repeat`` may be called from any thread.

    Args:
        node: The publishing node.
        sources: What decides, as in ``agent_node`` or ``trainer: world_0``, each with the topic of its verbatim text.
    """

    def __init__(self, node: Node, sources: dict[str, str] | None = None) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._last: dict[str, tuple[CotReport, float]] = {}
        self._diagnostics = node.create_publisher(DiagnosticArray, DIAGNOSTICS, EVENT_QOS)
        topics = sources or {full_name(node): CHAIN_OF_THOUGHT}
        self._texts = {source: node.create_publisher(String, topic, LATCHED_QOS) for source, topic in topics.items()}

    def publish(self, report: CotReport, source: str | None = None) -> None:
        """Publish a new decision of a source (of the only one by default)."""
        source = source or next(iter(self._texts))
        with self._lock:
            self._last[source] = report, time.monotonic()
        self._texts[source].publish(String(data=report.text))
        self._send({source: (report, 0.0)})

    def repeat(self) -> None:
        """Publish the last decision of every source again, with its age."""
        now = time.monotonic()
        with self._lock:
            last = {source: (report, max(now - then, _LEAST_AGE_S)) for source, (report, then) in self._last.items()}
        if last:
            self._send(last)

    def close(self) -> None:
        """Take the publishers down, and with them what latched subscribers would still be given."""
        with self._lock:
            self._last.clear()
        for publisher in (self._diagnostics, *self._texts.values()):
            self._node.destroy_publisher(publisher)

    def _send(self, reports: dict[str, tuple[CotReport, float]]) -> None:
        told_by = hardware_id(self._node)
        array = DiagnosticArray(status=[_status(s, report, age, told_by) for s, (report, age) in reports.items()])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def _status(source: str, report: CotReport, age_s: float, told_by: str) -> DiagnosticStatus:
    values = {**report.values(), 'cot_age_s': f'{age_s:.3f}'}
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if report.refusal or not report.action else DiagnosticStatus.OK,
        name=f'{source}: chain of thought', message=report.message(), hardware_id=told_by,
        values=[KeyValue(key=key, value=value) for key, value in values.items()])
