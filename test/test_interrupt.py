"""Ctrl-C ends a program once."""

import pytest

from vlm_agent_ros import interrupt
from vlm_agent_ros.interrupt import Interrupt


def test_only_the_first_signal_interrupts_until_somebody_insists(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interrupt.time, 'monotonic', lambda: now[0])
    handler = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        handler(2, None)
    now[0] += 4.0
    handler(2, None)
    assert handler.received
    now[0] += 2.0
    with pytest.raises(KeyboardInterrupt):
        handler(2, None)


def test_a_program_that_is_closing_is_not_interrupted():
    handler = Interrupt()
    handler.closing = True
    handler(2, None)
    assert handler.received
