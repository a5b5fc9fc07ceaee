"""Fine-tune the VLM by reinforcement learning in simulated cells, through the interface that a real cell has.

Starts N lock-step worlds (/world_0 ...), the trainer that attaches to them, and a viewer of the chain of thought.
``ros2 launch vlm_agent_ros sim_train.launch.py --show-args`` lists the arguments.
"""

import shlex

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = 'vlm_agent_ros'

ARGUMENTS = [
    DeclareLaunchArgument('task', default_value='place', description='task that is trained, such as place or sort'),
    DeclareLaunchArgument('world', default_value='shifted',
                          description='world file that is trained in: a shipped name or the path of a YAML file'),
    DeclareLaunchArgument('worlds', default_value='24', description='number of worlds, one process each'),
    DeclareLaunchArgument('decisions', default_value='',
                          description='budget: decisions after which training ends; empty = as the training file says'),
    DeclareLaunchArgument('model', default_value='',
                          description='models file, model directory or checkpoint to start from; empty = shipped VLM'),
    DeclareLaunchArgument('resume', default_value='',
                          description='checkpoint whose run is continued, e.g. runs/x/checkpoints/latest'),
    DeclareLaunchArgument('run_name', default_value='',
                          description='folder of the run within runs/; empty = task and start time'),
    DeclareLaunchArgument('seed', default_value='', description='seed of the run; empty = as the training file says'),
    DeclareLaunchArgument('args', default_value='',
                          description='further options of "vlm-agent train", e.g. "--temperature 0.5 --epochs 2"'),
    DeclareLaunchArgument('show_cot', default_value='true', description='print the chain of thought to this terminal'),
]


def generate_launch_description() -> LaunchDescription:
    """Worlds, trainer and viewer; Ctrl-C ends all of them and leaves a checkpoint."""
    local = EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST')
    return LaunchDescription([
        SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', local),
        *ARGUMENTS,
        OpaqueFunction(function=start),
        Node(package=PACKAGE, executable='cot_viewer', output='screen', parameters=[{'period_s': 10.0}],
             condition=IfCondition(LaunchConfiguration('show_cot'))),
    ])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The world nodes and the trainer: how many there are is known only now."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    if not given['worlds'].isdigit() or int(given['worlds']) < 1:
        raise ValueError(f'argument worlds is {given["worlds"]!r}, but must be a number from 1')
    names = [f'world_{i}' for i in range(int(given['worlds']))]
    worlds = [
        Node(package=PACKAGE, executable='world_node', namespace=name, respawn=True, respawn_delay=0.5,
             parameters=[{'world': given['world'], 'lock_step': True}], additional_env={'OMP_NUM_THREADS': '1'})
        for name in names
    ]
    options = ['--attach', *names]
    for name in ('task', 'world', 'worlds', 'decisions', 'model', 'resume', 'run_name', 'seed'):
        if given[name]:
            options += [f'--{name.replace("_", "-")}', given[name]]
    trainer = Node(package=PACKAGE, executable='trainer', output='screen', emulate_tty=True,
                   arguments=[*options, *shlex.split(given['args'])], on_exit=Shutdown(reason='the training has ended'))
    return [*worlds, trainer]
