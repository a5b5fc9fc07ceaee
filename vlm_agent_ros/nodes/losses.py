"""Counts the messages that a node never got: best effort means that one may be lost, not that nobody has to know."""

from __future__ import annotations

from typing import Any

from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.node import Node


class Losses:
    """Messages of one topic that were published and never came, while a subscription was connected.

    Two things tell. The middleware counts what was lost on the way, whoever published it. What came and had no room,
    because the node was busy for longer than its history is deep, it does not count: that shows in the numbers of the
    messages, which rise by one where one publisher is at work.

    Args:
        node: The subscribing node.
        topic: Name as given to ``create_subscription``.
    """

    def __init__(self, node: Node, topic: str) -> None:
        # As it is remapped: rclpy counts the publishers of a name as it is given.
        self._node, self._topic = node, node.resolve_topic_name(topic)
        self._number = 0
        self._on_the_way = self._missing = 0
        self.events = SubscriptionEventCallbacks(message_lost=self._on_lost)

    @property
    def count(self) -> int:
        """How many; what is lost after the newest message shows with the next one."""
        return max(self._on_the_way, self._missing)

    def received(self, info: dict[str, Any]) -> None:
        """A message has come, with its info as rclpy gives it."""
        number = info['publication_sequence_number'] or 0
        gap = number - self._number - 1 if self._number else 0
        self._number = number
        if gap > 0 and self._node.count_publishers(self._topic) == 1:  # a number that falls is of a new publisher
            self._missing += gap

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self._on_the_way = event.total_count
