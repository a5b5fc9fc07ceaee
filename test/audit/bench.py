"""Messages as audit_node hands them to the writer, made without ROS."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from vlm_agent_ros.audit.definitions import message_definition
from vlm_agent_ros.audit.entry_queue import Entry, Topic
from vlm_agent_ros.audit.log_file import LogFile
from vlm_agent_ros.cot import CotReport, Origin
from vlm_agent_ros.topic_names import (
    ARM_COMMAND,
    CHAIN_OF_THOUGHT,
    COMPRESSED_IMAGE,
    CORRECTION,
    DIAGNOSTICS,
    OUTCOME,
    PROPOSAL,
    TASK,
)

KINDS = {
    COMPRESSED_IMAGE: 'sensor_msgs/msg/CompressedImage', TASK: 'std_msgs/msg/String',
    CHAIN_OF_THOUGHT: 'std_msgs/msg/String', CORRECTION: 'std_msgs/msg/String',
    DIAGNOSTICS: 'diagnostic_msgs/msg/DiagnosticArray', OUTCOME: 'diagnostic_msgs/msg/DiagnosticArray',
    PROPOSAL: 'trajectory_msgs/msg/JointTrajectory', ARM_COMMAND: 'trajectory_msgs/msg/JointTrajectory',
}


def serialized(kind: str, message: Any) -> bytes:
    """CDR of anything with the fields of a type."""
    from mcap_ros2._dynamic import serialize_dynamic

    return serialize_dynamic(kind, message_definition(kind))[kind](message)


def stamp(stamp_ns: int) -> SimpleNamespace:
    return SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def header(stamp_ns: int) -> SimpleNamespace:
    return SimpleNamespace(stamp=stamp(stamp_ns), frame_id='')


def text_entry(data: str, time_ns: int = 0, name: str = TASK, latch: str = '') -> Entry:
    return entry(name, SimpleNamespace(data=data), time_ns, time_ns, latch)


def entry(name: str, message: Any, time_ns: int, stamp_ns: int, latch: str = '') -> Entry:
    topic = Topic('/cell/' + name.lstrip('~/'), KINDS[name], name, bulky=name == COMPRESSED_IMAGE)
    return Entry(topic, serialized(KINDS[name], message), time_ns or time.time_ns(), stamp_ns, latch)


def image_entry(image: np.ndarray, stamp_ns: int, time_ns: int = 0) -> Entry:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    message = SimpleNamespace(header=header(stamp_ns), format='rgb8; png compressed bgr8', data=buffer.getvalue())
    return entry(COMPRESSED_IMAGE, message, time_ns or stamp_ns, stamp_ns)


def status_entry(name: str, message: str, values: dict[str, str], time_ns: int, topic: str = DIAGNOSTICS,
                 stamp_ns: int = 0) -> Entry:
    pairs = [SimpleNamespace(key=key, value=value) for key, value in values.items()]
    status = SimpleNamespace(level=0, name=name, message=message, hardware_id='', values=pairs)
    return entry(topic, SimpleNamespace(header=header(stamp_ns or time_ns), status=[status]), time_ns, time_ns)


def trajectory_entry(name: str, stamp_ns: int, time_ns: int, joint: str = 'a') -> Entry:
    point = SimpleNamespace(positions=[0.5], velocities=[0.0], accelerations=[], effort=[],
                            time_from_start=stamp(10**9))
    message = SimpleNamespace(header=header(stamp_ns), joint_names=[joint], points=[point])
    return entry(name, message, time_ns, stamp_ns)


def thought_entries(image_stamp_ns: int, time_ns: int, age_s: float = 0.0, task: str = 'pick <it>',
                    thought: str = 'cube & pad') -> list[Entry]:
    """What an agent tells of a decision: the verbatim text, and the status."""
    text = json.dumps({'thoughts': thought, 'action': 'pick 01 02'})
    origin = Origin(image_stamp_ns, 'open', '', 1.0, (3 << 32) + 7, 2, 'f' * 64, 'e' * 64)
    return report_entries(CotReport(task, thought, 'pick 01 02', text, -1.25, 0.5, 12.0, 'tiny', 30.0, origin=origin),
                          time_ns, age_s)


def report_entries(report: CotReport, time_ns: int, age_s: float = 0.0) -> list[Entry]:
    """The same of any decision."""
    return [text_entry(report.text, time_ns, CHAIN_OF_THOUGHT),
            status_entry('agent_node: chain of thought', report.message(),
                         {**report.values(), 'cot_age_s': f'{age_s:.3f}'}, time_ns)]


def write_log(path: Path, entries: list[Entry], cell: str = '') -> Path:
    """A file that is closed as it should be."""
    file = LogFile(path, cell)
    for item in entries:
        file.write(item)
    file.close()
    return path


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait for the writer's thread."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.01)
    return result
