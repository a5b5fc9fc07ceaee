"""Only motions within the limits of the cell pass; what is refused says by which rule, value and limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.actions import Pick, Place, Push
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.limits import MAX_AHEAD_S
from vlm_agent_ros.motion import Kinematics, MotionError, SkillPlanner
from vlm_agent_ros.safety import SafetyRules, StopLatch, Violation
from vlm_agent_ros.types import Observation, Trajectory

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def rules(cell: Cell, kinematics: Kinematics) -> SafetyRules:
    return SafetyRules(cell, kinematics)


@pytest.fixture
def pick(planner: SkillPlanner, at_home: Observation) -> Trajectory:
    trajectory = planner.plan(Pick(24, 24), at_home.joint_names, at_home.joint_positions)
    assert trajectory is not None
    return trajectory


def move(cell: Cell, start: np.ndarray, goal: np.ndarray, seconds: float) -> Trajectory:
    """A straight joint motion in two points, at rest in both."""
    return Trajectory(cell.robot.joints, np.array([0, round(seconds * SECOND)], dtype=np.int64),
                      np.stack([start, goal]), np.zeros((2, len(start))))


def expect(violation: Violation | None, rule: str) -> Violation:
    assert violation is not None, f'a motion that breaks the rule {rule!r} passed'
    assert violation.rule == rule, violation.message
    return violation


def test_every_motion_of_the_planner_passes(rules: SafetyRules, planner: SkillPlanner, cell: Cell,
                                            at_home: Observation) -> None:
    planned = 0
    for column in range(0, cell.grid, 6):
        for row in range(0, cell.grid, 6):
            for command, gripper in ((Pick(column, row), 0.04), (Place(column, row), 0.022),
                                     (Push(column, row, 'left'), 0.0)):
                measured = replace(at_home, joint_positions=np.append(cell.robot.home, gripper))
                try:
                    trajectory = planner.plan(command, measured.joint_names, measured.joint_positions)
                except MotionError:
                    continue
                violation = rules.check(trajectory, measured, image_age_s=0.3, joint_age_s=0.02)
                assert violation is None, f'{command}: {violation}'
                planned += 1
    assert planned > 60


def test_arm_and_gripper_pass_by_themselves(rules: SafetyRules, cell: Cell, pick: Trajectory, at_home: Observation
                                            ) -> None:
    assert rules.check(pick.select(cell.robot.arm_joints), at_home) is None
    assert rules.check(pick.select(cell.robot.gripper_joints), at_home) is None


def test_joints_may_come_in_any_order(rules: SafetyRules, pick: Trajectory, at_home: Observation) -> None:
    assert rules.check(pick.select(pick.joint_names[::-1]), at_home) is None


def test_a_single_point_at_the_measured_position_passes(rules: SafetyRules, cell: Cell, at_home: Observation) -> None:
    joints = len(cell.robot.joints)
    hold = Trajectory(cell.robot.joints, np.array([0]), at_home.joint_positions[None], np.zeros((1, joints)))
    assert rules.check(hold, at_home) is None


@pytest.mark.parametrize('names', [
    (), ('panda_joint1',), ('panda_joint1', 'panda_joint1'), ('panda_joint1', 'elbow'), ('panda_finger_joint2',),
])
def test_unknown_missing_and_repeated_joints_are_refused(rules: SafetyRules, at_home: Observation,
                                                         names: tuple[str, ...]) -> None:
    empty = np.zeros((1, len(names)))
    expect(rules.check(Trajectory(names, np.array([0]), empty, empty), at_home), 'joints')


def test_an_arm_without_one_of_its_joints_is_refused(rules: SafetyRules, cell: Cell, pick: Trajectory,
                                                     at_home: Observation) -> None:
    violation = expect(rules.check(pick.select(cell.robot.arm_joints[:-1]), at_home), 'joints')
    assert 'panda_joint7' in violation.message


def test_points_without_end_and_no_points_are_refused(rules: SafetyRules, cell: Cell, pick: Trajectory,
                                                      at_home: Observation) -> None:
    joints = len(pick.joint_names)
    expect(rules.check(replace(pick, times_ns=np.zeros(0, dtype=np.int64), positions=np.zeros((0, joints)),
                               velocities=np.zeros((0, joints))), at_home), 'points')
    count = cell.safety.max_points + 1
    many = Trajectory(pick.joint_names, np.arange(count) * 1000, np.tile(at_home.joint_positions, (count, 1)),
                      np.zeros((count, joints)))
    expect(rules.check(many, at_home), 'points')


def test_arrays_that_do_not_fit_together_are_refused(rules: SafetyRules, pick: Trajectory, at_home: Observation
                                                     ) -> None:
    expect(rules.check(replace(pick, velocities=np.zeros((0, 0))), at_home), 'shape')
    expect(rules.check(replace(pick, positions=pick.positions[:-1]), at_home), 'shape')


@pytest.mark.parametrize('number', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('field', ['positions', 'velocities'])
def test_a_number_that_is_not_finite_is_refused_by_joint_and_point(rules: SafetyRules, pick: Trajectory,
                                                                   at_home: Observation, field: str, number: float
                                                                   ) -> None:
    array = getattr(pick, field).copy()
    array[7, 3] = number
    violation = expect(rules.check(replace(pick, **{field: array}), at_home), 'finite')
    assert 'panda_joint4' in violation.message
    assert 'point 7' in violation.message


def test_a_measurement_that_is_not_finite_or_incomplete_is_refused(rules: SafetyRules, pick: Trajectory,
                                                                   at_home: Observation) -> None:
    broken = at_home.joint_positions.copy()
    broken[2] = np.nan
    expect(rules.check(pick, replace(at_home, joint_positions=broken)), 'finite')
    expect(rules.check(pick, replace(at_home, joint_names=at_home.joint_names[:-1],
                                     joint_positions=at_home.joint_positions[:-1])), 'start')


def test_times_must_rise_strictly_from_zero_and_end_in_time(rules: SafetyRules, cell: Cell, pick: Trajectory,
                                                            at_home: Observation) -> None:
    for times in (pick.times_ns - 1, np.minimum(pick.times_ns, pick.times_ns[5]), pick.times_ns[::-1].copy(),
                  pick.times_ns * 20):
        expect(rules.check(replace(pick, times_ns=times), at_home), 'time')
    assert cell.safety.max_duration_s < pick.duration_s * 20


def test_a_motion_must_start_where_the_robot_is(rules: SafetyRules, cell: Cell, pick: Trajectory, at_home: Observation
                                                ) -> None:
    pick = replace(pick, times_ns=pick.times_ns + SECOND)  # time to get there
    moved = at_home.joint_positions.copy()
    moved[3] += cell.safety.max_start_error * 0.99
    assert rules.check(pick, replace(at_home, joint_positions=moved)) is None
    moved[3] += cell.safety.max_start_error * 0.02
    violation = expect(rules.check(pick, replace(at_home, joint_positions=moved)), 'start')
    assert 'panda_joint4' in violation.message
    assert violation.limit == cell.safety.max_start_error


def test_positions_beyond_the_urdf_limits_are_refused(rules: SafetyRules, kinematics: Kinematics, cell: Cell,
                                                      at_home: Observation) -> None:
    for joint, name in enumerate(cell.robot.joints):
        for limit, beyond in ((kinematics.upper[joint], 0.001), (kinematics.lower[joint], -0.001)):
            goal = at_home.joint_positions.copy()
            goal[joint] = limit + beyond
            rule = 'position' if name in cell.robot.arm_joints else 'gripper_width'
            violation = expect(rules.check(move(cell, at_home.joint_positions, goal, 20.0), at_home), rule)
            assert name in violation.message
            assert violation.limit == limit


def test_a_position_limit_may_not_be_overshot_between_points(rules: SafetyRules, kinematics: Kinematics, cell: Cell,
                                                             at_home: Observation) -> None:
    gripper = at_home.joint_positions.copy()
    assert gripper[-1] == kinematics.upper[-1]
    swing = move(cell, gripper, gripper, 1.0)
    swing.velocities[0, -1], swing.velocities[1, -1] = 0.1, -0.1
    expect(rules.check(swing, at_home), 'gripper_width')


def test_a_declared_velocity_over_the_limit_is_refused(rules: SafetyRules, pick: Trajectory, at_home: Observation
                                                       ) -> None:
    velocities = pick.velocities.copy()
    velocities[20, 1] = 2.11
    violation = expect(rules.check(replace(pick, velocities=velocities), at_home), 'velocity')
    assert 'panda_joint2' in violation.message
    assert violation.limit == pytest.approx(2.0 * 1.05)


def test_a_velocity_field_that_understates_the_motion_hides_nothing(rules: SafetyRules, pick: Trajectory,
                                                                    at_home: Observation) -> None:
    hurried = replace(pick, times_ns=pick.times_ns // 3, velocities=np.zeros_like(pick.velocities))
    violation = expect(rules.check(hurried, at_home), 'velocity')
    assert float(violation.value) > float(violation.limit)


def test_the_peak_between_two_resting_points_counts_not_the_mean(rules: SafetyRules, cell: Cell, at_home: Observation
                                                                 ) -> None:
    """A cubic from rest to rest peaks at 1.5 times its mean velocity."""
    start, goal = at_home.joint_positions.copy(), at_home.joint_positions.copy()
    start[0], goal[0] = -0.375, 0.375
    at_start = replace(at_home, joint_positions=start)
    assert rules.check(move(cell, start, goal, 1.5 * 0.75 / 2.1 + 0.001), at_start) is None
    violation = expect(rules.check(move(cell, start, goal, 0.75 / 2.1 + 0.001), at_start), 'velocity')
    assert float(violation.value) == pytest.approx(1.5 * 2.1, rel=0.01)


def test_the_way_from_the_measured_position_to_a_later_first_point_counts(rules: SafetyRules, cell: Cell,
                                                                          at_home: Observation) -> None:
    goal = at_home.joint_positions.copy()
    goal[0] += 0.09
    point = Trajectory(cell.robot.joints, np.array([SECOND // 100]), goal[None], np.zeros((1, len(goal))))
    expect(rules.check(point, at_home), 'velocity')
    assert rules.check(replace(point, times_ns=np.array([SECOND])), at_home) is None


@pytest.mark.parametrize(('target', 'axis', 'corner'), [
    ((0.5, 0.0, -0.02), 'z', 'low'), ((0.5, 0.46, 0.3), 'y', 'high'), ((0.5, -0.46, 0.3), 'y', 'low'),
])
def test_the_tool_may_not_leave_the_workspace_box(rules: SafetyRules, kinematics: Kinematics, cell: Cell,
                                                  at_home: Observation, target: tuple[float, float, float], axis: str,
                                                  corner: str) -> None:
    arm = kinematics.inverse(np.array(target), np.diag([1.0, -1.0, -1.0]), np.array(cell.robot.home))
    motion = move(cell, at_home.joint_positions, np.append(arm, 0.04), 8.0)
    violation = expect(rules.check(motion, at_home), 'workspace')
    assert f' {axis} = ' in violation.message
    assert violation.limit == getattr(cell.workspace, corner)['xyz'.index(axis)]


def tool_at(kinematics: Kinematics, cell: Cell, at_home: Observation, z: float, x: float = 0.5,
            y: float = 0.0) -> Observation:
    arm = kinematics.inverse(np.array([x, y, z]), np.diag([1.0, -1.0, -1.0]), np.array(cell.robot.home))
    return replace(at_home, joint_positions=np.append(arm, 0.04))


def through(cell: Cell, *knots: Observation) -> Trajectory:
    """At rest in each, 4 s from one to the next."""
    joints = np.stack([knot.joint_positions for knot in knots])
    times_ns = np.arange(len(knots), dtype=np.int64) * 4 * SECOND
    return Trajectory(cell.robot.joints, times_ns, joints, np.zeros_like(joints))


@pytest.mark.parametrize('depth', [1e-4, 0.002, 0.0099])
def test_a_tool_left_a_little_outside_the_box_may_come_back_but_go_no_farther_out_and_not_stay(
        rules: SafetyRules, kinematics: Kinematics, cell: Cell, at_home: Observation, depth: float) -> None:
    floor = cell.workspace.low[2]
    out, inside = (tool_at(kinematics, cell, at_home, z) for z in (floor - depth, floor + 0.1))
    assert rules.check(through(cell, out, inside), out) is None
    assert rules.check(through(cell, out, inside, at_home), out) is None
    for knots in ((out,), (out, tool_at(kinematics, cell, at_home, floor - depth, 0.52)),  # stays out
                  (out, tool_at(kinematics, cell, at_home, floor - depth - 0.008), inside),  # farther out first
                  (out, inside, tool_at(kinematics, cell, at_home, floor - depth)),  # and out again
                  (out, inside, out, inside),
                  (out, tool_at(kinematics, cell, at_home, floor + 0.1, y=cell.workspace.high[1] + 0.02))):  # sideways
        assert expect(rules.check(through(cell, *knots), out), 'workspace').limit in (floor, cell.workspace.high[1])


def test_a_tool_that_jitters_where_it_was_left_may_come_back(rules: SafetyRules, kinematics: Kinematics, cell: Cell,
                                                             at_home: Observation) -> None:
    """The measured start and the first point, planned from an older measurement, are never the same."""
    floor = cell.workspace.low[2]
    measured, first, inside = (tool_at(kinematics, cell, at_home, floor + z) for z in (-2e-3, -2.2e-3, 0.1))
    assert rules.check(through(cell, first, inside), measured) is None


def test_a_tool_farther_outside_than_declared_stays_where_it_is(kinematics: Kinematics, cell: Cell, at_home: Observation
                                                                ) -> None:
    floor = cell.workspace.low[2]
    out, inside = (tool_at(kinematics, cell, at_home, z) for z in (floor - 0.004, floor + 0.1))
    for max_outside, passes in ((0.0, False), (0.0039, False), (0.0041, True)):
        strict = SafetyRules(replace(cell, safety=replace(cell.safety, max_outside=max_outside)), kinematics)
        violation = strict.check(through(cell, out, inside), out)
        assert (violation is None) is passes
        if violation is not None:
            assert violation.value == pytest.approx(floor - 0.004, abs=2e-4)


def test_the_tool_may_not_leave_the_box_between_two_points_inside_it(kinematics: Kinematics, cell: Cell,
                                                                     at_home: Observation) -> None:
    """From one side of the table to the other, a straight joint motion swings out over the front of a small box."""
    rules = SafetyRules(replace(cell, workspace=replace(cell.workspace, high=(0.60, 0.40, 0.80))), kinematics)
    ends = []
    for y in (0.38, -0.38):
        arm = kinematics.inverse(np.array([0.52, y, 0.3]), np.diag([1.0, -1.0, -1.0]), np.array(cell.robot.home))
        end = replace(at_home, joint_positions=np.append(arm, 0.04))
        assert rules.check(move(cell, end.joint_positions, end.joint_positions, 1.0), end) is None
        ends.append(end)
    swing = move(cell, ends[0].joint_positions, ends[1].joint_positions, 5.0)
    assert ' x = ' in expect(rules.check(swing, ends[0]), 'workspace').message


@pytest.mark.parametrize(('argument', 'key', 'rule'), [
    ('image_age_s', 'max_image_age_s', 'age'), ('joint_age_s', 'max_joint_age_s', 'inputs')])
def test_old_and_future_data_is_refused(rules: SafetyRules, cell: Cell, pick: Trajectory, at_home: Observation,
                                        argument: str, key: str, rule: str) -> None:
    limit = getattr(cell.safety, key)
    for age in (limit * 1.01, np.nan, np.inf):
        assert expect(rules.check(pick, at_home, **{argument: age}), rule).limit == limit
    assert 'set the clocks' in expect(rules.check(pick, at_home, **{argument: -0.5 * limit}), 'inputs').message
    for age in (0.0, limit, -MAX_AHEAD_S):
        assert rules.check(pick, at_home, **{argument: age}) is None


def test_nothing_passes_while_stopped(cell: Cell, kinematics: Kinematics, pick: Trajectory, at_home: Observation
                                      ) -> None:
    stop = StopLatch(cooldown_s=0.0)
    rules = SafetyRules(cell, kinematics, stop)
    assert rules.check(pick, at_home) is None
    stop.trigger('operator pressed stop')
    assert 'operator pressed stop' in expect(rules.check(pick, at_home), 'stop').message
    assert stop.reset()[0]
    assert rules.check(pick, at_home) is None


def _spike(random: np.random.Generator, trajectory: Trajectory, size: float) -> Trajectory:
    positions = trajectory.positions.copy()
    positions[random.integers(1, len(positions)), random.integers(7)] += random.choice([-1, 1]) * size
    return replace(trajectory, positions=positions)


def _not_finite(random: np.random.Generator, trajectory: Trajectory) -> Trajectory:
    field = random.choice(['positions', 'velocities'])
    array = getattr(trajectory, field).copy()
    array[random.integers(len(array)), random.integers(array.shape[1])] = random.choice([np.nan, np.inf, -np.inf])
    return replace(trajectory, **{field: array})


def _faster(random: np.random.Generator, trajectory: Trajectory) -> Trajectory:
    times = np.round(trajectory.times_ns / random.uniform(1.2, 50)).astype(np.int64)
    return replace(trajectory, times_ns=times, velocities=trajectory.velocities * random.choice([0.0, 1.0]))


def _shift(random: np.random.Generator, trajectory: Trajectory) -> Trajectory:
    offset = np.zeros(trajectory.positions.shape[1])
    offset[random.integers(7)] = random.choice([-1, 1]) * random.uniform(0.11, 3.0)
    return replace(trajectory, positions=trajectory.positions + offset)


def _disorder(random: np.random.Generator, trajectory: Trajectory) -> Trajectory:
    times = trajectory.times_ns.copy()
    i, j = random.choice(len(times), 2, replace=False)
    times[[i, j]] = times[[j, i]]
    return replace(trajectory, times_ns=times)


def _huge(random: np.random.Generator, trajectory: Trajectory) -> Trajectory:
    return _spike(random, trajectory, 10.0 ** random.uniform(3, 308))


MUTATIONS: tuple[Callable[[np.random.Generator, Trajectory], Trajectory], ...] = (
    _not_finite, _faster, _shift, _disorder, _huge, lambda random, t: _spike(random, t, random.uniform(0.2, 6.0)),
)


@pytest.mark.filterwarnings('error')
def test_no_mutated_motion_passes(rules: SafetyRules, planner: SkillPlanner, at_home: Observation) -> None:
    random = np.random.default_rng(0)
    plans = [planner.plan(Pick(int(c), int(r)), at_home.joint_names, at_home.joint_positions)
             for c, r in random.integers(12, 36, (10, 2))]
    for i in range(500):
        mutate = MUTATIONS[i % len(MUTATIONS)]
        mutated = mutate(random, plans[random.integers(len(plans))])
        violation = rules.check(mutated, at_home)
        assert violation is not None, f'{mutate.__name__} number {i} passed'
        assert violation.message


def test_random_motions_that_pass_keep_every_limit(rules: SafetyRules, kinematics: Kinematics, cell: Cell,
                                                   at_home: Observation) -> None:
    """The rules against a dense evaluation of the cubics, on random motions of which some pass and some do not."""
    random = np.random.default_rng(1)
    limit = np.array(cell.robot.max_velocity[:7]) * (1 + cell.safety.velocity_tolerance)
    lower, upper = np.array(cell.workspace.low) - 3e-3, np.array(cell.workspace.high) + 3e-3
    passed = 0
    for _ in range(60):
        steps = random.normal(0.0, random.choice([0.02, 0.05, 0.1]), (6, 7))
        positions = np.array(cell.robot.home) + np.vstack([np.zeros(7), np.cumsum(steps, axis=0)])
        velocities = random.normal(0.0, 0.1, positions.shape) * limit
        motion = Trajectory(cell.robot.arm_joints, np.arange(7) * SECOND // 4, positions, velocities)
        if rules.check(motion, at_home) is not None:
            continue
        passed += 1
        s = np.linspace(0, 1, 101)[:, None]
        for i in range(6):
            dense = ((1 + 2 * s) * (1 - s) ** 2 * positions[i] + s**2 * (3 - 2 * s) * positions[i + 1]
                     + s * (1 - s) * ((1 - s) * velocities[i] - s * velocities[i + 1]) / 4)
            assert (np.abs(np.diff(dense, axis=0)) * 400 <= limit * 1.001).all()
            assert (dense >= kinematics.arm_lower).all()
            assert (dense <= kinematics.arm_upper).all()
            tool = np.array([kinematics.forward(arm)[0] for arm in dense])
            assert (tool >= lower).all()
            assert (tool <= upper).all()
    assert 5 <= passed <= 55


def test_a_check_is_fast_enough_for_the_gate(rules: SafetyRules, pick: Trajectory, at_home: Observation) -> None:
    seconds = []
    for _ in range(20):
        start = time.process_time()
        rules.check(pick, at_home, image_age_s=0.1, joint_age_s=0.1)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.005


def test_an_arm_that_does_not_rest_at_the_end_must_have_room_to_come_to_rest(
        rules: SafetyRules, cell: Cell, kinematics: Kinematics, at_home: Observation) -> None:
    """It goes on by v t / 2 while it brakes in ``safety.jump_time_s``."""
    speed, axis = 1.5, np.eye(8)[6]
    for left, refused in ((0.0, True), (0.5 * speed * cell.safety.jump_time_s + 0.01, False)):
        end = at_home.joint_positions.copy()
        end[6] = kinematics.upper[6] - left
        start = replace(at_home, joint_positions=end - 0.3 * axis)
        motion = Trajectory(cell.robot.joints, np.array([0, SECOND // 2]), np.stack([start.joint_positions, end]),
                            np.stack([0.0 * axis, speed * axis]))
        violation = rules.check(motion, start)
        assert (violation is not None) == refused, violation
        if violation is not None:
            expect(violation, 'position')
            assert violation.value == pytest.approx(kinematics.upper[6] + 0.075)


def test_a_motion_that_would_only_swing_back_into_the_workspace_after_its_end_is_refused(
        rules: SafetyRules, cell: Cell, kinematics: Kinematics, at_home: Observation) -> None:
    """The last point is what a controller holds, wherever the arm goes while it comes to rest."""
    start = at_home.joint_positions.copy()
    start[0] = outside = next(angle for angle in np.linspace(0.0, 1.5, 30001)
                              if kinematics.forward(np.append(angle, start[1:7]))[0][0] < cell.workspace.low[0] - 0.004)
    start[0] = outside
    measured, speed = replace(at_home, joint_positions=start), 0.4 * np.eye(8)[0]

    def moved(turned: float) -> Trajectory:
        return Trajectory(cell.robot.joints, np.array([0, 70_000_000]),
                          np.stack([start, start - turned * np.eye(8)[0]]), np.stack([0.0 * speed, -speed]))

    ends, swings_to = (kinematics.forward(start[:7] - turned * np.eye(7)[0])[0][0] for turned in (0.012, 0.032))
    assert ends < cell.workspace.low[0] < swings_to
    expect(rules.check(moved(0.012), measured), 'workspace')
    start[0] = outside - 0.012  # from where the same motion ends inside
    assert rules.check(moved(0.012), measured) is None
