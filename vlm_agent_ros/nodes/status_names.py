"""Names on ``/diagnostics``, the one topic that all cells share: a node in a namespace says which cell is meant."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

AGENT, GATE = 'agent_node', 'gate_node'
_PRODUCT = 'vlm_agent_ros'


def full_name(node: Node, name: str = '') -> str:
    """Name of a node of the same namespace (this one by default), as ``gate_node`` or ``cell_1/gate_node``."""
    return f'{node.get_namespace()}/{name or node.get_name()}'.lstrip('/')


def hardware_id(node: Node) -> str:
    """What stands there in every status of a node: ``vlm_agent_ros``, or ``vlm_agent_ros/cell_1``."""
    return (_PRODUCT + node.get_namespace()).rstrip('/')


def is_of_this_cell(node: Node, name: str) -> bool:
    """Whether a status was given this name in the namespace of this node."""
    return name.partition(': ')[0].rpartition('/')[0] == node.get_namespace().strip('/')


def is_of_another_cell(node: Node, status: DiagnosticStatus) -> bool:
    """Whether a node of this package has told a status in another namespace; drivers tell theirs as they like."""
    told_by = status.hardware_id
    return told_by.partition('/')[0] == _PRODUCT and told_by != hardware_id(node)
