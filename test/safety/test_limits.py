"""Limits of acceleration, tool, links, gripper, ages and rate: just inside passes, just outside does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.limits import CLAMPABLE, MAX_AHEAD_S, KeepOut
from vlm_agent_ros.motion import Kinematics, SkillPlanner
from vlm_agent_ros.safety import Ages, SafetyRules, Verdict
from vlm_agent_ros.types import Observation, Trajectory

SECOND = 1_000_000_000
TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
CLAMP = dict.fromkeys(CLAMPABLE, 'clamp')

MakeRules = Callable[..., SafetyRules]


@pytest.fixture
def rules_with(cell: Cell, kinematics: Kinematics) -> MakeRules:
    """Rules of the shipped cell with some keys of ``safety`` (or ``workspace``) changed."""
    def make(workspace: dict[str, Any] | None = None, **safety: Any) -> SafetyRules:
        return SafetyRules(replace(cell, safety=replace(cell.safety, **safety),
                                   workspace=replace(cell.workspace, **workspace or {})), kinematics)
    return make


@pytest.fixture
def pick(planner: SkillPlanner, at_home: Observation) -> Trajectory:
    trajectory = planner.plan(Pick(24, 24), at_home.joint_names, at_home.joint_positions)
    assert trajectory is not None
    return trajectory


def to(at: Observation, goal: np.ndarray, seconds: float) -> Trajectory:
    """A motion from rest to rest: a cubic, whose acceleration is 6 d / t² at its ends and whose speed is 1.5 d / t."""
    return Trajectory(at.joint_names, np.array([0, round(seconds * SECOND)]), np.stack([at.joint_positions, goal]),
                      np.zeros((2, len(goal))))


def turned(at: Observation, joint: int, angle: float) -> np.ndarray:
    goal = at.joint_positions.copy()
    goal[joint] += angle
    return goal


def refused(verdict: Verdict, rule: str) -> float:
    assert verdict.rejection is not None, f'a motion that breaks the rule {rule!r} passed'
    assert verdict.rejection.rule == rule, verdict.rejection.message
    return float(verdict.rejection.value)


@pytest.mark.parametrize('joint', range(8))
def test_acceleration_is_limited_for_every_joint(rules_with: MakeRules, cell: Cell, at_home: Observation, joint: int
                                                 ) -> None:
    rules, way = rules_with(), -0.04 if joint == 7 else 0.1
    limit = cell.robot.max_acceleration[joint] * (1.0 + cell.safety.acceleration_tolerance)
    seconds = np.sqrt(6 * abs(way) / limit)
    if joint == 7:  # so short a way is faster than allowed before it accelerates too much
        at_home, way = replace(at_home, joint_positions=turned(at_home, 7, -0.02)), 0.002
        seconds = np.sqrt(6 * way / limit)
    goal = turned(at_home, joint, way)
    assert rules.judge(to(at_home, goal, seconds * 1.005), at_home).trajectory is not None
    assert refused(rules.judge(to(at_home, goal, seconds * 0.995), at_home), 'acceleration') > limit


def test_a_jump_to_the_first_point_counts_as_acceleration_of_the_arm_but_not_of_the_gripper(
        rules_with: MakeRules, cell: Cell, at_home: Observation) -> None:
    rules, limit = rules_with(), cell.robot.max_acceleration[3] * (1.0 + cell.safety.acceleration_tolerance)
    largest = limit * cell.safety.jump_time_s**2 / 6
    for joint, way, passes in ((3, largest * 0.99, True), (3, largest * 1.01, False), (7, -0.03, True)):
        goal = turned(at_home, joint, way)
        jump = Trajectory(at_home.joint_names, np.array([0]), goal[None], np.zeros((1, 8)))
        assert (rules.judge(jump, at_home).trajectory is not None) == passes


def test_a_motion_that_ends_fast_is_refused(rules_with: MakeRules, pick: Trajectory, at_home: Observation) -> None:
    cut = Trajectory(pick.joint_names, pick.times_ns[:7], pick.positions[:7], pick.velocities[:7])
    assert np.abs(cut.velocities[-1]).max() > 0.5
    rules = rules_with(jump_time_s=0.03)
    assert rules.judge(pick, at_home).trajectory is not None
    refused(rules.judge(cut, at_home), 'acceleration')


def test_the_speed_of_the_tool_is_limited_at_its_peak(rules_with: MakeRules, kinematics: Kinematics, cell: Cell,
                                                      at_home: Observation) -> None:
    """Joint 1 swings the tool around the base: its speed is radius times angular velocity."""
    radius = float(np.hypot(*kinematics.forward(np.array(cell.robot.home))[0][:2]))
    peak = 1.5 * 0.4 / 2.0 * radius
    swing = to(at_home, turned(at_home, 0, 0.4), 2.0)
    share = 1.0 + cell.safety.velocity_tolerance
    assert rules_with(max_tool_speed=peak / share * 1.02).judge(swing, at_home).trajectory is not None
    value = refused(rules_with(max_tool_speed=peak / share * 0.97).judge(swing, at_home), 'tool_speed')
    assert value == pytest.approx(peak, rel=0.01)


def test_the_tool_may_not_enter_a_keep_out_box(rules_with: MakeRules, kinematics: Kinematics, cell: Cell,
                                               at_home: Observation) -> None:
    tool = kinematics.forward(turned(at_home, 0, 0.5)[:7])[0]
    swing = to(at_home, turned(at_home, 0, 0.5), 3.0)
    for gap, passes in ((0.002, True), (-0.002, False)):
        low, high = (tool + np.array(corner) for corner in ((-0.1, gap, -0.1), (0.1, gap + 0.1, 0.1)))
        rules = rules_with(workspace={'keep_out': (KeepOut('post', tuple(low), tuple(high)),)}, collision=False)
        assert (rules.judge(swing, at_home).trajectory is not None) == passes, gap
        if not passes:
            assert 'post' in rules.judge(swing, at_home).violations[0].message


def test_a_thin_keep_out_box_between_two_points_is_not_jumped_over(rules_with: MakeRules, kinematics: Kinematics,
                                                                   at_home: Observation) -> None:
    tool = kinematics.forward(turned(at_home, 0, 0.1234)[:7])[0]
    box = KeepOut('sheet', (0.0, tool[1] - 1e-3, 0.0), (1.0, tool[1] + 1e-3, 1.0))
    rules = rules_with(workspace={'keep_out': (box,)}, collision=False)
    refused(rules.judge(to(at_home, turned(at_home, 0, 0.5), 3.0), at_home), 'keep_out')


def test_links_may_not_enter_a_keep_out_box_that_the_tool_does_not(rules_with: MakeRules, at_home: Observation) -> None:
    elbow = KeepOut('shelf', (-0.2, 0.1, 0.5), (0.3, 0.6, 0.9))
    swing = to(at_home, turned(at_home, 0, 0.6), 3.0)
    value = rules_with(workspace={'keep_out': (elbow,)}).judge(swing, at_home)
    refused(value, 'keep_out')
    assert value.rejection is not None
    assert 'panda_link' in value.rejection.message
    assert rules_with(workspace={'keep_out': (elbow,)}, collision=False).judge(swing, at_home).trajectory is not None


def test_links_may_not_meet_the_table(rules_with: MakeRules, kinematics: Kinematics, cell: Cell, at_home: Observation
                                      ) -> None:
    """The hand lies on its side while the tool is high enough: only its shape says that it is in the table."""
    c, s = np.cos(np.radians(70.0)), np.sin(np.radians(70.0))
    tilted = TOOL_DOWN @ np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    arm = kinematics.inverse(np.array([0.45, 0.0, 0.015]), tilted, np.array(cell.robot.home))
    goal = np.append(arm, 0.04)
    value = refused(rules_with().judge(to(at_home, goal, 6.0), at_home), 'collision')
    assert value < 0.0
    assert rules_with(collision=False).judge(to(at_home, goal, 6.0), at_home).trajectory is not None


def test_links_may_not_meet_each_other(rules_with: MakeRules, cell: Cell, at_home: Observation) -> None:
    """Folded up, the hand goes into the base."""
    folded = np.array([0.0, -1.7, 0.0, -3.05, 0.0, 1.5, 0.785, 0.04])
    rules = rules_with(workspace={'low': (-2.0, -2.0, -2.0), 'high': (2.0, 2.0, 2.0), 'table_z': -3.0})
    verdict = rules.judge(to(at_home, folded, 8.0), at_home)
    refused(verdict, 'collision')
    assert verdict.rejection is not None
    assert 'meets panda_link' in verdict.rejection.message


@pytest.mark.parametrize(('age', 'key', 'rule'), [
    ('image_s', 'max_image_age_s', 'age'), ('joint_s', 'max_joint_age_s', 'inputs'),
    ('task_s', 'max_task_age_s', 'inputs'), ('proposal_s', 'max_proposal_age_s', 'inputs')])
def test_every_age_has_its_limit(rules_with: MakeRules, cell: Cell, pick: Trajectory, at_home: Observation, age: str,
                                 key: str, rule: str) -> None:
    limit = getattr(cell.safety, key)
    assert rules_with().judge(pick, at_home, ages=Ages(**{age: limit})).trajectory is pick
    for old in (limit * 1.001, np.nan, np.inf):
        refused(rules_with().judge(pick, at_home, ages=Ages(**{age: old})), rule)
    for ahead in (1.001 * MAX_AHEAD_S, np.inf):
        refused(rules_with().judge(pick, at_home, ages=Ages(**{age: -ahead})), 'inputs')


def test_proposals_may_not_come_faster_than_their_rate(rules_with: MakeRules, pick: Trajectory, at_home: Observation
                                                       ) -> None:
    rules = rules_with(max_rate_hz=4.0)
    assert rules.judge(pick, at_home, ages=Ages(since_last_s=0.2501)).trajectory is pick
    for since_s in (0.2499, 0.0, -1.0, np.nan):
        refused(rules.judge(pick, at_home, ages=Ages(since_last_s=since_s)), 'rate')


def test_only_the_gripper_may_be_asked_for_an_effort_and_not_for_more_than_both_limits(
        rules_with: MakeRules, kinematics: Kinematics, pick: Trajectory, at_home: Observation) -> None:
    def asking(joint: int, effort: float) -> Trajectory:
        efforts = np.zeros_like(pick.positions)
        efforts[3, joint] = effort
        return replace(pick, efforts=efforts)

    urdf = kinematics.max_effort[7]
    for rules, limit in ((rules_with(), urdf), (rules_with(max_gripper_force=5.0), 5.0),
                         (rules_with(max_gripper_force=urdf + 1.0), urdf)):
        assert rules.judge(asking(7, -limit), at_home).trajectory is not None
        refused(rules.judge(asking(7, limit * 1.001), at_home), 'effort')
        refused(rules.judge(asking(2, 1e-3), at_home), 'effort')
        refused(rules.judge(asking(7, np.nan), at_home), 'finite')


# --- policy ---------------------------------------------------------------------------------------------------------


def test_a_motion_that_is_too_fast_is_slowed_down_if_the_cell_says_so(rules_with: MakeRules, pick: Trajectory,
                                                                      at_home: Observation) -> None:
    hurried = replace(pick, times_ns=pick.times_ns // 2, velocities=pick.velocities * 2)
    refused(rules_with().judge(hurried, at_home), 'velocity')
    strict, rules = rules_with(max_tool_speed=0.5), rules_with(max_tool_speed=0.5, policy=CLAMP)
    verdict = rules.judge(hurried, at_home)
    assert verdict.trajectory is not None
    assert {hit.rule for hit in verdict.violations} == {'velocity', 'tool_speed'}
    assert {hit.handled for hit in verdict.violations} == {'clamp'}
    np.testing.assert_array_equal(verdict.trajectory.positions, pick.positions)
    assert strict.judge(verdict.trajectory, at_home).trajectory is verdict.trajectory


def test_only_rules_that_the_cell_names_clamp(rules_with: MakeRules, pick: Trajectory, at_home: Observation) -> None:
    hurried = replace(pick, times_ns=pick.times_ns // 2, velocities=pick.velocities * 2)
    policy = {'velocity': 'clamp', 'tool_speed': 'reject'}
    verdict = rules_with(max_tool_speed=0.5, policy=policy).judge(hurried, at_home)
    assert [(hit.rule, hit.handled) for hit in verdict.violations] == [('velocity', 'clamp'), ('tool_speed', 'reject')]
    assert verdict.trajectory is None


def test_a_motion_that_would_take_too_long_is_not_slowed_down(rules_with: MakeRules, at_home: Observation) -> None:
    sprint = to(at_home, turned(at_home, 0, 0.3), 1e-3)
    assert rules_with(policy=CLAMP, max_duration_s=0.3).judge(sprint, at_home).trajectory is None
    assert rules_with(policy=CLAMP).judge(sprint, at_home).trajectory is not None


@pytest.mark.parametrize(('beyond', 'passes'), [(0.009, True), (0.011, False)])
def test_a_position_is_clamped_only_within_its_band(rules_with: MakeRules, kinematics: Kinematics, cell: Cell,
                                                    at_home: Observation, beyond: float, passes: bool) -> None:
    goal = turned(at_home, 6, 0.0)
    goal[6] = kinematics.upper[6] + beyond
    verdict = rules_with(policy=CLAMP, position_band=0.01).judge(to(at_home, goal, 5.0), at_home)
    assert (verdict.trajectory is not None) == passes
    if verdict.trajectory is not None:
        assert verdict.trajectory.positions[-1, 6] == kinematics.upper[6]


def test_width_and_effort_of_the_gripper_are_clamped(rules_with: MakeRules, kinematics: Kinematics, pick: Trajectory,
                                                     at_home: Observation) -> None:
    positions, efforts = pick.positions.copy(), np.zeros_like(pick.positions)
    positions[:, 7] -= 0.02
    efforts[:, 7] = 100.0
    wide = replace(pick, positions=positions, efforts=efforts)
    verdict = rules_with(policy=CLAMP).judge(wide, at_home)
    assert {'gripper_width', 'effort'} <= {hit.rule for hit in verdict.violations}
    assert verdict.trajectory is not None
    assert verdict.trajectory.positions[:, 7].min() == kinematics.lower[7]
    assert verdict.trajectory.efforts is not None
    assert verdict.trajectory.efforts.max() == kinematics.max_effort[7]


@pytest.mark.parametrize('spoil', [
    lambda t: replace(t, positions=np.where(t.positions == t.positions[9, 2], np.nan, t.positions)),
    lambda t: replace(t, joint_names=('elbow', *t.joint_names[1:])),
    lambda t: replace(t, positions=t.positions + 0.3),
    lambda t: replace(t, times_ns=t.times_ns[::-1].copy()),
])
def test_what_is_wrong_and_not_just_too_much_is_never_clamped(
        rules_with: MakeRules, pick: Trajectory, at_home: Observation,
        spoil: Callable[[Trajectory], Trajectory]) -> None:
    assert rules_with(policy=CLAMP).judge(spoil(pick), at_home).trajectory is None
