"""The one exception type that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input or a failed precondition, told in one clear sentence.

    The message names the file, key or topic that is wrong and the remedy. Command lines and nodes print it and
    exit with status 2; they never show its traceback.
    """


_OWN = ('vlm_agent_ros', 'sim_worlds', 'training')
_DISTRIBUTIONS = {'pinocchio': 'pin', 'yaml': 'pyyaml', 'PIL': 'pillow', 'pybullet_data': 'pybullet',
                  'mcap_ros2': 'mcap-ros2-support'}


def import_failure(error: ImportError) -> UserError | None:
    """The sentence for a package that is not installed, or None where the fault is in this package itself."""
    name = (error.name or '').partition('.')[0]
    if name in _OWN or not name:
        return None
    reason = 'is not installed' if isinstance(error, ModuleNotFoundError) else \
        f'cannot be loaded ({str(error).splitlines()[0]})'
    if name.startswith(('rclpy', '_rclpy')) or name.endswith(('_msgs', '_srvs', '_interfaces')):
        return UserError(f'{name} {reason}: source /opt/ros/jazzy/setup.bash, or run make setup, which installs ROS 2 '
                         'from wheels')
    return UserError(f'the Python package {name} {reason}: pip install {_DISTRIBUTIONS.get(name, name)}, or run make '
                     'setup, which installs everything')
