"""A simulated cell as a ROS 2 node: publishes what a real cell publishes, and the outcome of every turn.

In lock step (``lock_step:=true``, training) the cell moves only while it carries out a command and waits in between;
an episode starts with ``world/reset``. Free-running, it follows wall time at ``rate_hz``, and starts the next episode
by itself after one has ended.

A command is a trajectory for the arm, for the gripper, or two of the same header stamp, which are one motion. Unlike
joint_trajectory_controller, which reads the stamp as the time at which to start, the cell starts at once. A
trajectory without points holds the position, as it does there; in lock step it is a turn in which no motion is wanted,
and free-running that is what nothing for ``patience_s`` is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.config import bounded
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import (
    camera_info_message,
    image_message,
    joint_state_message,
    merge,
    outcome_message,
    to_time,
)
from vlm_agent_ros.nodes.parameters import declare_parameters, read_parameters
from vlm_agent_ros.nodes.process import end_with_parent
from vlm_agent_ros.nodes.ros_env import run_node
from vlm_agent_ros.nodes.trajectory_wire import read_trajectory, stamp_of
from vlm_agent_ros.types import EpisodeRequest, Observation, Trajectory

from .simulation import PHYSICS_HZ
from .world import CONTROL_STEPS, CellWorld

_REPEAT_S = 0.5
# A lone half of a command waits this long for the other. In lock step only commands given by hand are ever alone,
# and on a busy machine the second half must not come too late.
_GRACE_S = {True: 1.0, False: 0.05}


@dataclass(frozen=True)
class Episode:
    """The next episode."""

    seed: int = bounded(0, low=0, help='seed of everything that is random in the next episode')
    task: str = bounded('place', help='task of the next episode')
    world: str = bounded('', help='world file of the next episode; empty for the one of the parameter world')
    split: str = bounded('', help='split of the next episode, such as unseen-wording; empty for what training draws')


@dataclass(frozen=True)
class Parameters:
    """Parameters of world_node."""

    world: str = bounded('panda_table', help='world file: a shipped name or the path of a YAML file')
    lock_step: bool = bounded(False, help='move only while carrying out a command (training) instead of with wall time')
    rate_hz: float = bounded(10.0, low=0.5, high=60.0, help='rate of images and joint states when free-running, Hz')
    pause_s: float = bounded(2.0, low=0.0, high=3600.0,
                             help='wait between two episodes when free-running, s')
    patience_s: float = bounded(20.0, low=0.1, high=3600.0, help='when free-running, a task that ends where no motion '
                                'is wanted ends after so long without one, s')
    parent_pid: int = bounded(0, low=0, help='end with this process, which must be the parent; 0 for none')
    episode: Episode = Episode()


class WorldNode(Node):
    """Adapter of a CellWorld."""

    def __init__(self) -> None:
        super().__init__('world_node')
        self._settings = declare_parameters(self, Parameters, tuple(
            f'episode.{field.name}' for field in fields(Episode)))
        end_with_parent(self._settings.parent_pid)
        self._world = CellWorld(self._settings.world)
        self._seed = self._settings.episode.seed
        self._latest: Observation | None = None
        self._half: tuple[str, int, Trajectory] | None = None
        self._moving = False
        self._wall = self._resting_since = time.monotonic()
        self._next_episode: float | None = None
        self._open_topics()
        if self._settings.lock_step:
            self._repeat_timer = self.create_timer(_REPEAT_S, self._repeat)
            self.get_logger().info('lock step: waiting for world/reset')
        else:
            self._reset(self._request())
            self.create_timer(1.0 / self._settings.rate_hz, self._follow_wall_time)

    def close(self) -> None:
        """Give the physics server back."""
        self._world.close()

    def _open_topics(self) -> None:
        self._image_topic = self.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
        self._camera_info_topic = self.create_publisher(CameraInfo, interface.CAMERA_INFO, interface.SENSOR_QOS)
        self._joint_states_topic = self.create_publisher(JointState, interface.JOINT_STATES, interface.SENSOR_QOS)
        self._task_topic = self.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
        self._outcome_topic = self.create_publisher(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        self._clock_topic = self.create_publisher(Clock, interface.CLOCK, interface.SENSOR_QOS)
        for topic in (interface.ARM_COMMAND, interface.GRIPPER_COMMAND):
            self.create_subscription(JointTrajectory, topic, self._receiver(topic), interface.COMMAND_QOS, raw=True)
        self._grace = self.create_timer(_GRACE_S[self._settings.lock_step], self._use_lone_half)
        self.create_service(Trigger, interface.RESET, self._on_reset)

    # --- commands -----------------------------------------------------------------------------------------------

    def _receiver(self, topic: str) -> Callable[[bytes], None]:
        def receive(content: bytes) -> None:
            try:
                self._on_command(topic, stamp_of(content), read_trajectory(content, topic))
            except UserError as error:
                self.get_logger().error(f'command ignored: {error}')
        return receive

    def _on_command(self, topic: str, stamp_ns: int, trajectory: Trajectory | None) -> None:
        if self._latest is None:
            raise UserError(f'{topic}: no episode yet: call world/reset first')
        if trajectory is None:
            self._drop_half()
            self._begin(None)
            return
        unknown = [name for name in trajectory.joint_names if name not in self._world.cell.robot.joints]
        if unknown:
            raise UserError(f'{topic}: joint {unknown[0]!r} is not commanded in cell {self._world.cell.name}')
        half = self._half
        if half is not None and half[0] != topic and half[1] == stamp_ns:
            self._drop_half()
            arm, gripper = (trajectory, half[2]) if topic == interface.ARM_COMMAND else (half[2], trajectory)
            self._begin(merge(arm, gripper))
        else:
            self._half = topic, stamp_ns, trajectory
            self._grace.reset()

    def _drop_half(self) -> None:
        self._half = None
        self._grace.cancel()

    def _use_lone_half(self) -> None:
        half = self._half
        self._drop_half()
        if half is not None:
            self._begin(half[2])

    def _begin(self, trajectory: Trajectory | None) -> None:
        self._world.begin(trajectory)
        self._moving = trajectory is not None
        if not self._settings.lock_step:
            return
        while self._world.advance():
            pass
        self._finish()

    def _finish(self) -> None:
        self._moving, self._resting_since = False, time.monotonic()
        observation, outcome = self._world.finish()
        self._publish(observation)
        if self._next_episode is not None:
            return  # the episode is over, and what an agent still does before the next one is not judged
        self._outcome_topic.publish(outcome_message(outcome, observation.stamp_ns))
        if (outcome.terminated or outcome.truncated) and not self._settings.lock_step:
            self._next_episode = time.monotonic() + self._settings.pause_s

    # --- time and episodes --------------------------------------------------------------------------------------

    def _follow_wall_time(self) -> None:
        """Let as much simulated time pass as wall time has; a machine that is too slow runs in slow motion."""
        now = time.monotonic()
        period = CONTROL_STEPS / PHYSICS_HZ
        steps = min(int((now - self._wall) / period), int(2.0 / self._settings.rate_hz / period) + 1)
        self._wall = now if (now - self._wall) > 1.0 else self._wall + steps * period
        waits = self._world.ends_at_rest and self._next_episode is None
        if not self._moving and waits and now - self._resting_since > self._settings.patience_s:
            self._world.begin(None)  # an agent that wants no motion proposes none
            self._finish()
        elif not self._moving:
            self._publish(self._world.idle(steps * period))
        elif all(self._world.advance() for _ in range(steps)):
            self._publish(self._world.observe())
        else:
            self._finish()
        if self._next_episode is not None and now > self._next_episode and not self._moving:
            self._seed += 1
            self._reset(replace(self._request(), seed=self._seed))

    def _request(self) -> EpisodeRequest:
        episode = read_parameters(self, Parameters).episode
        return EpisodeRequest(episode.seed, episode.task, episode.world, episode.split)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            request = self._request()
            self._reset(request)
        except UserError as error:
            response.success, response.message = False, str(error)
            return response
        assert self._latest is not None
        self._seed = request.seed
        response.success = True
        response.message = json.dumps({'stamp_ns': self._latest.stamp_ns, 'task': self._latest.task})
        return response

    def _reset(self, request: EpisodeRequest) -> None:
        observation = self._world.reset(request)
        self._drop_half()
        self._moving, self._next_episode, self._resting_since = False, None, time.monotonic()
        self._task_topic.publish(String(data=observation.task))
        self._publish(observation)

    # --- sensors ------------------------------------------------------------------------------------------------

    def _publish(self, observation: Observation) -> None:
        self._latest = observation
        self._clock_topic.publish(Clock(clock=to_time(self._world.time_ns)))
        camera = self._world.cell.camera
        self._joint_states_topic.publish(
            joint_state_message(observation.joint_names, observation.joint_positions, observation.stamp_ns))
        self._camera_info_topic.publish(camera_info_message(camera, observation.stamp_ns))
        self._image_topic.publish(image_message(observation.image, observation.stamp_ns, camera.frame))
        if self._settings.lock_step:
            self._repeat_timer.reset()

    def _repeat(self) -> None:
        """In lock step nothing new comes until the next command: a lost sensor message must not end the training."""
        if self._latest is not None:
            self._publish(self._latest)


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros world_node``."""
    return run_node('world_node', WorldNode, args)


if __name__ == '__main__':
    sys.exit(main())
