"""After a refusal the agent waits, longer with each in a row, until something changes what it will propose."""

import pytest

from vlm_agent_ros.refusals import Refusals
from vlm_agent_ros.status import OK, WARN


class Bench:
    """Refusals whose time is set by the test."""

    def __init__(self):
        self.now, self.stamp = 100.0, 0
        self.refusals = Refusals(1.0, 30.0, lambda: self.now)

    def propose(self, verdict, **values):
        self.stamp += 1
        self.refusals.proposed(self.stamp)
        return self.refusals.verdict({'verdict': verdict, 'image_stamp_ns': str(self.stamp), **values})

    def waits(self):
        """How long nothing is decided from now on, in steps of half a second."""
        begin = self.now
        while self.refusals.waiting:
            self.now += 0.5
        return self.now - begin


@pytest.fixture
def bench():
    return Bench()


def test_the_wait_doubles_up_to_the_longest_and_stays_there(bench):
    waits = []
    for _ in range(8):
        assert bench.propose('refused', rule='velocity', value='2.0', limit='1.0')
        waits.append(bench.waits())
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    for _ in range(2000):
        bench.propose('refused')
    assert bench.waits() == 30.0


@pytest.mark.parametrize('verdict', ['forwarded', 'shadow'])
def test_a_proposal_that_passes_ends_the_wait_and_the_doubling(bench, verdict):
    bench.propose('refused')
    bench.propose('refused')
    bench.propose(verdict)
    assert bench.waits() == 0.0
    assert bench.refusals.status().level == OK
    bench.propose('refused')
    assert bench.waits() == 1.0


def test_a_new_instruction_or_a_correction_begins_anew(bench):
    bench.propose('refused')
    bench.propose('refused')
    bench.refusals.forget()
    assert bench.waits() == 0.0
    bench.propose('refused')
    assert bench.waits() == 1.0


def test_a_verdict_that_is_repeated_or_is_on_another_proposal_changes_nothing(bench):
    bench.propose('refused')
    bench.waits()
    assert not bench.refusals.verdict({'verdict': 'refused', 'image_stamp_ns': str(bench.stamp), 'age_s': '1.0'})
    bench.refusals.proposed(50)
    assert not bench.refusals.verdict({'verdict': 'refused', 'image_stamp_ns': '49'})
    assert not bench.refusals.verdict({'verdict': 'refused'})
    assert not bench.refusals.verdict({})
    assert bench.waits() == 0.0


def test_a_proposal_that_waits_for_the_operator_is_answered_later(bench):
    assert not bench.propose('pending')
    assert not bench.refusals.waiting
    assert bench.refusals.verdict({'verdict': 'refused', 'image_stamp_ns': str(bench.stamp), 'rule': 'approval'})
    assert bench.waits() == 1.0


def test_a_stop_is_shown_but_lengthens_no_wait(bench):
    bench.propose('refused')
    bench.waits()
    assert bench.propose('stopped', rule='stop', value='operator', limit='no stop')
    assert bench.waits() == 0.0
    assert bench.refusals.status().values['rule'] == 'stop'
    bench.propose('refused')
    assert bench.waits() == 2.0


def test_the_status_has_rule_value_limit_and_wait(bench):
    bench.propose('refused', rule='workspace', value='0.9', limit='0.8')
    status = bench.refusals.status()
    assert status.level == WARN
    assert status.values == {'verdict': 'refused', 'rule': 'workspace', 'value': '0.9', 'limit': '0.8',
                             'refused_in_a_row': '1', 'wait_s': '1'}
    assert 'workspace is 0.9, limit 0.8' in status.message
