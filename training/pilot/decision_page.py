"""The decision page of a pilot: one file for those who decide."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from ..reports.charts import Chart, Level, Series, Whisker, legend, series_style, whiskers
from ..reports.page import details, figures, render_page, table
from .decision import RUNNING
from .plan import LABELS

_METHOD = """
Episodes come in blocks, half of each by A and half by B, in an order that a seed fixed beforehand. After every block
the evidence against each possible difference in success is brought up to date (e-process by reverse information
projection: Turner, Ly &amp; Grünwald 2024, doi:10.1016/j.jspi.2023.106116); differences against which it has reached
1/α are excluded for good, the rest is the confidence sequence (Turner &amp; Grünwald 2022, arXiv:2203.09785). Over all
looks together the true difference is excluded with probability α at most, by Ville's inequality, so the pilot may stop
at any time. Intervals of a single checkpoint's success are Wilson's, 95 %, and describe; the verdict rests on the
confidence sequence alone.
"""
_MEASURES = (
    ('successes', 'successes', '{:.0f}'), ('episodes', 'episodes', '{:.0f}'), ('turns per episode', 'turns', '{:.2f}'),
    ('cycle time, s', 'cycle_s', '{:.1f}'), ('return', 'return', '{:+.3f}'),
    ('interventions per hour', 'interventions_per_hour', '{:.2f}'), ('rejections', 'rejections', '{:.0f}'),
    ('corrections', 'corrections', '{:.0f}'), ('stops', 'stops', '{:.0f}'), ('approvals', 'approvals', '{:.0f}'),
    ('gate hits', 'gate_hits', '{:.0f}'), ('machine time, min', 'machine_minutes', '{:.1f}'))


def render_decision(decision: Mapping[str, Any]) -> str:
    """The page.

    Args:
        decision: Content of decision.json.

    Returns:
        HTML; every text from the plan or a model is escaped.
    """
    plan, arms = decision['plan'], [decision[label] for label in LABELS]
    names = [f'{label}: {plan[label.lower()]}' for label in LABELS]
    drawings = [('success, 95 % each', whiskers('success', [
        Whisker(label, arm['success'], tuple(arm['ci95']), series_style(i))
        for i, (label, arm) in enumerate(zip(LABELS, arms)) if arm['success'] is not None])),
        ('difference in success, B less A: confidence sequence over blocks', _sequence(decision))]
    return render_page(f'Pilot of {plan["a"]} and {plan["b"]}', [
        _hero(decision), legend(names), figures(drawings),
        f'<h2>Figures</h2>{_measures(arms)}', _kpi(arms), f'<h2>Cost sheet</h2>{_costs(decision)}',
        f'<h2>How it was decided</h2><p>{_METHOD}</p>{_rules(plan)}',
        details({'plan': plan, 'checkpoints': {label: arm['checkpoint'] for label, arm in zip(LABELS, arms)
                                               if arm['checkpoint']}})])


def _hero(decision: Mapping[str, Any]) -> str:
    low, high = decision['difference']['interval']
    said = html.escape(decision['verdict'])
    if decision['verdict'] == RUNNING:
        said = 'not decided yet'
    lost = f', {decision["lost"]} more were lost and repeated' if decision['lost'] else ''
    alpha = decision['difference']['alpha']
    return (f'<p class="hero">{said} <small>after {decision["episodes"]} episodes{lost}</small></p>'
            f'<p>Difference in success, B less A: between {100 * low:+.1f} and {100 * high:+.1f} points, with '
            f'{100 * (1 - alpha):.10g}% confidence at every look. Evidence against equal success: '
            f'{decision["difference"]["e_value"]:.3g}; {1 / alpha:.3g} and more would be chance in '
            f'{100 * alpha:.10g}% of pilots at most.</p>')


def _sequence(decision: Mapping[str, Any]) -> str:
    intervals = decision['difference']['intervals']
    blocks = list(range(1, len(intervals) + 1))
    low, high = ([interval[end] for interval in intervals] for end in (0, 1))
    middle = [(a + b) / 2 for a, b in zip(low, high)]
    return Chart('difference in success over blocks', [Series(blocks, middle, (low, high), series_style(1))],
                 [Level('equal', 0.0, 0.0, 0.0, 'before')], (-1.0, 1.0)).svg()


def _measures(arms: list[Mapping[str, Any]]) -> str:
    rows = [('success', [_share(arm) for arm in arms])]
    for name, key, pattern in _MEASURES:
        values = [arm[key] / arm['episodes'] if key == 'turns' and arm['episodes'] else arm[key] for arm in arms]
        rows.append((name, [_number(value, pattern) for value in values]))
    return table(LABELS, rows)


def _kpi(arms: list[Mapping[str, Any]]) -> str:
    names = sorted({name for arm in arms for name in arm['kpi']})
    if not names:
        return ''
    rows = [(name, [_number(arm['kpi'].get(name), '{:.3f}') for arm in arms]) for name in names]
    return f'<h3>KPI terms, mean per episode</h3>{table(LABELS, rows)}'


def _costs(decision: Mapping[str, Any]) -> str:
    rows = []
    for row in decision['costs']:
        unit = f' {html.escape(row["unit"])}' if row['unit'] else ''
        both = [_number(row[end], '{:,.2f}') + (unit if row[end] is not None else '') for end in ('a', 'b')]
        cells = both if row['symbol'] in _PER_CHECKPOINT else ['', both[0]]
        rows.append((f'{row["symbol"]}  {row["name"]}', [f'<code>{html.escape(row["formula"])}</code>', *cells]))
    return (table(['formula', *LABELS], rows)
            + '<p><small>Money and minutes from the figures of the plan (costs), the rest as measured in this pilot; '
            'the last lines compare B with A. A dash: there is no such value, as with a payback that never comes.'
            '</small></p>')


_PER_CHECKPOINT = ('N', 'G', 'M', 'W', 'O', 'D', 'F', 'C', 'c', 'g', 'π', 'I')


def _rules(plan: Mapping[str, Any]) -> str:
    """What the plan had fixed, in words."""
    success, stop = plan['success'], plan['stop']
    limits = [f'at most {value:g} {words}' for words, value in (
        ('turns', success['max_turns'] or None), ('s', success['max_cycle_s'] or None),
        ('interventions', success['max_interventions']), ('gate hits', success['max_gate_hits'])) if value is not None]
    stops = [f'{key.replace("_", " ")} {value:g}' for key, value in stop.items() if value and key != 'no_difference']
    if stop['no_difference']:
        stops.insert(0, f'every difference of {100 * plan["difference"]:g} points or more is excluded')
    return '<ul>' + ''.join(f'<li>{html.escape(line)}</li>' for line in (
        f'Success: the outcome says so{"".join(", " + limit for limit in limits)}.',
        f'At most {plan["max_episodes"]} episodes in blocks of {plan["block"]}; α = {plan["alpha"]:g}, β = '
        f'{plan["beta"]:g} at a difference of {100 * plan["difference"]:g} points.',
        f'Stopped early by a difference that is shown, or: {"; ".join(stops)}.',
        f'Tasks, in turn by block: {", ".join(plan["tasks"])}; line: {plan["line"]}.')) + '</ul>'


def _share(arm: Mapping[str, Any]) -> str:
    if arm['success'] is None:
        return '–'
    return '{:.1%} <small>({:.1%} to {:.1%})</small>'.format(arm['success'], *arm['ci95'])


def _number(value: float | None, pattern: str) -> str:
    return '–' if value is None else pattern.format(value)
