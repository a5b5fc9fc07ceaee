"""A gate process before a robot that this process plays, so that one clock times what goes in and what comes out."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.config import load_yaml
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import MotionError, SkillPlanner
from vlm_agent_ros.motion.cubic import positions_at, slowed
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import camera_info_message, joint_state_message, trajectory_from, trajectory_message
from vlm_agent_ros.nodes.priority import run_before_others
from vlm_agent_ros.types import Trajectory

from .check_setup import CheckSetup
from .processes import CellProcesses

_AT_REST_NS = 50_000_000  # between two joint states from which the gate tells a speed
_SENSE_S = 0.02
_TAKEN_S = 0.01  # in which a gate takes a message
_TIME_HAS_JUMPED = 4  # joint states in a row that are older than the newest
_KNOWN_AFTER = 6  # sensor messages
_IMAGE_S = 2.0  # in which one comes
_PRIORITY = 10  # below the gate's
_REMEMBERED = 100  # joint states
_SHARE = 0.15  # of the planned speed


class Bench:
    """The gate of a cell file, in ``auto`` at full speed and without evidence, and a robot that follows its commands.

    Args:
        setup: Its cell file is copied with another section ``autonomy``.
        name: Of the part; a folder of this name within that of the setup gets the logs.
        sections: Keys of sections of the cell file that are to be other than there.

    Attributes:
        processes: The gate among them.
        states: What is said on ``/diagnostics``.
        commands: Time (monotonic, s) and serialised message of every command for the arm; they are not read before
            they are asked for, since that would take time from what is measured.
        arm_states: Time (monotonic, s) and (arm joints,) rad of the newest joint states while the robot follows.
    """

    def __init__(self, setup: CheckSetup, name: str, **sections: dict[str, Any]) -> None:
        folder = setup.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        original = load_cell(setup.cell)
        content = load_yaml(Path(original.path))
        content['robot']['urdf'] = str(original.urdf_path.absolute())
        content['autonomy'] = {'approved_episodes': 0, 'blend_episodes': 0, 'on_stop': 'keep', 'on_gate_hit': 'keep',
                               'release_s': 0.0}
        for section, keys in sections.items():
            content[section] = {**content.get(section, {}), **keys}
        path = folder / 'cell.yaml'
        path.write_text(yaml.safe_dump(content), encoding='utf-8')
        self.cell = load_cell(str(path))
        self.processes = CellProcesses(folder)
        self.commands: list[tuple[float, bytes]] = []
        self.arm_states: deque[tuple[float, np.ndarray]] = deque(maxlen=_REMEMBERED)
        self._robot = self.cell.robot
        self._positions = np.array([*self._robot.home, *[self._robot.gripper_open] * len(self._robot.gripper_joints)])
        self._newest: tuple[float, bytes] | None = None
        self._motion: tuple[Trajectory, float] | None = None
        self._stamps: deque[int] = deque(maxlen=_KNOWN_AFTER)
        node = self.processes.node
        self._camera = node.create_publisher(CameraInfo, interface.CAMERA_INFO, interface.SENSOR_QOS)
        self._joints = node.create_publisher(JointState, interface.JOINT_STATES, interface.SENSOR_QOS)
        self.proposals = node.create_publisher(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS)
        self._task = node.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
        self._joint_ns = self._commanded_ns = 0
        node.create_subscription(JointTrajectory, interface.ARM_COMMAND, self._on_command, interface.COMMAND_QOS,
                                 raw=True)
        self._following = node.create_timer(_SENSE_S, self._follow)
        self.states: list[DiagnosticArray] = self.processes.collect(DiagnosticArray, interface.DIAGNOSTICS,
                                                                    interface.EVENT_QOS)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        run_before_others(0)
        self.processes.close()

    def start_gate(self) -> None:
        """Start the gate and wait until it is active."""
        self._task.publish(String(data='pick the red cube'))
        self.processes.start('gate', cell=self.cell.path, mode='auto', stop_cooldown_s=0.0,
                             evidence_file=str(Path(self.cell.path).with_name('evidence.json')))
        self.processes.require(lambda: any(s.name == 'gate_node: state' and s.message == 'active'
                                           for array in self.states for s in array.status), 'the gate to be active')
        self.processes.require(lambda: self.proposals.get_subscription_count() and self._task.get_subscription_count(),
                               'the gate to listen')

    def watch_closely(self) -> None:
        """From now on this process, the stopwatch, is not held up by others; what it starts would not be either."""
        run_before_others(_PRIORITY)

    def stop_sensing(self) -> None:
        """From now on the robot follows no command, and camera and joints say only what ``sense`` is told."""
        self._following.cancel()

    def sense(self, positions: np.ndarray, image_ns: int, joint_ns: int) -> None:
        """Say what a camera and a joint state broadcaster would.

        Args:
            positions: (joints,) rad or m, arm then gripper.
            image_ns: Stamp of the image.
            joint_ns: Stamp of the joint state.
        """
        self._stamps.append(image_ns)
        # The arm is at rest and did not just come. The gate takes a topic message by message: the first must be out of
        # the way when the proposal comes. It ignores one that is older than the newest, unless more such follow.
        before_ns = joint_ns - _AT_REST_NS
        for _ in range(1 if before_ns > self._joint_ns else _TIME_HAS_JUMPED):
            self._joints.publish(joint_state_message(self._robot.joints, positions, before_ns))
            time.sleep(_TAKEN_S)
        self._joints.publish(joint_state_message(self._robot.joints, positions, joint_ns))
        self._joint_ns = joint_ns
        self._camera.publish(camera_info_message(self.cell.camera, image_ns))

    @property
    def stamp_ns(self) -> int:
        """Stamp of the newest image that the gate is sure to know: a decision takes longer than this is old."""
        return self._stamps[0]

    def plan(self) -> Trajectory:
        """A legal motion of many points from where the robot is, so slow that it may be proposed again and again.

        Raises:
            UserError: Nothing in sight of the camera is within reach.
        """
        planner, middle = SkillPlanner(self.cell), self.cell.grid // 2
        for column in (middle, *range(self.cell.grid)):
            try:
                motion = planner.plan(Pick(column, middle), self._robot.joints, self._positions)
            except MotionError:
                continue
            assert motion is not None, 'a pick moves the arm'
            return slowed(motion, max(_SHARE, 1.01 * motion.duration_s / self.cell.safety.max_duration_s))
        raise UserError(f'{self.cell.path}: the arm reaches nothing in the middle row of the image')

    def propose(self, motion: Trajectory) -> float:
        """Publish a proposal that rests on an image since the last command, once there is one; when (monotonic, s)."""
        self.processes.wait(lambda: self.stamp_ns > self._commanded_ns, _IMAGE_S)
        message = trajectory_message(motion, self.stamp_ns)
        now = time.monotonic()
        self.proposals.publish(message)
        return now

    def _on_command(self, message: bytes, info: dict[str, Any]) -> None:
        # When the middleware received it: this process may be busy with something else just then.
        self._commanded_ns = info['received_timestamp']
        self._newest = time.monotonic() - (time.time_ns() - self._commanded_ns) * 1e-9, message
        self.commands.append(self._newest)

    def points(self, message: bytes) -> int:
        """How many points a command has: one where the gate holds the arm."""
        return len(deserialize_message(message, JointTrajectory).points)

    def trajectory(self, message: bytes) -> Trajectory:
        """What a command for the arm says."""
        trajectory = trajectory_from(deserialize_message(message, JointTrajectory), interface.ARM_COMMAND)
        assert trajectory is not None, 'the gate knows where the arm is'
        return trajectory

    def _follow(self) -> None:
        """Be where the newest command has led by now, and say so."""
        if self._newest is not None:
            then, message = self._newest
            self._newest = None
            motion = trajectory_from(deserialize_message(message, JointTrajectory), interface.ARM_COMMAND)
            self._motion = None if motion is None else (motion.select(self._robot.arm_joints), then)
        if self._motion is not None:
            motion, then = self._motion
            now = time.monotonic()
            arm = positions_at(motion, np.array([now - then]))[0]
            self._positions = np.append(arm, self._positions[len(arm):])
            self.arm_states.append((now, arm))
        now_ns = time.time_ns()
        self._stamps.append(now_ns)
        self._joints.publish(joint_state_message(self._robot.joints, self._positions, now_ns))
        self._camera.publish(camera_info_message(self.cell.camera, now_ns))
        self._joint_ns = now_ns
