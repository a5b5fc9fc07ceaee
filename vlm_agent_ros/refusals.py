"""What the gate answers to the agent's proposals, and how long the agent waits after a no before it decides anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from .status import OK, WARN, Status

_PASSED = ('forwarded', 'shadow')
_DOUBLINGS = 32  # far beyond any longest wait


class Refusals:
    """Doubles the wait with every refusal in a row: what the gate refuses once it mostly refuses again.

    Args:
        first_s: Wait (s) after the first refusal.
        longest_s: The wait grows no longer than this, s.
        clock: Monotonic time in seconds.
    """

    def __init__(self, first_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s, self._longest_s, self._clock = first_s, longest_s, clock
        self._asked: int | None = None
        self._in_a_row = 0
        self._wait_s, self._until_s = 0.0, float('-inf')
        self._answer: dict[str, str] = {}

    @property
    def waiting(self) -> bool:
        """Nothing is to be decided yet."""
        return self._clock() < self._until_s

    def proposed(self, image_stamp_ns: int) -> None:
        """A proposal that rests on the image of this stamp goes to the gate."""
        self._asked = image_stamp_ns

    def verdict(self, values: Mapping[str, str]) -> bool:
        """Take a verdict in; whether it is a new answer to the newest proposal, neither repeated nor another's.

        Args:
            values: Of the gate's diagnostic status ``verdict``.
        """
        verdict = values.get('verdict', '')
        if self._asked is None or values.get('image_stamp_ns') != str(self._asked) \
                or verdict not in (*_PASSED, 'refused', 'stopped'):
            return False  # one that waits for the operator gets its answer later
        self._asked = None
        if verdict == 'refused':
            self._in_a_row += 1
            self._wait_s = min(self._longest_s, self._first_s * 2.0**min(self._in_a_row - 1, _DOUBLINGS))
            self._until_s = self._clock() + self._wait_s
        elif verdict in _PASSED:  # a stop says nothing about what was proposed
            self.forget()
        self._answer = {key: values.get(key, '') for key in ('verdict', 'rule', 'value', 'limit')}
        return True

    def forget(self) -> None:
        """Begin anew: an instruction, a correction or another checkpoint changes what will be proposed."""
        self._in_a_row, self._wait_s, self._until_s = 0, 0.0, float('-inf')

    def status(self) -> Status:
        """What became of the newest proposal that was answered."""
        answer = self._answer
        values = {**answer, 'refused_in_a_row': str(self._in_a_row), 'wait_s': f'{self._wait_s:g}'}
        if answer.get('verdict') in ('refused', 'stopped'):
            return Status('proposal', WARN, f'the gate says {answer["verdict"]}: {answer["rule"]} is '
                          f'{answer["value"]}, limit {answer["limit"]}; waits {self._wait_s:g} s', values)
        return Status('proposal', OK, 'the gate refuses nothing', values)
