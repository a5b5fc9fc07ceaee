"""What ``ros2 run`` starts. Light, so that Ctrl-C and a missing package are handled from the first moment."""

from .ros_env import run_module


def agent_node() -> int:
    """``ros2 run vlm_agent_ros agent_node``."""
    return run_module('vlm_agent_ros.nodes.agent_node')


def gate_node() -> int:
    """``ros2 run vlm_agent_ros gate_node``."""
    return run_module('vlm_agent_ros.nodes.gate_node')


def cot_viewer() -> int:
    """``ros2 run vlm_agent_ros cot_viewer``."""
    return run_module('vlm_agent_ros.nodes.cot_viewer')


def audit_node() -> int:
    """``ros2 run vlm_agent_ros audit_node``."""
    return run_module('vlm_agent_ros.nodes.audit_node')
