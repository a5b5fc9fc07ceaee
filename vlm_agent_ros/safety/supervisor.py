"""Watches what the gate lives on while the robot moves, and pulls the stop: monitors with hysteresis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..cell import Cell
from ..types import Trajectory
from .driver import DriverWatch
from .fault import Fault, Pulse
from .tracking import Tracking

# How soon a process that died is named on /diagnostics. With a limit T of the cell file, the heartbeat that came just
# before the death is older than T at the latest one poll after T has passed, and is seen so trigger_count times in a
# row: T + trigger_count * POLL_S = 0.5 + 3 * 0.025 = 0.575 s. Of the 0.8 s that it may take, 0.225 s are left for a
# busy machine: twice a message's way, and a poll that comes late; 0.155 s were seen on two loaded cores.
# And no false stop: a process that is busy for 0.3 s is silent for 0.3 s + HEARTBEAT_S, which T exceeds by 0.15 s. A
# gate that was busy itself finds its poll before the messages that wait, once; then they are served.
POLL_S = 0.025
HEARTBEAT_S = 0.05


class Trigger(Protocol):
    """What a supervisor does with a fault; the same cause may be reported again and again."""

    def __call__(self, cause: str, persists: Callable[[], bool], message: str) -> None:
        """Stop the robot."""
        ...


class Supervisor:
    """Turns what arrives, and what does not, into faults.

    Args:
        cell: Its section ``autonomy`` has the limits.
        trigger: Called at once for every fault that is present; the stop is latched there.
        clock: Monotonic time in seconds, by which silence is judged.
        motion_clock: Monotonic time in seconds by which the robot moves: that of a simulation where there is one.

    Attributes:
        present: Every fault that is there now, whether or not it stops the robot at this moment, with its sentence.
    """

    def __init__(self, cell: Cell, trigger: Trigger, clock: Callable[[], float] = time.monotonic,
                 motion_clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._trigger = cell.autonomy, trigger
        self._clock, self._motion_clock = clock, motion_clock
        self.tracking = Tracking(cell)
        self._camera, self._joints, self._heartbeat = Pulse(), Pulse(), Pulse()
        self._driver = DriverWatch(cell.topics.protective_stop)
        self._faults = {name: Fault(self._limits.trigger_count, self._limits.release_s)
                        for name in ('camera', 'joints', 'heartbeat', 'tracking', 'driver')}
        # The driver has judged already: its first word counts.
        self._faults['protective'] = Fault(1, self._limits.release_s)
        self._protective = ''
        self.present: dict[str, str] = {}

    @property
    def joints_are_fresh(self) -> bool:
        """The newest joint state says where the arm is now."""
        return self.joints_age_s <= self._limits.joint_timeout_s

    @property
    def joints_age_s(self) -> float:
        """Time (s) since the newest joint state."""
        return self._joints.age_s(self._clock())

    def image(self, stamp_ns: int) -> None:
        """An image, or the camera_info of one, has come."""
        self._camera.beat(stamp_ns, self._clock())

    def heartbeat(self, stamp_ns: int) -> None:
        """The agent has shown that it lives."""
        self._heartbeat.beat(stamp_ns, self._clock())

    def joint_state(self, stamp_ns: int, arm: np.ndarray) -> None:
        """A usable joint state has come: (arm joints,) float64, rad."""
        now = self._clock()
        self._joints.beat(stamp_ns, now)
        joint, error = self.tracking.update(arm, self._motion_clock())
        limit = self._limits.tracking_tolerance
        self._observe('tracking', error > limit, now,
                      f'{joint} is {error:.3f} rad away from the commanded motion, allowed are {limit:g}')

    def protective_stop(self, why: str) -> None:
        """The robot's driver has said whether it is in a protective stop: why, or nothing."""
        self._driver.heard(self._clock())
        self._protective = why
        self._observe('protective', bool(why), self._clock(), why)

    def driver_publishers(self, count: int) -> None:
        """So many publishers exist of the topic on which the driver tells of a protective stop."""
        self._driver.publishers(count)

    @property
    def driver_fault(self) -> str:
        """Why a protective stop would go unnoticed now, in a sentence; empty while it would not."""
        return self._driver.silence(self._clock()) or self.present.get('driver', '')

    def command(self, trajectory: Trajectory, lead_s: float = 0.0) -> None:
        """A motion goes to the robot, which begins with it so many seconds from now."""
        self.tracking.command(trajectory, self._motion_clock() + lead_s)

    def poll(self, *, agent_matters: bool) -> None:
        """Judge silence; to be called every POLL_S.

        Args:
            agent_matters: The agent's proposals may reach the robot.
        """
        now, limits, moving = self._clock(), self._limits, self.tracking.moving
        self._observe('camera', self._camera.age_s(now) > limits.camera_timeout_s, now,
                      f'no new image for more than {limits.camera_timeout_s:g} s', moving)
        self._observe('joints', not self.joints_are_fresh, now,
                      f'no new joint state for more than {limits.joint_timeout_s:g} s', moving)
        silent = self._heartbeat.seen and self._heartbeat.age_s(now) > limits.heartbeat_timeout_s
        self._observe('heartbeat', silent, now,
                      f'no heartbeat of the agent for more than {limits.heartbeat_timeout_s:g} s', agent_matters)
        self._observe('protective', bool(self._protective), now, self._protective)
        silence = self._driver.silence(now)
        self._observe('driver', bool(silence), now, silence, moving)

    def _observe(self, cause: str, bad: bool, now_s: float, message: str, matters: bool = True) -> None:
        fault = self._faults[cause]
        if not fault.observe(bad, now_s):
            self.present.pop(cause, None)
        elif bad:
            self.present[cause] = message
            if matters:
                self._trigger(cause, lambda: fault.present, message)
