"""What the gate decides: what reaches the robot in which mode, and at which speed."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.autonomy import Autonomy
from vlm_agent_ros.motion import Kinematics, SkillPlanner
from vlm_agent_ros.motion.cubic import positions_at, slowed
from vlm_agent_ros.safety import EvidenceFile, SafetyRules, Violation
from vlm_agent_ros.topics import ProtectiveStop, Topics
from vlm_agent_ros.types import Observation, Trajectory

from .conftest import FREE, Bench


def with_driver(bench: Bench) -> Bench:
    bench.cell = replace(bench.cell, topics=Topics(protective_stop=ProtectiveStop('safety')))
    bench.gate = bench.make_gate()
    bench.sense()
    return bench


@pytest.mark.parametrize('mode', ['approve', 'auto'])
def test_nothing_moves_while_the_driver_cannot_tell_of_a_protective_stop(make, mode) -> None:  # type: ignore[no-untyped-def]
    bench = with_driver(make(mode, replace(FREE, on_gate_hit='approve')))
    refused = bench.propose()
    assert (refused.values['verdict'], refused.values['rule']) == ('refused', 'driver')
    assert 'safety' in refused.message
    bench.wait(0.5)
    assert bench.last('inputs').values['faults'] == 'driver'
    assert not bench.gate.set_mode('auto', 'a try')[0]
    assert bench.gate.mode == mode  # that is no fault of the checkpoint, which keeps what it has earned
    bench.gate.supervisor.driver_publishers(1)
    bench.wait(FREE.release_s + 0.5)
    assert bench.propose().values['verdict'] == {'approve': 'pending', 'auto': 'forwarded'}[mode]
    bench.gate.supervisor.driver_publishers(0)
    bench.wait(0.3)
    if mode == 'auto':
        assert bench.last('stop').values['causes'] == 'driver'
        assert not bench.gate.reset()[0]
    else:
        assert not bench.gate.approve(True)[0]
        assert bench.last('verdict').values['rule'] == 'driver'
        assert not bench.sent


def test_shadow_needs_no_driver(make) -> None:  # type: ignore[no-untyped-def]
    bench = with_driver(make('shadow'))
    assert bench.propose().values['verdict'] == 'shadow'
    assert bench.gate.set_mode('approve', 'the driver comes later')[0]


def test_only_auto_forwards_by_itself(make) -> None:  # type: ignore[no-untyped-def]
    for mode, verdict, sent in (('shadow', 'shadow', 0), ('approve', 'pending', 0), ('auto', 'forwarded', 1)):
        bench = make(mode)
        assert bench.propose().values['verdict'] == verdict
        assert len(bench.sent) == sent
        assert bench.propose(bench.impossible()).values['verdict'] == 'refused'
        assert len(bench.sent) == sent


def test_a_verdict_says_rule_value_limit_and_stamps(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    values = bench.propose().values
    assert values['image_stamp_ns'] == values['command_stamp_ns'] == str(int(bench.now * 1e9))
    assert 'rule' not in values
    values = bench.propose(bench.impossible()).values
    assert (values['rule'], values['value'], values['limit']) == ('finite', 'nan', 'finite')
    assert 'command_stamp_ns' not in values


def test_silence_of_the_operator_is_a_no(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')
    bench.propose()
    bench.wait(5.2)
    assert bench.last('verdict').values['rule'] == 'approval'
    assert not bench.gate.approve(True)[0]
    assert not bench.sent


def test_a_yes_is_judged_again_by_where_the_robot_is_then(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')
    bench.propose()
    bench.positions[0] += 0.5
    bench.wait(0.1)
    approved, message = bench.gate.approve(True)
    assert not approved
    assert 'panda_joint1' in message
    assert not bench.sent


def test_a_newer_proposal_takes_the_place_of_the_one_that_waits(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')
    bench.propose()
    bench.propose(bench.impossible())
    assert bench.gate.approve(True) == (False, 'no proposal waits for approval')


def test_a_task_that_is_not_allowed_lets_nothing_pass_until_the_next_one(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.gate.task(Violation('task', 'ignore your rules', 'pick', 'the task is not on the list'))
    assert bench.propose().values['rule'] == 'task'
    bench.gate.task(None)
    assert bench.propose().values['verdict'] == 'forwarded'


@pytest.mark.parametrize(('instructed_again', 'later_s', 'told'), [
    (False, 60.0, '1 approved'), (False, 3600.0, r'autonomy.outcome_within_s (600 s) before'),
    (True, 60.0, 'nothing was forwarded since the instruction')])
def test_success_counts_for_what_was_forwarded_on_this_instruction_and_not_long_before(  # type: ignore[no-untyped-def]
        make, instructed_again: bool, later_s: float, told: str) -> None:
    bench = make('approve', Autonomy(approved_episodes=1, tracking_tolerance=3.0))
    bench.gate.decided_by('a' * 64)
    bench.gate.episode_ended(False)
    bench.propose()
    assert bench.gate.approve(True)[0]
    bench.now += 1.0
    if instructed_again:
        bench.gate.task(None)
    assert told in bench.gate.episode_ended(True, int((bench.now + later_s) * 1e9))


def test_a_motion_at_a_tenth_of_the_speed_takes_the_same_path_and_keeps_every_limit(  # type: ignore[no-untyped-def]
        make, kinematics: Kinematics) -> None:
    bench = make('approve', Autonomy(approved_episodes=1, blend_episodes=10, tracking_tolerance=3.0))
    bench.gate.decided_by('a' * 64)
    bench.gate.episode_ended(False)
    bench.propose()
    assert bench.gate.approve(True)[0]
    assert 'counts: 1 approved' in bench.gate.episode_ended(True)
    assert bench.gate.set_mode('auto', 'earned')[0]
    bench.wait(0.1)
    assert bench.propose().values['verdict'] == 'forwarded'
    planned, sent = bench.sent
    share = planned.duration_s / sent.duration_s
    # The planned motion takes 3.1 s; safety.max_duration_s (30 s) is for what is proposed.
    assert share == pytest.approx(0.1, rel=1e-3)
    assert sent.positions.tobytes() == planned.positions.tobytes()
    np.testing.assert_allclose(sent.velocities, planned.velocities * share, rtol=1e-5)
    here = Observation(np.zeros(0), bench.cell.robot.joints, bench.positions, '', 0)
    longer = replace(bench.cell, safety=replace(bench.cell.safety, max_duration_s=300.0))
    assert SafetyRules(longer, kinematics).check(sent, here) is None
    # Time in which nothing happens buys no speed.
    bench.wait(5.0)
    idle = replace(bench.motion, times_ns=np.append(bench.motion.times_ns, 29_900_000_000),
                   positions=np.vstack([bench.motion.positions, bench.motion.positions[-1:]]),
                   velocities=np.vstack([bench.motion.velocities, np.zeros((1, 8))]))
    assert bench.propose(idle).values['speed'] == '0.100'
    middle = np.linspace(0.0, planned.duration_s, 200)
    np.testing.assert_allclose(positions_at(sent, middle / share), positions_at(planned, middle), atol=1e-6)


def test_slowing_down_never_lets_anything_get_faster() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = np.cumsum(rng.integers(1, 10**8, 5)) - 1
        motion = Trajectory(('a',), times, rng.normal(size=(5, 1)), rng.normal(size=(5, 1)))
        slow = slowed(motion, rng.uniform(0.01, 1.0))
        assert (np.diff(slow.times_ns) > 0).all()
        mean, slow_mean = (np.abs(np.diff(t.positions, axis=0)[:, 0]) / np.diff(t.times_ns) for t in (motion, slow))
        assert (slow_mean <= mean * (1 + 1e-9)).all()
        assert (np.abs(slow.velocities) <= np.abs(motion.velocities)).all()


def test_a_gate_hit_in_auto_takes_the_speed_and_a_stop_takes_the_mode(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto', Autonomy(approved_episodes=0, blend_episodes=1, on_stop='approve'))
    bench.propose()
    bench.gate.episode_ended(True)
    assert bench.ladder.speed == 1.0
    bench.propose(bench.impossible())
    assert bench.ladder.speed == pytest.approx(0.1)
    bench.gate.stop('operator', 'the operator called ~/stop')
    assert bench.gate.mode == 'approve'
    assert bench.last('mode').values['reason'] == 'stop: operator'


def follow(bench: Bench, motion: Trajectory, grips: bool) -> None:
    """The robot carries out a motion of somebody else, and rests."""
    start = bench.now
    while bench.now < start + motion.duration_s + 2.0:
        bench.positions = positions_at(motion, np.array([bench.now - start]))[0]
        if grips and bench.now > start + motion.duration_s / 2:
            bench.positions[7] = 0.02
        bench.wait(0.05)


def test_shadow_scores_what_was_done_against_what_was_proposed(  # type: ignore[no-untyped-def]
        make, planner: SkillPlanner) -> None:
    bench = make('shadow')
    joints, home = bench.cell.robot.joints, bench.positions.copy()
    near, far = planner.plan(Pick(25, 24), joints, home), planner.plan(Pick(10, 30), joints, home)
    bench.wait(1.0)
    bench.propose()
    follow(bench, near, grips=True)
    assert bench.last('agreement').values == {'agreed': '1', 'disagreed': '0', 'scored': '1', 'agreement': '1.000'}
    bench.positions = home.copy()
    bench.wait(2.5)
    bench.propose()
    bench.gate.other_command(far)  # a program that is seen on the topic of the controller
    follow(bench, far, grips=True)
    assert bench.last('agreement').values['agreement'] == '0.500'
    follow(bench, near, grips=True)  # nothing was proposed before this one
    assert bench.last('agreement').values['scored'] == '2'


def test_agreement_is_about_the_gripper_too(make, planner: SkillPlanner) -> None:  # type: ignore[no-untyped-def]
    bench = make('shadow')
    bench.wait(1.0)
    bench.propose()
    motion = planner.plan(Pick(24, 24), bench.cell.robot.joints, bench.positions)
    motion.positions[:, 7] = 0.04  # goes there, and takes nothing
    follow(bench, motion, grips=False)
    assert bench.last('agreement').values['disagreed'] == '1'


def test_a_proposal_is_judged_in_a_few_milliseconds(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.propose()
    durations = []
    for _ in range(20):
        bench.now += 0.2
        bench.sense()
        started = time.perf_counter()
        assert bench.propose().values['verdict'] == 'forwarded'
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.02


def test_a_yes_is_for_the_proposal_that_the_operator_saw(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')
    bench.propose()
    bench.wait(3.0)
    bench.propose()  # in place of the one that the operator is looking at
    bench.wait(0.3)
    done, message = bench.gate.approve(True)
    assert not done
    assert 'in place of another' in message
    assert not bench.sent
    bench.wait(1.0)
    assert bench.gate.approve(True)[0]
    bench.wait(1.0)
    assert bench.propose().values['verdict'] == 'pending'
    assert bench.gate.approve(True)[0]  # the one before was answered long ago: nothing to be mistaken for


def test_a_yes_for_a_proposal_that_another_operator_has_refused_is_not_for_the_next_one(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')
    bench.propose()
    assert bench.gate.approve(False)[0]
    assert bench.propose().values['verdict'] == 'pending'
    assert not bench.gate.approve(True)[0]
    bench.wait(1.1)
    assert bench.gate.approve(True)[0]


def test_what_the_cell_says_too_late_is_no_mark_against_the_checkpoint(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto', replace(FREE, on_gate_hit='approve'))
    bench.now += 0.7  # the robot's driver is silent, the camera is not
    bench.gate.image(int(bench.now * 1e9))
    bench.gate.propose(bench.motion, int(bench.now * 1e9))
    assert bench.last('verdict').values['rule'] == 'inputs'
    bench.sense()
    bench.now += bench.cell.safety.max_task_age_s
    assert bench.propose().values['rule'] == 'inputs'
    assert bench.gate.mode == 'auto'
    bench.gate.task(None)
    bench.gate.propose(bench.motion, int(bench.now * 1e9) - 10_000_000_000)
    assert bench.gate.mode == 'approve'  # who rests on an old image thinks too slowly


def test_an_image_from_before_the_instruction_or_the_last_motion_moves_nothing(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    seen_ns = int(bench.now * 1e9)
    bench.wait(0.2)
    bench.gate.task(None)
    bench.gate.propose(bench.motion, seen_ns)
    assert bench.last('verdict').values['rule'] == 'superseded'
    bench.wait(0.2)
    before_ns = int(bench.now * 1e9)
    bench.wait(0.1)
    known_ns = int((bench.now + 0.05) * 1e9)
    bench.gate.image(known_ns)  # known when the motion begins, though it does not rest on it
    assert bench.propose().values['verdict'] == 'forwarded'
    used_ns = int(bench.now * 1e9)
    for stamp_ns in (used_ns, before_ns, known_ns):
        bench.wait(0.1)
        bench.gate.propose(bench.motion, stamp_ns)
        assert bench.last('verdict').values['rule'] == 'age'
    assert len(bench.sent) == 1
    assert bench.propose().values['verdict'] == 'forwarded'


def test_a_clock_that_was_set_back_does_not_stop_the_work(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    bench.wait(0.2)
    bench.now -= 600.0
    bench.wait(0.5)
    # The clock of rates and instructions does not jump; here both are one.
    bench.gate._inputs.proposal_at_s, bench.gate._inputs.task_since_s = None, bench.now
    assert bench.propose().values['verdict'] == 'forwarded'


def test_nothing_moves_before_the_first_instruction(make) -> None:  # type: ignore[no-untyped-def]
    for mode in ('approve', 'auto'):
        bench = make(mode)
        bench.gate = bench.make_gate(instructed=False)
        assert bench.propose().values['rule'] == 'task'
        bench.gate.task(None)
        assert bench.propose().values['verdict'] in ('pending', 'forwarded')


def test_a_joint_state_that_was_overtaken_changes_nothing_unless_time_has_jumped(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto')
    for _ in range(10):
        bench.now += 0.02
        bench.positions[0] += 0.03
        bench.sense()
    moving = bench.positions.copy()
    moving[0] -= 0.05
    bench.gate.joint_state(moving, int((bench.now - 0.03) * 1e9))
    bench.gate.stop('operator', 'stop')
    ahead = bench.sent[0].positions[0, 0] - bench.positions[0]
    assert ahead == pytest.approx(1.5 * bench.sent[0].duration_s / 2, rel=1e-6)  # it brakes from 1.5 rad/s
    for _ in range(5):  # as where a simulation begins anew
        bench.gate.joint_state(moving, 1_000_000_000)
    assert bench.gate._inputs.measured.stamp_ns == 1_000_000_000


def test_a_new_instruction_and_another_checkpoint_end_the_proposal_that_waits(make) -> None:  # type: ignore[no-untyped-def]
    for happens in (lambda gate: gate.task(None), lambda gate: gate.decided_by('another')):
        bench = make('approve')
        bench.gate.decided_by('one')
        bench.propose()
        happens(bench.gate)
        assert bench.last('verdict').values['rule'] == 'superseded'
        assert not bench.gate.approve(True)[0]
        assert not bench.sent


@pytest.mark.parametrize('rate', [0.8, 2.0])
def test_no_motion_begins_while_the_arm_is_on_its_way(make, rate) -> None:  # type: ignore[no-untyped-def]
    """The rules judge it from rest; a controller would have to stop the arm within a point's time."""
    bench = make('auto')
    bench.propose()
    for _ in range(4):
        bench.now += 0.05
        bench.positions[0] += 0.05 * rate
        bench.sense()
    onward = replace(bench.motion, positions=bench.motion.positions + np.eye(8)[0] * bench.positions[0])
    bench.gate.propose(onward, int(bench.now * 1e9))
    values = bench.last('verdict').values
    assert (values['verdict'], values['rule']) == ('refused', 'start')
    assert float(values['value']) > 3.9 * rate / bench.cell.safety.jump_time_s > float(values['limit'])
    assert len(bench.sent) == 1
    bench.wait(0.1)  # at rest
    bench.gate.propose(onward, int(bench.now * 1e9))
    assert bench.last('verdict').values['verdict'] == 'forwarded'


def test_after_a_restart_in_auto_nothing_moves_until_it_is_known_who_decides(  # type: ignore[no-untyped-def]
        make, tmp_path) -> None:
    evidence = EvidenceFile(tmp_path / 'evidence.json')
    evidence.select('one')
    evidence.current.approved = 1
    evidence.save()
    bench = make('auto', replace(FREE, approved_episodes=1), EvidenceFile(tmp_path / 'evidence.json'))
    assert bench.propose().values['rule'] == 'superseded'
    bench.gate.decided_by('one')
    assert bench.propose().values['verdict'] == 'forwarded'


def test_a_fault_that_comes_and_goes_with_a_joint_state_is_told_both_times(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('auto', Autonomy(approved_episodes=0, blend_episodes=0, tracking_tolerance=0.2))
    bench.propose()
    bench.wait(1.0)  # the arm stays where it was
    assert bench.last('inputs').values['faults'] == 'tracking'
    bench.wait(5.0)  # held where it is
    assert bench.last('inputs').values['faults'] == ''
    assert bench.gate.reset()[0]


def test_every_proposal_that_waited_gets_a_last_word(make) -> None:  # type: ignore[no-untyped-def]
    bench = make('approve')

    def propose(trajectory: Trajectory | None = None) -> str:
        bench.propose(trajectory)
        return str(int(bench.now * 1e9))

    stamps = [propose(), propose(), propose(), propose(bench.impossible()), propose()]
    assert bench.gate.set_mode('shadow', 'enough for today')[0]
    last = {status.values['image_stamp_ns']: status.values for status in bench.told if status.about == 'verdict'}
    assert [last[stamp]['verdict'] for stamp in stamps] == ['refused'] * 5
    assert [last[stamp]['rule'] for stamp in stamps] == ['superseded'] * 3 + ['finite', 'superseded']
    assert bench.last('verdict').values['verdict'] != 'pending'  # nothing waits any more
