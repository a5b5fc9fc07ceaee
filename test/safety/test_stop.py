"""The latched stop stays until it may be lifted."""

import pytest

from vlm_agent_ros.safety import StopLatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def latch(clock: Clock) -> StopLatch:
    return StopLatch(cooldown_s=2.0, clock=clock)


def test_is_inactive_until_triggered(latch: StopLatch) -> None:
    assert not latch.active
    assert latch.reset() == (True, 'no stop was active')


def test_stays_active_however_long_it_takes(latch: StopLatch, clock: Clock) -> None:
    latch.trigger('operator')
    clock.now += 1e6
    assert latch.active
    assert latch.reason == 'operator'


def test_reset_waits_for_the_cooldown(latch: StopLatch, clock: Clock) -> None:
    latch.trigger('operator')
    clock.now += 1.5
    lifted, message = latch.reset()
    assert not lifted
    assert '0.5 s' in message
    assert latch.active
    clock.now += 0.5
    assert latch.reset() == (True, 'the stop is lifted; its reason was: operator')
    assert not latch.active
    assert latch.reason == ''


def test_a_second_trigger_starts_the_cooldown_again_but_keeps_the_first_reason(latch: StopLatch, clock: Clock) -> None:
    latch.trigger('camera lost')
    clock.now += 1.9
    latch.trigger('operator')
    clock.now += 1.9
    assert not latch.reset()[0]
    assert latch.reason == 'camera lost'


def test_reset_is_refused_while_any_cause_persists(latch: StopLatch, clock: Clock) -> None:
    causes = {'camera lost': True, 'joint states lost': True}
    for name in causes:
        latch.trigger(name, lambda name=name: causes[name])
    clock.now += 10.0
    causes['camera lost'] = False
    lifted, message = latch.reset()
    assert not lifted
    assert 'joint states lost' in message
    causes['joint states lost'] = False
    assert latch.reset()[0]


def test_a_cause_of_an_earlier_stop_does_not_hold_a_later_one(latch: StopLatch, clock: Clock) -> None:
    persists = False
    latch.trigger('camera lost', lambda: persists)
    clock.now += 10.0
    assert latch.reset()[0]
    persists = True
    latch.trigger('operator')
    clock.now += 10.0
    assert latch.reset()[0]


def test_every_cause_is_shown_with_its_sentence(latch: StopLatch) -> None:
    latch.trigger('camera', message='no new image for more than 0.5 s')
    latch.trigger('operator')
    assert latch.causes == {'camera': 'no new image for more than 0.5 s', 'operator': 'operator'}
    assert latch.reason == 'no new image for more than 0.5 s'


def test_a_stop_without_a_reason_is_a_stop(latch: StopLatch) -> None:
    latch.trigger('')
    assert latch.active
