"""What ``ros2 run`` starts; see ``vlm_agent_ros.nodes.entry``."""

from vlm_agent_ros.nodes.ros_env import run_module


def world_node() -> int:
    """``ros2 run vlm_agent_ros world_node``."""
    return run_module('sim_worlds.world_node')


def cell_emulator() -> int:
    """``ros2 run vlm_agent_ros cell_emulator``."""
    return run_module('sim_worlds.cell_emulator.emulator_node')
