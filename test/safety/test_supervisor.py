"""Faults stop a moving robot, once they have been seen long enough, and are gone only when they stay away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.autonomy import Autonomy
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.config import find_config
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.motion.cubic import positions_at
from vlm_agent_ros.safety.fault import Fault, Pulse
from vlm_agent_ros.safety.supervisor import HEARTBEAT_S, POLL_S, Supervisor
from vlm_agent_ros.topics import ProtectiveStop, Topics
from vlm_agent_ros.types import Observation, Trajectory

LIMITS = Autonomy(camera_timeout_s=0.5, joint_timeout_s=0.2, heartbeat_timeout_s=0.5, tracking_tolerance=0.1,
                  tracking_latency_s=0.1, trigger_count=3, release_s=1.0)


class Bench:
    """A supervisor whose time is set by the test; everything arrives unless it is cut off."""

    def __init__(self, cell: Cell, planner: SkillPlanner, at_home: Observation, topics: Topics | None = None) -> None:
        self.now = 100.0
        self.causes: dict[str, Callable[[], bool]] = {}
        self.supervisor = Supervisor(replace(cell, autonomy=LIMITS, topics=topics or Topics()), self.trigger,
                                     lambda: self.now, lambda: self.now)
        self.cell, self.home = cell, at_home.joint_positions[:len(cell.robot.arm_joints)]
        motion = planner.plan(Pick(24, 24), at_home.joint_names, at_home.joint_positions)
        assert motion is not None
        self.motion: Trajectory = motion
        self.begun: float | None = None
        self.alive = {'camera', 'joints', 'heartbeat', 'driver'}
        self.lag_s, self.offset = 0.0, 0.0
        self.driver_repeats = False

    def trigger(self, cause: str, persists: Callable[[], bool], message: str) -> None:
        assert message
        self.causes[cause] = persists

    def begin(self) -> None:
        self.begun = self.now
        self.supervisor.command(self.motion)

    def arm(self) -> np.ndarray:
        if self.begun is None:
            return self.home
        since = np.array([max(0.0, self.now - self.begun - self.lag_s)])
        return positions_at(self.motion.select(self.cell.robot.arm_joints), since)[0] + self.offset

    def run(self, seconds: float, agent_matters: bool = True) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            stamp = int(self.now * 1e9)
            if 'camera' in self.alive:
                self.supervisor.image(stamp)
            if 'joints' in self.alive:
                self.supervisor.joint_state(stamp, self.arm())
            if 'heartbeat' in self.alive:
                self.supervisor.heartbeat(stamp)
            self.supervisor.driver_publishers(int('driver' in self.alive))
            if self.driver_repeats and 'driver' in self.alive:
                self.supervisor.protective_stop('')
            self.supervisor.poll(agent_matters=agent_matters)


@pytest.fixture
def bench(cell: Cell, planner: SkillPlanner, at_home: Observation) -> Bench:
    bench = Bench(cell, planner, at_home)
    bench.run(1.0)
    return bench


def test_a_motion_that_is_followed_within_the_latency_is_no_fault(bench: Bench) -> None:
    bench.lag_s = 0.08
    bench.begin()
    bench.run(bench.motion.duration_s + 1.0)
    assert not bench.causes
    assert not bench.supervisor.tracking.moving


@pytest.mark.parametrize('cause', ['camera', 'joints'])
def test_a_silent_sensor_stops_a_moving_robot_only(bench: Bench, cause: str) -> None:
    bench.alive.remove(cause)
    bench.run(3.0)
    assert not bench.causes
    assert cause in bench.supervisor.present  # and yet it is named
    bench.alive.add(cause)
    bench.run(2.0)
    assert not bench.supervisor.present
    bench.begin()
    bench.alive.remove(cause)
    bench.run(1.0)
    assert set(bench.causes) == {cause}
    assert bench.causes[cause]()


def test_an_image_that_repeats_its_stamp_is_no_image(bench: Bench) -> None:
    bench.begin()
    bench.alive.remove('camera')
    for _ in range(20):
        bench.supervisor.image(int(100.0e9))
        bench.run(0.05)
    assert 'camera' in bench.causes


def test_a_jump_of_the_stamps_is_no_fault(bench: Bench) -> None:
    bench.begin()
    bench.supervisor.image(5)
    bench.supervisor.joint_state(5, bench.arm())
    bench.supervisor.heartbeat(5)
    bench.run(0.5)
    assert not bench.causes


def test_the_agent_matters_once_it_was_heard_and_may_move_the_robot(bench: Bench, cell: Cell, planner: SkillPlanner,
                                                                     at_home: Observation) -> None:
    never = Bench(cell, planner, at_home)
    never.alive.remove('heartbeat')
    never.run(3.0)
    assert 'heartbeat' not in never.causes
    bench.alive.remove('heartbeat')
    bench.run(3.0, agent_matters=False)
    assert 'heartbeat' not in bench.causes
    bench.run(0.05)
    assert 'heartbeat' in bench.causes


def test_an_arm_that_leaves_the_commanded_motion_is_a_fault_after_several_joint_states(bench: Bench) -> None:
    bench.begin()
    bench.run(0.5)
    bench.offset = 0.3
    bench.run(0.1)
    assert not bench.causes  # two in a row are not three
    bench.run(0.05)
    assert set(bench.causes) == {'tracking'}
    bench.offset = 0.0
    bench.run(0.9)
    assert bench.causes['tracking']()  # still within the time of release
    bench.run(0.2)
    assert not bench.causes['tracking']()


def test_an_arm_that_lags_behind_more_than_allowed_is_a_fault(bench: Bench) -> None:
    bench.lag_s = 0.6
    bench.begin()
    bench.run(1.5)
    assert 'tracking' in bench.causes


def test_a_protective_stop_counts_at_once_and_until_it_has_been_away(bench: Bench) -> None:
    bench.supervisor.protective_stop('the driver says PROTECTIVE_STOP')
    assert bench.causes['protective']()
    bench.run(5.0)
    assert bench.causes['protective']()
    bench.supervisor.protective_stop('')
    bench.run(0.9)
    assert bench.causes['protective']()
    bench.run(0.3)
    assert not bench.causes['protective']()


def with_driver(cell: Cell, planner: SkillPlanner, at_home: Observation, max_age_s: float) -> Bench:
    return Bench(cell, planner, at_home, Topics(protective_stop=ProtectiveStop('safety', max_age_s=max_age_s)))


@pytest.mark.parametrize('max_age_s', [0.0, 0.3])
def test_a_driver_that_never_appeared_is_a_fault_and_no_motion_may_begin(
        cell: Cell, planner: SkillPlanner, at_home: Observation, max_age_s: float) -> None:
    bench = with_driver(cell, planner, at_home, max_age_s)
    bench.driver_repeats = True
    bench.alive.remove('driver')
    assert 'safety' in bench.supervisor.driver_fault  # before the first look
    bench.run(1.0)
    assert 'safety' in bench.supervisor.present['driver']
    assert not bench.causes  # nothing moves
    bench.alive.add('driver')
    bench.run(LIMITS.release_s - 0.1)
    assert bench.supervisor.driver_fault  # one word among silence is no return
    bench.run(0.3)
    assert not bench.supervisor.driver_fault
    assert 'driver' not in bench.supervisor.present


@pytest.mark.parametrize('max_age_s', [0.0, 0.3])
def test_a_driver_that_vanishes_stops_a_moving_robot(cell: Cell, planner: SkillPlanner, at_home: Observation,
                                                     max_age_s: float) -> None:
    bench = with_driver(cell, planner, at_home, max_age_s)
    bench.driver_repeats = max_age_s > 0.0
    bench.run(1.5)
    bench.begin()
    bench.run(0.5)
    assert not bench.causes
    bench.alive.remove('driver')
    bench.run(max_age_s + 0.2)
    assert set(bench.causes) == {'driver'}
    assert bench.causes['driver']()
    bench.alive.add('driver')
    bench.run(LIMITS.release_s + 0.2)
    assert not bench.causes['driver']()


def test_a_driver_that_tells_changes_only_may_be_silent_and_one_that_repeats_may_not(
        cell: Cell, planner: SkillPlanner, at_home: Observation) -> None:
    latched, repeating = (with_driver(cell, planner, at_home, max_age_s) for max_age_s in (0.0, 0.3))
    for bench in (latched, repeating):
        bench.supervisor.protective_stop('')
        bench.run(2.0)  # its publisher is there and says nothing
    assert not latched.supervisor.driver_fault
    assert 'for more than 0.3 s' in repeating.supervisor.driver_fault


def test_a_cell_without_a_topic_of_a_protective_stop_awaits_none(bench: Bench) -> None:
    bench.alive.remove('driver')
    bench.run(2.0)
    assert not bench.supervisor.driver_fault
    assert not bench.supervisor.present


def test_a_fault_needs_observations_in_a_row_both_ways() -> None:
    fault = Fault(trigger_count=2, release_s=1.0)
    assert not fault.observe(True, 0.0)
    assert not fault.observe(False, 0.1)
    assert not fault.observe(True, 0.2)
    assert fault.observe(True, 0.3)
    assert fault.observe(False, 1.0)
    assert fault.observe(True, 1.5)  # the good time starts anew
    assert fault.observe(False, 1.6)
    assert fault.observe(False, 2.5)
    assert not fault.observe(False, 2.7)


def test_what_has_never_come_is_infinitely_old() -> None:
    pulse = Pulse()
    assert pulse.age_s(1.0) == float('inf')
    pulse.beat(7, 1.0)
    pulse.beat(7, 2.0)
    assert pulse.age_s(3.0) == 2.0


def silence(limits: Autonomy, cell: Cell, silent_from: float, silent_until: float, poll_phase: float,
            gate_busy: tuple[float, float] = (0.0, 0.0)) -> float:
    """When a silence of the agent was named, s; infinity for never. Beats and polls go on at their true periods."""
    now = named = 0.0

    def trigger(cause: str, persists: Callable[[], bool], message: str) -> None:
        nonlocal named
        named = named or (now if cause == 'heartbeat' else 0.0)

    supervisor = Supervisor(replace(cell, autonomy=limits), trigger, lambda: now, lambda: now)
    beats = [i * HEARTBEAT_S for i in range(100) if not silent_from < i * HEARTBEAT_S < silent_until]
    polls = [poll_phase + i * POLL_S for i in range(200)]
    events = [(at, 1, None) for at in polls] + [(at, 2, round(at * 1e9)) for at in beats]
    begin, end = gate_busy
    # What came meanwhile is served at the end: the timer first, once, then the messages.
    late = sorted({(end, kind, None if kind == 1 else stamp) if begin < at < end else (at, kind, stamp)
                   for at, kind, stamp in events}, key=lambda event: (*event[:2], event[2] or 0))
    for at, kind, stamp in late:
        now = at
        if kind == 1:
            supervisor.poll(agent_matters=True)
        else:
            supervisor.heartbeat(stamp)
    return named or float('inf')


SHIPPED = sorted(path.stem for path in find_config('cells', 'panda_table').parent.glob('*.yaml'))


@pytest.mark.parametrize('name', SHIPPED)
def test_a_dead_agent_is_named_with_a_margin_and_a_busy_one_is_not_at_every_shipped_cell(name, cell, tmp_path):
    given = find_config('cells', name).read_text(encoding='utf-8').replace('calibrated: false', 'calibrated: true')
    shipped = tmp_path / 'robots' / f'{name}.yaml'
    shipped.parent.mkdir()
    shipped.write_text(given, encoding='utf-8')
    limits = load_cell(str(shipped)).autonomy
    for phase in np.linspace(0.0, POLL_S, 7):
        for death in np.linspace(2.0, 2.0 + HEARTBEAT_S, 7):
            assert silence(limits, cell, death, float('inf'), phase) - death <= 0.65
            assert silence(limits, cell, death, death + 0.3, phase) == float('inf')
            assert silence(limits, cell, 9.0, 9.0, phase, gate_busy=(death, death + 0.7)) == float('inf')
    assert limits.joint_timeout_s + limits.trigger_count * POLL_S <= 0.65
    assert limits.camera_timeout_s + limits.trigger_count * POLL_S <= 0.8
