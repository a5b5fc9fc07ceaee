"""Watch an agent at work: one free-running simulated cell, the gate, the agent, and a viewer of its chain of thought.

The nodes are those of a real cell, where a camera driver and ros2_control take the place of the world.
``ros2 launch vlm_agent_ros sim_agent.launch.py --show-args`` lists the arguments.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vlm_agent_ros'

ARGUMENTS = [
    DeclareLaunchArgument('task', default_value='place', description='task of the episodes, such as place or sort'),
    DeclareLaunchArgument('world', default_value='panda_table',
                          description='world file: a shipped name or the path of a YAML file'),
    DeclareLaunchArgument('seed', default_value='0', description='seed of the first episode; each next one adds 1'),
    DeclareLaunchArgument('model', default_value='tiny_vlm',
                          description='models file, model directory or checkpoint that decides'),
    DeclareLaunchArgument('temperature', default_value='0.0',
                          description='sampling temperature; 0 takes the likeliest output'),
    DeclareLaunchArgument('mode', default_value='auto', choices=['shadow', 'approve', 'auto'],
                          description='what the gate does with proposals that pass'),
    DeclareLaunchArgument('show_cot', default_value='true', description='print the chain of thought to this terminal'),
]
# An operator takes a while: the agent waits a little longer than the gate does by default.
PROPOSAL_TIMEOUT_S = {'shadow': 2.0, 'approve': 35.0, 'auto': 2.0}


def generate_launch_description() -> LaunchDescription:
    """World, gate, agent and viewer; when one of the first three ends, all do."""
    local = EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST')
    return LaunchDescription([
        SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', local),
        *ARGUMENTS,
        OpaqueFunction(function=start),
        Node(package=PACKAGE, executable='cot_viewer', output='screen',
             condition=IfCondition(LaunchConfiguration('show_cot'))),
    ])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The nodes of the cell; which cell file they read is in the world file."""
    from sim_worlds.world_file import load_world

    cell = load_world(LaunchConfiguration('world').perform(context)).cell
    mode = LaunchConfiguration('mode').perform(context)
    common = {'cell': cell, 'use_sim_time': True}  # ages and motions are judged by the world's clock
    world = {'world': typed('world', str), 'episode.task': typed('task', str), 'episode.seed': typed('seed', int)}
    agent = {**common, 'model': typed('model', str), 'temperature': typed('temperature', float), 'autostart': True,
             'proposal_timeout_s': PROPOSAL_TIMEOUT_S[mode]}
    nodes = {'world_node': world, 'gate_node': {**common, 'mode': mode}, 'agent_node': agent}
    return [Node(package=PACKAGE, executable=name, output='screen', parameters=[parameters],
                 on_exit=Shutdown(reason=f'{name} has ended')) for name, parameters in nodes.items()]


def typed(argument: str, value_type: type) -> ParameterValue:
    """An argument as a parameter of a type: a checkpoint named 7 is still a name."""
    return ParameterValue(LaunchConfiguration(argument), value_type=value_type)
