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
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vlm_agent_ros'

EMPTY = 'empty = as config/training/ppo.yaml or the resumed run says'

ARGUMENTS = [
    DeclareLaunchArgument('task', default_value='',
                          description=f'task that is trained, such as place or sort; {EMPTY}'),
    DeclareLaunchArgument('world', default_value='',
                          description=f'world file that is trained in: a shipped name or a path; {EMPTY}'),
    DeclareLaunchArgument('worlds', default_value='', description=f'number of worlds, one process each; {EMPTY}'),
    DeclareLaunchArgument('decisions', default_value='',
                          description=f'budget: decisions after which training ends; {EMPTY}'),
    DeclareLaunchArgument('model', default_value='',
                          description=f'models file, model directory or checkpoint to start from; {EMPTY}'),
    DeclareLaunchArgument('resume', default_value='',
                          description='run folder or checkpoint that is continued, e.g. runs/x; empty = a new run'),
    DeclareLaunchArgument('run_name', default_value='',
                          description='folder of the run within runs/; empty = task and start time'),
    DeclareLaunchArgument('seed', default_value='', description=f'seed of the run; {EMPTY}'),
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
    from training.cli import parse_arguments
    from training.rl.train import configuration

    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    options = shlex.split(given['args'])
    for name in ('task', 'world', 'worlds', 'decisions', 'model', 'resume', 'run_name', 'seed'):
        if given[name]:
            options += [f'--{name.replace("_", "-")}', given[name]]
    config, _ = configuration(parse_arguments(['train', *options]))
    names = [f'world_{i}' for i in range(config.worlds)]
    worlds = [
        Node(package=PACKAGE, executable='world_node', namespace=name, respawn=True, respawn_delay=0.5,
             parameters=[{'world': ParameterValue(config.world, value_type=str), 'lock_step': True}],
             additional_env={'OMP_NUM_THREADS': '1'})
        for name in names
    ]
    # After Ctrl-C it writes a checkpoint, for which the 5 s that launch would wait may be too short.
    # No emulate_tty: launch shows whole lines only, so that a bar would stay unseen; without a terminal the trainer
    # prints a line per update.
    trainer = Node(package=PACKAGE, executable='trainer', output='screen',
                   arguments=[*options, '--attach', *names], sigterm_timeout='60',
                   on_exit=Shutdown(reason='the training has ended'))
    return [*worlds, trainer]
