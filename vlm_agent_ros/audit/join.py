"""Joins what an audit log says of a decision: image, thought, proposal, verdict, command, correction, outcome."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ..actions import SkillLanguage
from ..autonomy import Autonomy
from ..cot import one_line, text_digest, unescape
from ..errors import UserError
from ..message_content import outcome_from, pixels, to_ns, trajectory_from
from ..policy.output import parse_output
from ..topic_names import (
    ARM_COMMAND,
    CHAIN_OF_THOUGHT,
    COMPRESSED_IMAGE,
    CORRECTION,
    DIAGNOSTICS,
    GRIPPER_COMMAND,
    IMAGE,
    OUTCOME,
    PROPOSAL,
    TASK,
)
from ..types import Outcome, Trajectory
from .types import Correction, Logged, LoggedDecision

Reader = Callable[[Collection[str]], Iterator[Logged]]
_LOG = logging.getLogger(__name__)
Key = tuple[int, int]
"""Session and stamp: simulated time begins anew with every simulator, within one log."""

_IMAGES = (IMAGE, COMPRESSED_IMAGE)
_NEW_SESSION_NS = 5_000_000_000  # stamps of one clock are never so far out of order
_NO_IMAGE = np.empty((0, 0, 3), np.uint8)


def join(read: Reader, autonomy: Autonomy) -> Iterator[LoggedDecision]:
    """Decisions in the order of their images.

    The log is read twice, so that a correction of an hour later is found while only one image is in memory.

    Args:
        read: Gives the messages of some topics, in order; called twice.
        autonomy: Says for how long after a motion an outcome may be its.
    """
    pieces = _Pieces(autonomy)
    for session, message in _sessions(read((*_IMAGES, *_TAKES))):
        if message.name not in _IMAGES:
            pieces.take(session, message)
    waiting = deque(sorted(pieces.reports))
    wanted, found = frozenset(waiting), {}
    for session, message in _sessions(read(_IMAGES)):
        key = session, to_ns(message.message.header.stamp)
        if key in wanted:
            found[key] = _pixels(message)
        # Images may come out of order; one that is missing by now has been lost.
        while waiting and (waiting[0] in found or waiting[0] < (session, key[1] - _NEW_SESSION_NS)):
            oldest = waiting.popleft()
            yield from pieces.decided(oldest, found.pop(oldest, _NO_IMAGE))
    for key in waiting:
        yield from pieces.decided(key, found.get(key, _NO_IMAGE))


def status_values(status: Any) -> dict[str, str]:
    """Key-values of a diagnostic status, as they were before they were escaped."""
    return {pair.key: unescape(pair.value) for pair in status.values}


def _sessions(messages: Iterator[Logged]) -> Iterator[tuple[int, Logged]]:
    """Messages with the number of the session that they belong to."""
    session, newest_ns = 0, 0
    for message in messages:
        if message.name in _IMAGES:
            if message.stamp_ns < newest_ns - _NEW_SESSION_NS:
                session, newest_ns = session + 1, 0
            newest_ns = max(newest_ns, message.stamp_ns)
        yield session, message


def _pixels(message: Logged) -> np.ndarray:
    try:
        return pixels(message.message, message.topic)
    except UserError:  # the camera sent something that the agent could not read either
        return _NO_IMAGE


class _Pieces:
    """Everything but images, by the key of the image that it refers to.

    Attributes:
        reports: Key-values of the chain of thought, and the time of reception.
    """

    def __init__(self, autonomy: Autonomy) -> None:
        self._autonomy = autonomy
        self.reports: dict[Key, tuple[dict[str, str], int]] = {}
        self._shown: set[tuple[str, str]] = set()
        self._texts: dict[str, str] = {}
        self._tasks: list[tuple[int, str, int]] = []
        self._proposals: dict[Key, Trajectory | None] = {}
        self._verdicts: dict[Key, dict[str, str]] = {}
        self._commands: defaultdict[Key, list[Trajectory]] = defaultdict(list)
        self._corrections: defaultdict[Key, list[Correction]] = defaultdict(list)
        self._outcomes: list[tuple[Key, Outcome]] = []

    def take(self, session: int, logged: Logged) -> None:
        """Keep what a message says; one that is not what its topic promises is left out."""
        try:
            _TAKES[logged.name](self, session, logged)
        except (UserError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return

    def _take_text(self, _: int, logged: Logged) -> None:
        self._texts[text_digest(logged.message.data)] = logged.message.data

    def _take_task(self, _: int, logged: Logged) -> None:
        self._tasks.append((logged.time_ns, logged.message.data, logged.stamp_ns))

    def _take_diagnostics(self, session: int, logged: Logged) -> None:
        for status in logged.message.status:
            values = status_values(status)
            stamp_ns = int(values.get('image_stamp_ns') or 0)
            if status.name.endswith(': chain of thought') and stamp_ns:
                self._take_report((session, stamp_ns), values, logged.time_ns)
            elif status.name.endswith(': verdict') and stamp_ns:
                self._take_verdict((session, stamp_ns), values)

    def _take_report(self, key: Key, values: dict[str, str], time_ns: int) -> None:
        # A repeat serves where the first is missing, but is no decision of the session that has begun meanwhile.
        shown = values['image_stamp_ns'], values['text_sha256']
        if float(values['cot_age_s']) == 0.0 or shown not in self._shown:
            self.reports.setdefault(key, (values, time_ns))
        self._shown.add(shown)

    def _take_verdict(self, key: Key, values: dict[str, str]) -> None:
        int(values.get('command_stamp_ns') or 0)  # what is no number is left out here, not with every decision
        # A stop during the motion does not undo that it was forwarded.
        if self._verdicts.get(key, {}).get('verdict') != 'forwarded':
            self._verdicts[key] = values

    def _take_proposal(self, session: int, logged: Logged) -> None:
        stamp_ns = to_ns(logged.message.header.stamp)
        self._proposals[session, stamp_ns] = trajectory_from(logged.message, logged.topic)

    def _take_command(self, session: int, logged: Logged) -> None:
        trajectory = trajectory_from(logged.message, logged.topic)
        if trajectory is not None:
            self._commands[session, to_ns(logged.message.header.stamp)].append(trajectory)

    def _take_correction(self, session: int, logged: Logged) -> None:
        said = json.loads(logged.message.data)
        correction = Correction(str(said['action']), str(said.get('thought', '')), str(said.get('operator', '')),
                                bool(said.get('demonstrated', False)))
        self._corrections[session, int(said['image_stamp_ns'])].append(correction)

    def _take_outcome(self, session: int, logged: Logged) -> None:
        stamp_ns = to_ns(logged.message.header.stamp)
        self._outcomes.append(((session, stamp_ns), outcome_from(logged.message, logged.topic)))

    def decided(self, key: Key, image: np.ndarray) -> Iterator[LoggedDecision]:
        """All of one decision, unless what was told of it is not what its status promises."""
        try:
            yield self._decision(key, image)
        except (ValueError, KeyError) as error:
            _LOG.warning('what was told of a decision (image %d) is left out: %r', key[1], error)

    def _decision(self, key: Key, image: np.ndarray) -> LoggedDecision:
        values, time_ns = self.reports[key]
        text = self._texts.get(values['text_sha256'], '')
        said = parse_output(text.encode(), SkillLanguage())
        shown = ' '.join(values[name] for name in sorted(values) if name.startswith('thought.'))
        verdict = self._verdicts.get(key, {})
        task, task_stamp_ns = self._task(key)
        return LoggedDecision(
            image=image, image_stamp_ns=key[1], task=task, state=values['state'],
            previous=values.get('previous', ''),
            thought=said.thought if text else shown, action=said.action if text else values['action'], text=text,
            logprob=float(values['logprob']), value=float(values['value']), temperature=float(values['temperature']),
            seed=int(values['seed']), threads=int(values['threads']), prompt_sha256=values['prompt_sha256'],
            checkpoint=values['checkpoint'], checkpoint_sha256=values['checkpoint_sha256'],
            verdict=verdict.get('verdict', ''), rule=verdict.get('rule', ''), mode=verdict.get('mode', ''),
            corrections=tuple(self._corrections.get(key, ())), outcome=self._outcomes_by_decision.get(key),
            time_ns=time_ns, task_stamp_ns=task_stamp_ns, proposal=self._proposals.get(key),
            commands=tuple(self._commands.get((key[0], self._command_stamp_ns(key)), ())))

    def _command_stamp_ns(self, key: Key) -> int:
        return int(self._verdicts.get(key, {}).get('command_stamp_ns') or 0)

    def _task(self, key: Key) -> tuple[str, int]:
        """The instruction of a decision, verbatim if the log has it, and the stamp of when it was given, else 0."""
        values, time_ns = self.reports[key]
        shown = values['task']
        before = bisect_right(self._tasks, time_ns, key=lambda entry: entry[0])
        # The newest before the decision, else the first after it: the two came on different topics.
        for i in (*range(before - 1, -1, -1), *range(before, len(self._tasks))):
            if one_line(self._tasks[i][1]) == shown:
                return self._tasks[i][1:]
        return shown, 0

    @cached_property
    def _outcomes_by_decision(self) -> dict[Key, Outcome]:
        """Each outcome with the last decision before it that led to a motion.

        One that is too long ago, or was made on another instruction than the last decision of all, led to nothing else.
        """
        decided = sorted(self.reports)
        moved = list(filter(self._moved, decided))
        found: dict[Key, Outcome] = {}
        for key, outcome in sorted(self._outcomes, key=lambda entry: entry[0]):
            before = bisect_left(moved, key)
            if before and moved[before - 1][0] == key[0]:
                last, of_all = moved[before - 1], decided[bisect_left(decided, key) - 1]
                if self._autonomy.may_be_of(max(last[1], self._command_stamp_ns(last)), key[1]) \
                        and self._task(last) == self._task(of_all):
                    found.setdefault(last, outcome)
        return found

    def _moved(self, key: Key) -> bool:
        """Whether a decision led to a motion, as far as the log knows."""
        verdict = self._verdicts.get(key)
        return key in self._proposals if verdict is None else verdict.get('verdict') == 'forwarded'


_TAKES: dict[str, Callable[[_Pieces, int, Logged], None]] = {
    CHAIN_OF_THOUGHT: _Pieces._take_text, TASK: _Pieces._take_task, DIAGNOSTICS: _Pieces._take_diagnostics,
    PROPOSAL: _Pieces._take_proposal, ARM_COMMAND: _Pieces._take_command, GRIPPER_COMMAND: _Pieces._take_command,
    CORRECTION: _Pieces._take_correction, OUTCOME: _Pieces._take_outcome,
}
