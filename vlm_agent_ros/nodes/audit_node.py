"""The audit: writes everything that the cell's interface says to MCAP, in a process of its own.

It judges nothing and commands nothing. Callbacks only put what they get into a queue; a thread compresses and writes.
How the log is doing is on ``/diagnostics``.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from PIL import Image as PillowImage
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, Header, String
from trajectory_msgs.msg import JointTrajectory

from ..audit.definitions import message_definition
from ..audit.entry_queue import Entry, Topic
from ..audit.writer import AuditWriter, WriterState
from ..cell import load_cell
from ..config import bounded
from ..message_content import pixels
from ..status import ERROR, OK, WARN, Status
from ..topics import Topics
from . import interface
from .lifecycle import ManagedNode
from .losses import Losses
from .own_files import below_namespace
from .parameters import declare_parameters
from .peers import Peers
from .ros_env import run_node
from .status_names import full_name, is_of_another_cell

_REPORT_S = 0.5
_LATE_S = 2.0
_SHOWN_S = 10.0  # so long a drop or a loss is a warning
_MB = 1e6
_STAMP = struct.Struct('<iI')  # of a header, after the four bytes of the encapsulation


@dataclass(frozen=True)
class Parameters:
    """Parameters of audit_node."""

    cell: str = bounded('panda_table', help='cell file: a shipped name or the path of a YAML file')
    folder: str = bounded('', help='folder of the log; empty for audit.folder of the cell file, or in a namespace '
                         'for the folder below it that is named so')
    image_transport: str = bounded('raw', choices=('raw', 'compressed'), help='which image topic to log; raw images '
                                   'are compressed without loss')
    agent: str = bounded('agent_node', help='name of the agent node, in the namespace of this one')
    gate: str = bounded('gate_node', help='name of the gate node, in the namespace of this one')
    autostart: bool = bounded(True, help='configure and activate at start instead of waiting for transitions')


@dataclass(frozen=True)
class _Subscribed:
    """A topic of the interface; ``owner`` is the node whose private one it is."""

    name: str
    kind: Any
    qos: QoSProfile
    owner: str = ''


class _Growth:
    """Whether a count has grown in the last while."""

    def __init__(self) -> None:
        self._count, self._grown_at = 0, -float('inf')

    def recent(self, count: int) -> bool:
        """Take the count in."""
        if count > self._count:
            self._count, self._grown_at = count, time.monotonic()
        return time.monotonic() - self._grown_at < _SHOWN_S


class AuditNode(ManagedNode):
    """Adapter of the AuditWriter."""

    def __init__(self) -> None:
        super().__init__('audit_node')
        self._settings = declare_parameters(self, Parameters)
        self._writer: AuditWriter | None = None
        self._made: list[Callable[[], Any]] = []
        latched = (f'{full_name(self, self._settings.agent)}: chain of thought',
                   f'{full_name(self, self._settings.gate)}: mode')
        self._latched_statuses = [f'{name}\0'.encode() for name in latched]
        Peers(self, self.board, [interface.GATE_HEARTBEAT], own=interface.AUDIT_HEARTBEAT)
        if self._settings.autostart:
            self.autostart()

    def close(self) -> None:
        """End the file, with everything that has come."""
        if self.active:
            self.stop()

    # --- lifecycle ----------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Find out what has to be logged, and whether it can be."""
        cell = load_cell(self._settings.cell)
        interface.check_names(self, cell.topics)
        self._cell_text = Path(cell.path).read_text(encoding='utf-8')
        folder = self._settings.folder or str(below_namespace(self, Path(cell.audit.folder)))
        self._limits = dataclasses.replace(cell.audit, folder=folder)
        self._topics = [topic for topic in self._known_topics(cell.topics)
                        if topic.name not in self._limits.leave_out]
        for topic in self._topics:
            message_definition(_kind(topic.kind))

    def start(self) -> None:
        """Begin a new file."""
        self._writer = AuditWriter(self._limits, self._cell_text)
        self._silent: set[str] = set()
        self._losses: list[tuple[Topic, Losses]] = []
        self._dropped, self._lost = _Growth(), _Growth()
        for topic in self._topics:
            self._subscribe(topic, self._writer)
        self._made.append(partial(self.destroy_timer, self.create_timer(_REPORT_S, self._report)))

    def stop(self) -> None:
        """End the file, with everything that has come."""
        for destroy in self._made:
            destroy()
        self._made.clear()
        if self._writer is not None:
            self._writer.close()
        self.board.forget('audit')

    def _known_topics(self, names: Topics) -> list[_Subscribed]:
        agent, gate = self._settings.agent, self._settings.gate
        image = _Subscribed(interface.IMAGE, Image, interface.HISTORY_QOS)
        if self._settings.image_transport == 'compressed':
            image = _Subscribed(interface.COMPRESSED_IMAGE, CompressedImage, interface.HISTORY_QOS)
        topics = [
            image,
            _Subscribed(interface.CAMERA_INFO, CameraInfo, interface.RECORD_SENSOR_QOS),
            _Subscribed(interface.JOINT_STATES, JointState, interface.RECORD_SENSOR_QOS),
            *(_Subscribed(name, Header, interface.RECORD_SENSOR_QOS) for name in (
                interface.HEARTBEAT, interface.GATE_HEARTBEAT, interface.AUDIT_HEARTBEAT)),
            _Subscribed(interface.TASK, String, interface.RECORD_LATCHED_QOS),
            _Subscribed(interface.CHAIN_OF_THOUGHT, String, interface.RECORD_LATCHED_QOS, agent),
            _Subscribed(interface.CORRECTION, String, interface.RECORD_QOS, gate),
            _Subscribed(interface.PROPOSAL, JointTrajectory, interface.RECORD_QOS),
            _Subscribed(interface.ARM_COMMAND, JointTrajectory, interface.RECORD_QOS),
            _Subscribed(interface.GRIPPER_COMMAND, JointTrajectory, interface.RECORD_QOS),
            _Subscribed(interface.OUTCOME, DiagnosticArray, interface.RECORD_QOS),
            _Subscribed(interface.DIAGNOSTICS, DiagnosticArray, interface.RECORD_QOS),
        ]
        stop = names.protective_stop
        if stop is not None:
            topics.append(_Subscribed(stop.topic, Bool if stop.type == 'bool' else String, interface.DRIVER_QOS))
        return topics

    def _subscribe(self, subscribed: _Subscribed, writer: AuditWriter) -> None:
        kind, here = subscribed.kind, subscribed.name.replace('~', subscribed.owner)
        topic = Topic(self.resolve_topic_name(here), _kind(kind), subscribed.name,
                      bulky=kind in (Image, CompressedImage))
        stamped = kind is Header or hasattr(kind(), 'header')
        compress = self._compressor(topic) if kind is Image else None
        self._silent.add(topic.topic)
        losses = Losses(self, here)
        self._losses.append((topic, losses))

        def receive(data: bytes, info: dict[str, Any]) -> None:
            self._silent.discard(topic.topic)
            losses.received(info)
            if topic.name == interface.DIAGNOSTICS and not (data := self._without_other_cells(data)):
                return
            stamp_ns = _stamp_ns(data) if stamped else int(info['source_timestamp'])
            writer.put(Entry(topic, data, time.time_ns(), stamp_ns, self._latch(topic, data), compress))

        subscription = self.create_subscription(kind, here, receive, subscribed.qos, raw=True,
                                                event_callbacks=losses.events)
        self._made.append(partial(self.destroy_subscription, subscription))

    def _without_other_cells(self, data: bytes) -> bytes:
        """A serialized DiagnosticArray less what other cells say on the topic that all share; empty for nothing."""
        message = deserialize_message(data, DiagnosticArray)
        own = [status for status in message.status if not is_of_another_cell(self, status)]
        if len(own) == len(message.status):
            return data
        message.status = own
        return bytes(serialize_message(message)) if own else b''

    def _latch(self, topic: Topic, data: bytes) -> str:
        """Key of what a new file begins with: the state that was told once, or is told again only now and then."""
        if topic.name in (interface.TASK, interface.CHAIN_OF_THOUGHT):
            return topic.name
        if topic.name == interface.DIAGNOSTICS:
            return next((name.decode() for name in self._latched_statuses if name in data), '')
        return ''

    def _compressor(self, topic: Topic) -> Callable[[Entry], Entry]:
        """What makes of a raw image a PNG on the topic that image_transport would use for it."""
        compressed = Topic(f'{topic.topic}/compressed', _kind(CompressedImage), interface.COMPRESSED_IMAGE, bulky=True)

        def compress(entry: Entry) -> Entry:
            message = deserialize_message(entry.data, Image)
            image = pixels(message, topic.topic)  # may refuse it: then it is logged as it is
            buffer = io.BytesIO()
            PillowImage.fromarray(image).save(buffer, format='PNG', compress_level=1)
            data = serialize_message(CompressedImage(
                header=message.header, format=f'{message.encoding}; png compressed bgr8', data=buffer.getvalue()))
            return Entry(compressed, data, entry.time_ns, entry.stamp_ns)

        return compress

    # --- how the log is doing -----------------------------------------------------------------------------------

    def _report(self) -> None:
        if self._writer is None:
            return
        state = self._writer.state()
        lost = {topic: losses.count for topic, losses in self._losses if losses.count}
        lost_images = sum(count for topic, count in lost.items() if topic.bulky)
        lost_messages = sum(lost.values()) - lost_images
        level, message = self._judge(state, lost_images, lost_messages)
        self.board.tell(Status('audit', level, message, {
            'file': state.file, 'file_mb': f'{state.file_bytes / _MB:.2f}', 'folder': self._limits.folder,
            'folder_mb': f'{state.folder_bytes / _MB:.1f}', 'disk_free_mb': f'{state.disk_free_bytes / _MB:.0f}',
            'messages': str(state.messages), 'dropped_images': str(state.dropped_images),
            'dropped_messages': str(state.dropped_messages), 'queue': str(state.queued),
            'lost_images': str(lost_images), 'lost_messages': str(lost_messages),
            'lost': ' '.join(f'{topic.topic}={count}' for topic, count in lost.items()),
            'unsynced_s': f'{state.unsynced_s:.2f}', 'silent_topics': ' '.join(sorted(self._silent)),
        }))

    def _judge(self, state: WriterState, lost_images: int, lost_messages: int) -> tuple[int, str]:
        """Level and message."""
        dropped = self._dropped.recent(state.dropped_images + state.dropped_messages)
        lost = self._lost.recent(lost_images + lost_messages)
        if state.problem:
            return ERROR, state.problem
        if state.unsynced_s > _LATE_S:
            return ERROR, f'nothing has reached the disk for {state.unsynced_s:.0f} s: check the disk of the log'
        if dropped:
            return WARN, (f'{state.dropped_images} images and {state.dropped_messages} other messages were dropped: '
                          'the disk or this computer is too slow')
        if lost:
            return WARN, (f'{lost_images} images and {lost_messages} other messages never reached the log: the network '
                          'or this computer is too busy')
        if state.folder_bytes > self._limits.disk_budget_mb * _MB:
            return WARN, 'the log is larger than audit.disk_budget_mb: its old files cannot be deleted'
        return OK, f'writes {state.file}'


def _kind(message_type: Any) -> str:
    """Name of a message type, such as ``sensor_msgs/msg/Image``."""
    return f'{message_type.__module__.partition(".")[0]}/msg/{message_type.__name__}'


def _stamp_ns(data: bytes) -> int:
    seconds, nanoseconds = _STAMP.unpack_from(data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros audit_node``."""
    return run_node('audit_node', AuditNode, args)


if __name__ == '__main__':
    sys.exit(main())
