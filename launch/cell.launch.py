"""The robot side of a cell: gate, agent and audit log. Camera and robot drivers are those of the cell.

``ros2 launch vlm_agent_ros cell.launch.py cell:=my_cell.yaml checkpoint:=runs/<name>/checkpoints/latest``; the way from
shadow to auto is in docs/bring_up.md. ``emulator:=panda_table`` starts an emulated cell too, to try it without a robot.

The gate is not started again when it ends: why it did must be known before anything moves. Agent and audit log are
started again after 2 s; while the agent is away in approve or auto, the gate has stopped the robot, and stays stopped
until an operator resets it. Each process has an enclave of its own for SROS2 (config/sros2). On one computer they talk
without shared memory (docs/bring_up.md), unless discovery or transports are set otherwise.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vlm_agent_ros'

ARGUMENTS = [
    DeclareLaunchArgument('cell', default_value='panda_table',
                          description='cell file: a shipped name or the path of a YAML file'),
    DeclareLaunchArgument('checkpoint', default_value='tiny_vlm',
                          description='checkpoint, bundle, model directory or models file that decides'),
    DeclareLaunchArgument('mode', default_value='shadow', choices=['shadow', 'approve', 'auto'],
                          description='mode of the gate at start; auto needs the evidence that the cell file asks for'),
    DeclareLaunchArgument('namespace', default_value='', description='namespace of the cell, e.g. cell_3'),
    DeclareLaunchArgument('audit', default_value='true', choices=['true', 'false'],
                          description='record everything that is seen, decided and commanded'),
    DeclareLaunchArgument('image_transport', default_value='raw', choices=['raw', 'compressed'],
                          description='which images of the camera agent and audit log subscribe to'),
    DeclareLaunchArgument('approve_timeout_s', default_value='30.0',
                          description='no answer of the operator for so long is a no, s'),
    DeclareLaunchArgument('emulator', default_value='',
                          description='world file of an emulated cell that is started too; empty = a real cell'),
    DeclareLaunchArgument('task', default_value='place', description='task of the emulated cell'),
]


def generate_launch_description() -> LaunchDescription:
    """Gate, agent and audit log, and the emulated cell if one is asked for."""
    local = EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST')
    return LaunchDescription([
        SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', local),
        *ARGUMENTS,
        OpaqueFunction(function=start),
    ])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The nodes, with the names of the cell file's topics."""
    from vlm_agent_ros.cell import load_cell
    from vlm_agent_ros.nodes.interface import remappings
    from vlm_agent_ros.nodes.ros_env import loopback

    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    cell = load_cell(given['cell'])
    timeout_s = seconds('approve_timeout_s', given['approve_timeout_s'])
    gate = {'cell': cell.path, 'mode': given['mode'], 'approve_timeout_s': timeout_s}
    # An operator takes a while: the agent waits a little longer than the gate does.
    sees = {'cell': cell.path, 'image_transport': given['image_transport']}
    agent = {**sees, 'model': given['checkpoint'], 'proposal_timeout_s': timeout_s + 5.0, 'autostart': True}
    names = remappings(cell.topics)
    transport = [SetEnvironmentVariable(name, value) for name, value in loopback(context.environment).items()]
    nodes = [*transport, node('gate_node', gate, given, names), node('agent_node', agent, given, names, respawn=True)]
    if given['audit'] == 'true':
        nodes.append(node('audit_node', sees, given, names, respawn=True))
    if given['emulator']:
        check_emulated(given['emulator'], cell.path, given['image_transport'])
        line = {'world': given['emulator'], 'task': given['task'], 'inspection': True}
        nodes.append(node('cell_emulator', line, given, []))
    return nodes


def node(executable: str, parameters: dict, given: dict, names: list, respawn: bool = False) -> Node:
    """One process of the cell in an enclave of its own."""
    from vlm_agent_ros.nodes.interface import enclave

    key = enclave(executable, given['namespace'])
    return Node(package=PACKAGE, executable=executable, namespace=given['namespace'], output='screen',
                parameters=[as_given(parameters)], remappings=names, ros_arguments=['--enclave', key],
                respawn=respawn, respawn_delay=2.0)


def as_given(parameters: dict) -> dict:
    """Texts stay texts: launch would read them as YAML, and a checkpoint named 7 as a number."""
    return {name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
            for name, value in parameters.items()}


def seconds(argument: str, given: str) -> float:
    """A time that was given as text."""
    from vlm_agent_ros.errors import UserError

    try:
        return float(given)
    except ValueError as error:
        raise UserError(f'{argument} is {given!r}, which is no number: give seconds, such as 30.0') from error


def check_emulated(world: str, cell: str, image_transport: str = 'raw') -> None:
    """Refuse to emulate another cell than the one that gate and agent are told of, or a camera that it has not."""
    from sim_worlds.world_file import load_world
    from vlm_agent_ros.cell import load_cell
    from vlm_agent_ros.errors import UserError

    if image_transport != 'raw':
        raise UserError(f'image_transport is {image_transport}, but the emulated camera sends raw images: leave it out')
    emulated = load_cell(load_world(world).cell).path
    if Path(emulated).resolve() != Path(cell).resolve():
        raise UserError(f'world {world} is of the cell {emulated}, but cell is {cell}: give the same to both')
