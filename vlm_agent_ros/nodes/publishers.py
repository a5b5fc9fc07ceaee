"""Notices when two nodes publish on a topic that has one source only, such as a camera."""

from __future__ import annotations

from collections import deque
from typing import Any

from rclpy.node import Node

from ..errors import UserError

_REMEMBERED = 20


class SoleSource:
    """The messages of a topic come from one publisher.

    The middleware counts a process that was killed for a long time as a publisher still. Every publisher numbers its
    messages: two at work show in numbers that fall again and again, a restarted one in a single fall.

    Args:
        node: The subscribing node.
        topic: Name as given to ``create_subscription``.
    """

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, topic
        self._number = 0
        self._falls: deque[bool] = deque(maxlen=_REMEMBERED)

    def received(self, info: dict[str, Any]) -> None:
        """A message has come, with its info as rclpy gives it."""
        number = info['publication_sequence_number'] or 0
        self._falls.append(number <= self._number)
        self._number = number

    def check(self, working: bool) -> None:
        """Judge.

        Args:
            working: A second publisher has to be seen at work; otherwise it is enough that it is there.

        Raises:
            UserError: There are two.
        """
        topic = self._node.resolve_topic_name(self._topic)
        count = self._node.count_publishers(topic)
        if count > 1 and (not working or sum(self._falls) > 1):
            names = sorted({f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                            for info in self._node.get_publishers_info_by_topic(topic)})
            raise UserError(f'{topic} has {count} publishers ({", ".join(names)}): remap all but the one whose camera '
                            'the cell file describes, or stop them')
