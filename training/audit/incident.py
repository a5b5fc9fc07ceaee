"""What an audit log says around a time: events in order, images, and curves of the joints."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from vlm_agent_ros.audit.join import join, status_values
from vlm_agent_ros.audit.log import AuditLog, Logged, LoggedDecision
from vlm_agent_ros.cot import unescape
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.message_content import outcome_from, pixels, trajectory_from
from vlm_agent_ros.topic_names import (
    ARM_COMMAND,
    COMPRESSED_IMAGE,
    CORRECTION,
    DIAGNOSTICS,
    GRIPPER_COMMAND,
    IMAGE,
    JOINT_STATES,
    OUTCOME,
    PROPOSAL,
    TASK,
)

_IMAGES = (IMAGE, COMPRESSED_IMAGE)
_NS = 1_000_000_000
_JOIN_NS = 120 * _NS  # what belongs to a decision of the window is not further away
_SHOWN_IMAGES = 16
_TELLING = ('verdict', 'mode', 'rule', 'value', 'limit', 'clamped', 'image_stamp_ns', 'causes', 'reason')
"""Values of a status in which a change is an event; others, such as ages and counts, change all the time."""


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time_ns: Of reception.
        what: Who said it, or which topic.
        text: In words; untrusted.
        level: 0 to 2, as in diagnostic_msgs/DiagnosticStatus.
    """

    time_ns: int
    what: str
    text: str
    level: int = 0


@dataclass(frozen=True)
class Incident:
    """Everything between two times.

    Attributes:
        at_ns: The time in question.
        window_s: How much before and after it.
        events: In order.
        decisions: Those received in the window, in order.
        images: Time and pixels of a few of the images between.
        joints: Times and positions by joint; (n,) float64 each, seconds from ``at_ns``, rad or m.
    """

    at_ns: int
    window_s: float
    events: list[Event] = field(default_factory=list)
    decisions: list[LoggedDecision] = field(default_factory=list)
    images: list[tuple[int, np.ndarray]] = field(default_factory=list)
    joints: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def time_of(text: str, log: AuditLog) -> int:
    """Nanoseconds of the system's clock, within the log.

    Args:
        text: Seconds from the beginning of the log, an ISO time (local, unless it says otherwise), or nanoseconds.
        log: The log.

    Raises:
        UserError: It is none of these, or outside the log.
    """
    first, last = log.span_ns()
    try:
        if text.isdecimal() and len(text) > 15:
            time_ns = int(text)
        elif any(c in text for c in 'T:'):
            time_ns = round(datetime.fromisoformat(text.replace('Z', '+00:00')).timestamp() * 1e6) * 1000
        else:
            time_ns = first + round(float(text) * _NS)
    except (ValueError, OverflowError) as error:
        raise UserError(f'--at is {text!r}, but must be seconds from the beginning of the log, an ISO time such as '
                        '2026-03-01T14:05:00, or nanoseconds') from error
    if not first <= time_ns <= last:
        begin, end = (datetime.fromtimestamp(t / _NS).isoformat(' ', 'milliseconds') for t in (first, last))
        raise UserError(f'--at {text} is outside the log, which goes from {begin} to {end} '
                        f'(0 to {(last - first) / _NS:.1f} s)')
    return time_ns


def collect(log: AuditLog, at_ns: int, window_s: float) -> Incident:
    """Read what a log says from ``window_s`` seconds before a time until as long after it.

    Raises:
        UserError: A file cannot be read.
    """
    span = at_ns - round(window_s * _NS), at_ns + round(window_s * _NS)
    incident = Incident(at_ns, window_s)
    wide = span[0] - _JOIN_NS, span[1] + _JOIN_NS
    cell = log.cell()
    incident.decisions.extend(decision for decision in join(lambda topics: log.messages(topics, wide), cell.autonomy)
                              if span[0] <= decision.time_ns <= span[1])
    file_ns = round(cell.audit.max_file_minutes * 60 * _NS)  # every file begins with the task
    before = deque(log.messages((TASK,), (span[0] - file_ns, span[0] - 1)), maxlen=1)
    messages = log.messages((TASK, DIAGNOSTICS, PROPOSAL, ARM_COMMAND, GRIPPER_COMMAND, CORRECTION, OUTCOME), span)
    told: dict[str, Any] = {}
    for message in (*before, *messages):
        incident.events.extend(_events(message, told))
    incident.events.sort(key=lambda event: event.time_ns)
    incident.images.extend(_few(log, span))
    incident.joints.update(_joints(log, span, at_ns))
    return incident


def _events(message: Logged, told: dict[str, Any]) -> Iterator[Event]:
    """What is new in a message; ``told`` holds what is not."""
    try:
        if message.name == DIAGNOSTICS:
            yield from _status_events(message, told)
        elif message.name == OUTCOME:
            outcome = outcome_from(message.message, message.topic)
            kpi = ', '.join(f'{name} {value:.3g}' for name, value in outcome.kpi.items())
            ended = 'success' if outcome.success else 'ended' if outcome.terminated or outcome.truncated else 'goes on'
            yield Event(message.time_ns, 'outcome', f'{ended}, reward {outcome.reward:+.3f} ({kpi})')
        elif message.name in (TASK, CORRECTION):
            if told.get(message.name) != message.message.data:  # a new file begins with what was said before
                told[message.name] = message.message.data
                yield Event(message.time_ns, message.topic, message.message.data)
        else:
            yield Event(message.time_ns, message.topic, _motion(message))
    except UserError as error:
        yield Event(message.time_ns, message.topic, str(error), 1)


def _status_events(message: Logged, told: dict[str, Any]) -> Iterator[Event]:
    for status in message.message.status:
        values = status_values(status)
        telling = {key: value for key, value in values.items() if key in _TELLING and value}
        shown = status.level, status.message, telling
        if told.get(status.name) != shown:
            told[status.name] = shown
            yield Event(message.time_ns, status.name, _told_by(unescape(status.message), values), int(status.level))


def _told_by(message: str, values: dict[str, str]) -> str:
    if {'logprob', 'latency_ms', 'image_age_ms'} <= values.keys():
        return f'decided {message} in {values["latency_ms"]} ms on an image {values["image_age_ms"]} ms old'
    facts = ', '.join(f'{key} {values[key]}' for key in _TELLING if values.get(key) and key != 'image_stamp_ns')
    return f'{message} ({facts})' if facts else message


def _motion(message: Logged) -> str:
    trajectory = trajectory_from(message.message, message.topic)
    if trajectory is None:
        return 'no points: hold'
    goal = ', '.join(f'{value:.3f}' for value in trajectory.positions[-1])
    return f'{len(trajectory.times_ns)} points in {trajectory.duration_s:.2f} s to {goal}'


def _few(log: AuditLog, span: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Some images of the span, evenly in time; a first pass finds their times."""
    times = sorted(message.time_ns for message in log.messages(_IMAGES, span))
    chosen = {times[round(i)] for i in np.linspace(0, len(times) - 1, min(_SHOWN_IMAGES, len(times)))}
    for message in log.messages(_IMAGES, span):
        if message.time_ns in chosen:
            try:
                yield message.time_ns, pixels(message.message, message.topic)
            except UserError:
                continue


def _joints(log: AuditLog, span: tuple[int, int], at_ns: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rows: dict[str, list[tuple[float, float]]] = {}
    for message in log.messages((JOINT_STATES,), span):
        seconds = (message.time_ns - at_ns) / _NS
        for name, position in zip(message.message.name, message.message.position):
            rows.setdefault(name, []).append((seconds, float(position)))
    return {name: (np.array([x for x, _ in points]), np.array([y for _, y in points]))
            for name, points in rows.items()}
