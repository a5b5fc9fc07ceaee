"""Swap and rollback without ROS: who decides when, what is remembered, and what an operator has to say twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.release.band import Rollback
from vlm_agent_ros.release.keeper import Keeper
from vlm_agent_ros.release.ledger import Ledger, Release, RolledBack

LIMITS = Rollback(min_success=0.8, max_gate_hits=0.2, episodes=10)


@dataclasses.dataclass
class Loaded:
    release: Release


def loaded(name: str) -> Loaded:
    return Loaded(Release(f'/models/{name}', f'{name}-' + '0' * 62))


def chance(ledger: Ledger, release: Release) -> str:
    """What the refusal says that an operator may name."""
    with pytest.raises(RolledBack) as refusal:
        ledger.refuse(release)
    return str(refusal.value).rpartition('readmit:=')[2]


GOOD, BAD, OTHER = loaded('a'), loaded('b'), loaded('c')


class Line:
    """A keeper, and the episodes of a line."""

    def __init__(self, path: Path, deciding: Loaded = GOOD, limits: Rollback = LIMITS) -> None:
        self.ledger = Ledger(path)
        self.keeper = Keeper(deciding, limits, self.ledger)
        self.stamp = 0

    def decide(self, verdict: str = 'forwarded', **values: str) -> None:
        self.stamp += 1
        self.keeper.deciding_begins()
        self.keeper.decided(self.stamp, 100.0, '', proposed=True)
        shown = {'verdict': verdict, 'image_stamp_ns': str(self.stamp), **values}
        for _ in range(3):  # it is repeated every second
            self.keeper.verdict(shown)

    def play(self, success: bool, count: int = 1) -> None:
        for _ in range(count):
            self.decide()
            self.keeper.episode_ended(success, self.stamp)

    def swap(self, to: Loaded) -> None:
        self.keeper.stage(to)
        assert self.keeper.take() is to


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / 'state' / 'releases.json')


def test_a_swap_waits_for_the_end_of_the_episode(line):
    line.decide()
    line.keeper.stage(BAD)
    assert line.keeper.take() is None
    assert line.keeper.status().values['state'] == 'waiting'
    line.keeper.episode_ended(True, line.stamp)
    assert line.keeper.take() is BAD
    assert line.keeper.take() is None


def test_a_swap_takes_over_at_once_where_nothing_is_under_way(line):
    line.keeper.stage(BAD)
    assert line.keeper.take() is BAD


def test_a_bad_checkpoint_is_rolled_back_to_the_one_before_with_the_figures(line):
    line.play(True, 3)
    line.swap(BAD)
    episodes = 0
    while line.keeper.way_back is None:
        line.play(False)
        episodes += 1
    assert 3 < episodes < 7
    assert line.keeper.way_back == GOOD.release
    assert not line.keeper.may_decide  # between two episodes the bad one does not begin another
    line.keeper.stage(GOOD)
    assert line.keeper.take() is GOOD
    status = line.keeper.status()
    assert f'rolled back from {BAD.release.model}: 0 of {episodes} of the last episodes' in status.message
    assert 'rollback.min_success is 0.8' in status.message
    assert line.keeper.may_decide


def test_what_was_rolled_back_is_remembered_and_comes_back_only_when_the_operator_names_it(line, tmp_path):
    line.swap(BAD)
    line.play(False, 5)
    ledger = Ledger(tmp_path / 'state' / 'releases.json')  # after a restart
    assert ledger.good == GOOD.release
    with pytest.raises(RolledBack, match=r'/models/b was rolled back on .*readmit:=b-0000000000'):
        ledger.admit(BAD.release)
    for wrong in ('b', 'b-0000000000', 'c-00000000000'):
        with pytest.raises(RolledBack):
            ledger.admit(BAD.release, wrong)
    ledger.admit(BAD.release, chance(ledger, BAD.release))
    Ledger(tmp_path / 'state' / 'releases.json').admit(BAD.release)


def test_another_chance_is_for_one_time_however_long_the_parameter_stays_set(line, tmp_path, monkeypatch):
    line.swap(BAD)
    line.play(False, 5)
    given = chance(line.ledger, BAD.release)
    line.ledger.admit(BAD.release, given)
    monkeypatch.setattr('time.strftime', lambda _: '2031-05-06 07:08:09')
    line.ledger.condemn(BAD.release, 'it failed again')
    with pytest.raises(RolledBack, match='readmit:=b-0000000000-20310506070809'):
        Ledger(tmp_path / 'state' / 'releases.json').admit(BAD.release, given)


def test_gate_hits_stop_it_at_once_and_repeated_verdicts_count_once(line):
    line.swap(BAD)
    line.decide('refused', rule='workspace')
    assert line.keeper.status().values['gate_hits'] == '1 of 1'
    for _ in range(5):
        line.decide('refused', rule='workspace')
    assert line.keeper.breach is not None
    assert not line.keeper.may_decide  # though the episode has not ended
    line.keeper.stage(GOOD)
    assert line.keeper.take() is GOOD


def test_a_failing_episode_is_finished_before_the_checkpoint_goes(line):
    line.swap(BAD)
    line.play(False, 3)
    line.decide()
    line.keeper.stage(GOOD)
    assert line.keeper.may_decide
    assert line.keeper.take() is None


@pytest.mark.parametrize(('verdict', 'values'), [
    ('refused', {'rule': 'approval'}), ('refused', {'rule': 'superseded'}), ('refused', {'rule': 'driver'}),
    ('refused', {'rule': 'inactive'}),
    ('refused', {'rule': 'task'}), ('stopped', {'rule': 'stop'}), ('pending', {}), ('forwarded', {'clamped': ''})])
def test_what_the_operator_or_the_cell_does_is_no_gate_hit(line, verdict, values):
    for _ in range(20):
        line.decide(verdict, **values)
    assert line.keeper.status().values['gate_hits'].startswith('0 of ')
    assert line.keeper.breach is None


@pytest.mark.parametrize('values', [{'verdict': 'refused', 'rule': 'velocity'},
                                    {'verdict': 'forwarded', 'clamped': 'velocity'}])
def test_a_refused_or_clamped_motion_is_a_gate_hit(line, values):
    line.decide(**values)
    assert line.keeper.status().values['gate_hits'] == '1 of 1'


def test_a_motion_that_cannot_be_planned_is_a_gate_hit_and_a_wish_for_none_is_not(line):
    line.keeper.decided(1, 10.0, 'out of reach', proposed=False)
    line.keeper.decided(2, 10.0, '', proposed=False)
    assert line.keeper.status().values['gate_hits'] == '1 of 1'


def test_an_episode_counts_only_if_the_checkpoint_has_moved_the_robot(line):
    for _ in range(20):
        line.decide('shadow')
        line.keeper.episode_ended(False, line.stamp)
    line.keeper.episode_ended(False, line.stamp)  # of somebody else
    assert line.keeper.status().values['episodes'] == '0'


def test_the_first_checkpoint_has_nothing_to_go_back_to_and_stops(line):
    line.play(False, 6)
    status = line.keeper.status()
    assert (status.values['state'], status.level) == ('stopped', 2)
    assert 'no checkpoint to go back to' in status.message
    assert not line.keeper.may_decide
    line.swap(OTHER)  # what the operator chooses takes over
    assert line.keeper.may_decide


def test_an_unproven_checkpoint_does_not_become_the_one_to_go_back_to(line):
    line.swap(BAD)
    line.play(True, 2)
    line.swap(OTHER)
    assert line.ledger.good == GOOD.release
    line.play(True, LIMITS.episodes)  # a whole window
    assert line.ledger.good == OTHER.release


def test_a_way_back_that_cannot_be_loaded_is_told_and_not_tried_again(line):
    line.swap(BAD)
    line.play(False, 6)
    line.keeper.stays('/models/a does not exist')
    assert line.keeper.way_back is None
    assert '/models/a does not exist' in line.keeper.status().message


def test_a_ledger_that_cannot_be_written_does_not_keep_a_bad_checkpoint(tmp_path):
    (tmp_path / 'file').write_text('')
    line = Line(tmp_path / 'file' / 'releases.json')
    line.swap(BAD)
    line.play(False, 6)
    assert line.keeper.breach is not None
    assert not line.keeper.may_decide
    assert 'cannot be written' in line.keeper.status().values['failure']


def test_a_cell_without_limits_remembers_nothing(tmp_path):
    line = Line(tmp_path / 'releases.json', limits=Rollback())
    line.swap(BAD)
    line.play(False, 50)
    assert line.keeper.may_decide
    assert not (tmp_path / 'releases.json').exists()


@pytest.mark.parametrize('content', ['{', json.dumps({'good': 7}), json.dumps({'unknown': 1})])
def test_a_damaged_ledger_is_refused_by_name(tmp_path, content):
    (tmp_path / 'releases.json').write_text(content)
    with pytest.raises(UserError, match=r'releases\.json'):
        Ledger(tmp_path / 'releases.json')


def test_the_word_on_an_episode_may_come_after_the_next_instruction(line):
    line.decide()
    judged_by = line.stamp + 1
    line.keeper.new_task(now_ns=judged_by + 1)
    line.keeper.deciding_begins()
    line.keeper.episode_ended(True, judged_by)
    assert line.keeper.status().values['success'] == '1 of 1'
    line.keeper.stage(BAD)
    assert line.keeper.take() is None  # the next episode is under way
    line.keeper.episode_ended(False, judged_by + 2)
    assert line.keeper.status().values['success'] == '1 of 1'  # in which nothing was moved
    assert line.keeper.take() is BAD


def test_a_new_instruction_ends_an_episode_of_which_nobody_says_how_it_went(line):
    line.decide()
    line.keeper.stage(BAD)
    assert line.keeper.take() is None
    line.keeper.new_task(now_ns=line.stamp + 1)
    assert line.keeper.take() is BAD


def test_a_foreign_verdict_without_a_stamp_is_nobodys(line: Line) -> None:
    line.keeper.verdict({'verdict': 'refused', 'image_stamp_ns': 'yesterday'})
    assert line.keeper.status().values['gate_hits'] == '0 of 0'


def test_no_stamp_that_anybody_may_send_ends_the_agent(line):
    line.decide()
    for stamp in ('9' * 5000, '-1', 'x', ''):
        line.keeper.verdict({'verdict': 'forwarded', 'image_stamp_ns': stamp})


def test_another_copy_of_what_has_just_been_found_bad_does_not_take_over(line):
    line.swap(BAD)
    line.play(False, 6)
    line.decide()
    line.keeper.stage(BAD)
    while line.keeper.breach is None:
        line.play(False)
    assert line.keeper.take() is None


def test_what_could_not_be_remembered_is_tried_again(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / 'releases.json')

    def full(*_):
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as patch, pytest.raises(UserError, match='No space left'):
        patch.setattr('vlm_agent_ros.release.ledger.write_durably', full)
        ledger.prove(GOOD.release)
    assert ledger.good is None
    ledger.prove(GOOD.release)
    assert Ledger(tmp_path / 'releases.json').good == GOOD.release


def test_a_word_on_an_episode_of_the_checkpoint_before_is_not_about_the_one_that_has_taken_over(line):
    line.decide()
    judged_by = line.stamp + 1
    line.keeper.stage(BAD)
    line.keeper.new_task(now_ns=judged_by + 1)
    assert line.keeper.take() is BAD
    line.stamp = judged_by + 2
    line.decide()
    line.keeper.episode_ended(False, judged_by)
    assert line.keeper.status().values['episodes'] == '0'
    line.keeper.episode_ended(True, line.stamp)
    assert line.keeper.status().values['success'] == '1 of 1'


def test_the_same_weights_with_other_settings_are_judged_by_themselves(tmp_path):
    plain, tuned = (dataclasses.replace(GOOD.release, policy_sha256=f'{name}-' + '0' * 58)
                    for name in ('plain', 'tuned'))
    line = Line(tmp_path / 'releases.json', Loaded(plain))
    line.swap(Loaded(tuned))
    line.play(False, 6)
    assert line.keeper.way_back == plain
    line.ledger.admit(plain)
    with pytest.raises(RolledBack, match='readmit:=tuned-000000'):
        line.ledger.admit(tuned)


def test_what_was_rolled_back_under_the_digest_of_its_weights_stays_away(tmp_path):
    line = Line(tmp_path / 'releases.json')
    line.swap(BAD)
    line.play(False, 6)
    known = dataclasses.replace(BAD.release, policy_sha256='f' * 64)
    after = Ledger(tmp_path / 'releases.json')
    with pytest.raises(RolledBack, match='readmit:=b-0000000000'):
        after.admit(known)
    after.admit(known, chance(after, known))
    assert dataclasses.replace(GOOD.release, policy_sha256='e' * 64).is_known_as(after.good.digest)


def test_where_the_one_to_go_back_to_fails_too_nothing_decides_and_neither_comes_back(line, tmp_path):
    line.swap(BAD)
    line.play(False, 6)
    line.keeper.stage(GOOD)
    assert line.keeper.take() is GOOD
    line.play(False, 6)
    assert line.keeper.way_back is None
    assert not line.keeper.may_decide
    assert 'there is no checkpoint to go back to: swap in another' in line.keeper.status().message
    for each in (GOOD, BAD):
        with pytest.raises(RolledBack):
            Ledger(tmp_path / 'state' / 'releases.json').refuse(each.release)


def test_a_second_chance_that_cannot_be_remembered_is_none(line, monkeypatch):
    line.swap(BAD)
    line.play(False, 6)

    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('vlm_agent_ros.release.ledger.write_durably', full)
    with pytest.raises(UserError, match='No space left'):
        line.ledger.admit(BAD.release, chance(line.ledger, BAD.release))
    with pytest.raises(RolledBack):
        line.ledger.admit(BAD.release)


def test_a_word_hours_after_the_last_motion_is_of_something_else(line):
    line.decide()
    line.keeper.episode_ended(False, line.stamp + 2 * 3600 * 10**9)
    assert line.keeper.status().values['episodes'] == '0'
    line.decide(command_stamp_ns=str(3 * 3600 * 10**9))  # an operator who took his time to approve it
    line.keeper.episode_ended(True, 3 * 3600 * 10**9 + 1)
    assert line.keeper.status().values['success'] == '1 of 1'


def test_an_episode_in_which_nothing_has_moved_is_not_judged_by_what_moved_before_its_instruction(line):
    line.decide()
    line.keeper.new_task(now_ns=line.stamp + 1)  # perhaps the same again: the first attempt was given up
    line.keeper.deciding_begins()
    line.keeper.episode_ended(False, line.stamp + 2)
    assert line.keeper.status().values['episodes'] == '0'
