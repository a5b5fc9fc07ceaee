"""``report.html``: one file without outside references that shows what a run did and what came of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .charts import Chart, Level, Series
from .films import Film, film_strips
from .page import details, figures, render_page, table

_CURVES = (
    ('return', 'return per episode'), ('grounded', 'true thoughts, share'), ('illegal', 'illegal outputs, share'),
    ('grounded_statements', 'true statements, share'), ('thought_collapse', 'thoughts also of another scene, share'),
    ('thought_tokens', 'tokens per thought'),
    ('entropy', 'entropy per token, nats'), ('approx_kl', 'KL of an update, nats'),
    ('explained_variance', 'explained variance of the value'), ('decisions_per_second', 'decisions per second'),
)
_TABLE = (
    ('return', 'return', '{:.3f}'), ('turns', 'turns', '{:.2f}'), ('illegal', 'illegal outputs', '{:.1%}'),
    ('unplannable', 'out of reach', '{:.1%}'), ('refused', 'refused by the gate', '{:.1%}'),
    ('grounded', 'true thoughts', '{:.1%}'), ('grounded_statements', 'true statements', '{:.1%}'),
    ('faithful', 'actions that follow the thought', '{:.1%}'),
    ('thought_tokens', 'tokens per thought', '{:.1f}'),
    ('latency_ms', 'decision latency, ms', '{:.0f}'),
)


def render_report(summary: dict[str, Any], rows: Sequence[dict[str, Any]], films: Sequence[Film]) -> str:
    """The page.

    Args:
        summary: Content of summary.json.
        rows: Lines of metrics.jsonl.
        films: Example episodes of the last evaluation.

    Returns:
        HTML; every text from a model, a task or a configuration is escaped.
    """
    sections = [_headline(summary), _evaluations(summary), _charts(summary, rows)]
    if films:
        sections.append(f'<h2>Episodes after training</h2>{film_strips(films)}')
    facts = {key: summary.get(key) for key in ('config', 'versions', 'machine', 'phases_s', 'gate_refusals')}
    return render_page(str(summary.get('run_name', 'run')), [*sections, f'<h2>Run</h2>{details(facts)}'])


def _headline(summary: dict[str, Any]) -> str:
    before, after = summary.get('before'), summary.get('after')
    way = 'through ROS' if summary['transport'] == 'ros' else 'in process'
    facts = (f'task {summary["task"]} in world {summary["world"]}, {summary["decisions"]} decisions in '
             f'{summary["worlds"]} worlds {way}, {summary["wall_s"] / 60:.1f} minutes')
    if summary.get('stopped'):
        facts += f'; {summary["stopped"]}'
    numbers = ''
    if before and after:
        numbers = (f'<p class="hero"><span class="before">{before["success"]:.1%}</span> → '
                   f'<span class="after">{after["success"]:.1%}</span> <small>held-out success</small></p>')
    if collapsed := summary.get('collapsed_updates'):
        numbers += (f'<p class="alarm">Thought collapse in {len(collapsed)} of {summary["updates"]} updates, first in '
                    f'update {collapsed[0]}: different scenes were given the same thoughts.</p>')
    return f'{numbers}<p>{html.escape(facts)}</p>'


def _evaluations(summary: dict[str, Any]) -> str:
    columns = [(label, summary[key]) for key, label in (
        ('own_cell', 'own cell, before'), ('before', 'before'), ('after', 'after')) if summary.get(key)]
    return f'<h2>Held-out evaluation</h2>{evaluation_table(columns)}' if columns else ''


def evaluation_table(columns: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Results of evaluations side by side as an HTML table.

    Args:
        columns: Heading (text) and result (JSON of an EvaluationResult) of each.
    """
    head = [f'{html.escape(label)}<br/><small>{html.escape(str(result["world"]))}</small>' for label, result in columns]
    rows = [('success', [f'<b>{r["success"]:.1%}</b>' for _, r in columns]),
            ('95 % interval', ['{:.1%} – {:.1%}'.format(*r['ci95']) for _, r in columns]),
            ('episodes', [str(r['n']) for _, r in columns])]
    for key, label, pattern in _TABLE:
        rows.append((label, [pattern.format(r[key]) if key in r else '–' for _, r in columns]))
    for key in sorted({key for _, r in columns for key in r if key.startswith('kpi/')}):
        rows.append((f'KPI {key[4:]}', [f'{r[key]:.3f}' if key in r else '–' for _, r in columns]))
    return table(head, rows)


def _charts(summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    levels = [Level(key, r['success'], r['ci95'][0], r['ci95'][1], key) for key in ('before', 'after')
              if (r := summary.get(key)) and r['n']]
    decisions = [row['decisions_total'] for row in rows]

    def curve(key: str) -> list[Series]:
        return [Series(decisions, [row.get(key, float('nan')) for row in rows])]

    charts = [Chart('success while training (sampled), with the held-out evaluations', curve('success'), levels,
                    (0.0, 1.0))]
    charts += [Chart(title, curve(key)) for key, title in _CURVES]
    drawn = figures([(chart.title, chart.svg()) for chart in charts])
    return f'<h2>Learning curves</h2><p>Over decisions.</p>{drawn}' if drawn else ''
