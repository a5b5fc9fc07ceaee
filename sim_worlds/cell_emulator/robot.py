"""The robot of an emulated cell: two controllers, the driver below them, and what may be wrong with it."""

from __future__ import annotations

import numpy as np

from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.types import Trajectory

from ..simulation import PHYSICS_HZ
from ..world import CONTROL_STEPS, CellWorld
from .controller import Refused, TrajectoryController

PERIOD_S = CONTROL_STEPS / PHYSICS_HZ
ARM, GRIPPER = 'arm', 'gripper'


class EmulatedRobot:
    """Moves the robot of a simulated cell as its controllers say, unless it must not or cannot.

    Attributes:
        controllers: Of ARM and GRIPPER.
        jammed: The arm stays where it is while its controllers believe that it follows.
    """

    def __init__(self, world: CellWorld) -> None:
        robot, limits, measured = world.cell.robot, Kinematics(world.cell), world.joint_state()[0]
        self._world, self._arm = world, len(robot.arm_joints)
        self._slices = {ARM: slice(0, self._arm), GRIPPER: slice(self._arm, None)}
        self.controllers = {
            group: TrajectoryController(joints, limits.lower[part], limits.upper[part], measured[part])
            for (group, part), joints in zip(self._slices.items(), (robot.arm_joints, robot.gripper_joints))}
        self._protective_stop = self.jammed = False
        self._set_position = measured

    @property
    def protective_stop(self) -> bool:
        """The safety controller has stopped the robot, and commands are ignored until it is released."""
        return self._protective_stop

    @protective_stop.setter
    def protective_stop(self, stopped: bool) -> None:
        if stopped != self._protective_stop:
            self._protective_stop = stopped
            self.hold()

    def hold(self) -> None:
        """Let both controllers forget what they were doing and hold the measured position."""
        measured, _ = self._world.joint_state()
        for group, controller in self.controllers.items():
            controller.hold(measured[self._slices[group]])

    def receive(self, group: str, trajectory: Trajectory | None, late_s: float) -> None:
        """A command of one controller has arrived; see ``TrajectoryController.receive``.

        Raises:
            Refused: It is ignored.
        """
        controller = self.controllers[group]
        if self._protective_stop:
            controller.refuse('the robot is in a protective stop')
            raise Refused(controller.reason)
        controller.receive(trajectory, late_s, self._world.joint_state()[0][self._slices[group]])

    def step(self) -> None:
        """Let PERIOD_S pass."""
        pairs = [controller.update(PERIOD_S) for controller in self.controllers.values()]
        position, velocity = (np.concatenate(part) for part in zip(*pairs))
        if self.jammed:
            position[:self._arm], velocity[:self._arm] = self._set_position[:self._arm], 0.0
        self._set_position = position
        self._world.drive(position, velocity)
