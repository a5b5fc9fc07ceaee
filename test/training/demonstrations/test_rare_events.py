"""Rare events are found from what happened in the turn before."""

from __future__ import annotations

from typing import Any

import pytest

from training.demonstrations.rare_events import PastTurn, rare_events
from vlm_agent_ros.types import Outcome


def past(action: str = 'pick 10 10', executed: str = 'pick 10 10', held: bool = False, **kpi: float) -> PastTurn:
    return PastTurn(action, executed, held, Outcome(0.0, False, False, False, 0, 1, 0, kpi))


@pytest.mark.parametrize(('before', 'now', 'expected'), [
    (None, {}, ()),
    (None, {'out_of_view': True}, ('out_of_view',)),
    (past(), {'held': True}, ()),
    (past(executed='pick 11 10'), {'held': True}, ('recovery',)),
    (past(wrong_object=1.0), {'held': True}, ('wrong_object_held',)),
    (past(), {}, ('regrasp',)),
    (past('place 1 1', 'place 1 1', held=True), {}, ()),
    (past('stack 1 1', 'stack 1 1', held=True), {}, ()),
    (past('place 1 1', 'push 1 1 left', held=True), {}, ('recovery', 'dropped')),
    (past('push 1 1 left', 'push 1 1 left', safety=1.0), {}, ('collision',)),
])
def test_a_decision_is_labelled_by_what_it_answers_to(before: PastTurn | None, now: dict[str, Any], expected):
    assert rare_events(before, **{'held': False, 'out_of_view': False, **now}) == expected
