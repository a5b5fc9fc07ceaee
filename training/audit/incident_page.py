"""The page of an incident: one HTML file without references to others; everything that a log says is escaped in it."""

from __future__ import annotations

import html
from datetime import datetime
from pathlib import Path

import numpy as np

from vlm_agent_ros.actions import ActionError, Pick, Place, Push, SkillLanguage, Stack
from vlm_agent_ros.audit.log import LoggedDecision

from ..reports.charts import Chart, Series
from ..reports.films import Frame, encode_png, frame_strip
from ..reports.page import details, figures, render_page
from .incident import Event, Incident

_NS = 1_000_000_000
_BADGES = ('', '<span class="verdict warning">WARN</span> ', '<span class="verdict failure">ERROR</span> ')
_MOST_POINTS = 400  # of a curve; more than the picture can show only makes the page large


def render_incident(incident: Incident, log: Path, grid: int) -> str:
    """The page.

    Args:
        incident: What happened.
        log: Where it was read.
        grid: Cells per image side in the action language, to show where actions point.
    """
    at = datetime.fromtimestamp(incident.at_ns / _NS).astimezone().isoformat(' ', 'milliseconds')
    return render_page(f'Incident of {at}', [
        f'<p>{incident.window_s:g} s before and after; times are seconds from then.<br/><small>{html.escape(str(log))}'
        '</small></p>',
        '<h2>What happened</h2>', _timeline(incident),
        '<h2>What was decided, and on what</h2>', _decisions(incident, grid),
        '<h2>What the camera saw</h2>', _images(incident),
        '<h2>Measured joints</h2>', _curves(incident),
    ])


def _timeline(incident: Incident) -> str:
    rows = ''.join(_row(event, incident.at_ns) for event in incident.events)
    return f'<div class="scroll"><table class="events">{rows}</table></div>' if rows else '<p>Nothing was told.</p>'


def _row(event: Event, at_ns: int) -> str:
    badge = _BADGES[min(event.level, len(_BADGES) - 1)]
    return (f'<tr><th>{_seconds(event.time_ns, at_ns)}</th><td>{html.escape(event.what)}</td>'
            f'<td>{badge}{html.escape(event.text)}</td></tr>')


def _decisions(incident: Incident, grid: int) -> str:
    frames = [_frame(decision, incident.at_ns, grid) for decision in incident.decisions]
    facts = {f'{_seconds(decision.time_ns, incident.at_ns)}: {decision.action}': _facts(decision)
             for decision in incident.decisions}
    return frame_strip(frames) + details(facts) if frames else '<p>Nothing was decided.</p>'


def _frame(decision: LoggedDecision, at_ns: int, grid: int) -> Frame:
    verdict = ' '.join(filter(None, (decision.verdict, decision.rule)))
    note = '; '.join(filter(None, (
        _seconds(decision.time_ns, at_ns), verdict, *(f'{c.operator or "operator"}: {c.action}'
                                                      for c in decision.corrections))))
    image = decision.image if decision.image.size else np.zeros((1, 1, 3), np.uint8)
    return Frame(encode_png(image), decision.thought, decision.action, note, _marker(decision.action, grid))


def _marker(action: str, grid: int) -> tuple[float, float] | None:
    try:
        command = SkillLanguage(grid).parse(action)
    except ActionError:
        return None
    if not isinstance(command, (Pick, Place, Push, Stack)):
        return None
    return (command.column + 0.5) / grid, (command.row + 0.5) / grid


def _facts(decision: LoggedDecision) -> dict[str, object]:
    names = ('task', 'state', 'text', 'logprob', 'value', 'temperature', 'seed', 'checkpoint', 'checkpoint_sha256',
             'prompt_sha256', 'image_stamp_ns', 'verdict', 'rule', 'mode')
    return {name: getattr(decision, name) for name in names}


def _images(incident: Incident) -> str:
    frames = [Frame(encode_png(image), '', '', _seconds(time_ns, incident.at_ns)) for time_ns, image in incident.images]
    return frame_strip(frames) if frames else '<p>The log holds no image of this time.</p>'


def _curves(incident: Incident) -> str:
    drawn = []
    for name, (seconds, positions) in incident.joints.items():
        keep = slice(None, None, -(-len(seconds) // _MOST_POINTS))
        x, y = seconds[keep].tolist(), positions[keep].tolist()
        drawn.append((f'{name}, rad or m', Chart(name, [Series(x, y, band=(y, y))]).svg()))
    return figures(drawn) or '<p>The log holds no joint states of this time.</p>'


def _seconds(time_ns: int, at_ns: int) -> str:
    return f'{(time_ns - at_ns) / _NS:+.3f} s'


