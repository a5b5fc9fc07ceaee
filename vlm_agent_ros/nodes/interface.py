"""The names and qualities of service of the interface: standard messages only, relative names."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from ..errors import UserError
from ..topic_names import (
    ARM_COMMAND,
    AUDIT_HEARTBEAT,
    CAMERA_INFO,
    CHAIN_OF_THOUGHT,
    CLOCK,
    COMPRESSED_IMAGE,
    CORRECTION,
    DIAGNOSTICS,
    GATE_HEARTBEAT,
    GRIPPER_COMMAND,
    HEARTBEAT,
    IMAGE,
    JOINT_STATES,
    OF_CELL,
    OUTCOME,
    PROPOSAL,
    RESET,
    TASK,
)
from ..topics import Topics

__all__ = [
    'ARM_COMMAND', 'AUDIT_HEARTBEAT', 'CAMERA_INFO', 'CHAIN_OF_THOUGHT', 'CLOCK', 'COMMAND_QOS', 'COMPRESSED_IMAGE',
    'CORRECTION', 'DIAGNOSTICS', 'DRIVER_QOS', 'EVENT_QOS', 'GATE_HEARTBEAT', 'GRIPPER_COMMAND', 'HEARTBEAT',
    'HISTORY_QOS', 'IMAGE', 'JOINT_STATES', 'LATCHED_QOS', 'NEWEST_QOS', 'OUTCOME', 'PROPOSAL', 'RECORD_LATCHED_QOS',
    'RECORD_QOS', 'RECORD_SENSOR_QOS', 'RESET', 'SENSOR_QOS', 'TASK', 'check_names', 'enclave',
    'remappings',
]


def _qos(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


# Of a sensor only the newest message matters, and a lost one is replaced by the next.
SENSOR_QOS = _qos(5, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
# For whom every stamp counts, even when busy for a while.
HISTORY_QOS = _qos(100, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
NEWEST_QOS = _qos(1, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
# Depth 1 and volatile: a command is never replayed to a controller that comes up later.
COMMAND_QOS = _qos(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
EVENT_QOS = _qos(10, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
# For who writes everything down: what was latched before it came, and all that comes while it is busy.
RECORD_QOS = _qos(1000, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
RECORD_SENSOR_QOS = _qos(1000, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)  # joints may come at 1 kHz
RECORD_LATCHED_QOS = _qos(100, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
# Best effort and volatile are what a publisher of any quality can serve: drivers differ.
DRIVER_QOS = _qos(10, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
LATCHED_QOS = _qos(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)


def remappings(topics: Topics) -> list[tuple[str, str]]:
    """What the nodes of a cell have to be remapped by, as pairs of the interface's name and the cell's."""
    return [(name, other + name.removeprefix(OF_CELL[key])) for key, other in topics.names().items() if other
            for name in ((IMAGE, COMPRESSED_IMAGE) if key == 'image' else (OF_CELL[key],))]


def check_names(node: Node, topics: Topics) -> None:
    """Refuse a node that does not use the names of its cell: it would command where nobody listens.

    Raises:
        UserError: It was started without remappings that the cell file asks for.
    """
    missing = [(name, wanted) for name, wanted in remappings(topics)
               if node.resolve_topic_name(name) != node.resolve_topic_name(wanted)]
    if missing:
        raise UserError(f'the section topics of the cell file has {missing[0][1]!r} in place of {missing[0][0]!r}, but '
                        f'{node.get_name()} was started without it: start it by cell.launch.py, or with --ros-args '
                        + ' '.join(f'-r {name}:={wanted}' for name, wanted in missing))


def enclave(executable: str, namespace: str) -> str:
    """The key of a process for SROS2 (config/sros2): ``/vlm_agent_ros/gate``, or ``/vlm_agent_ros/cell_1/gate``."""
    role = executable.removesuffix('_node')
    return '/'.join(part for part in ('/vlm_agent_ros', namespace.strip('/'), role) if part)
