"""``report.html``: one file without outside references that shows what a run did and what came of it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .charts import Chart, Level
from .commands import Commander
from .episodes import Episode

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
    ('thought_tokens', 'tokens per thought', '{:.1f}'),
    ('latency_ms', 'decision latency, ms', '{:.0f}'),
)


@dataclass(frozen=True)
class Frame:
    """One turn of a filmstrip.

    Attributes:
        image: (height, width, 3) uint8.
        marker: Where the action points, as shares of width and height, or None.
        note: What came of it.
    """

    image: np.ndarray
    thought: str
    action: str
    note: str
    marker: tuple[float, float] | None = None


@dataclass(frozen=True)
class Film:
    """An episode as a row of frames."""

    title: str
    success: bool
    frames: tuple[Frame, ...]


def film_of(episode: Episode, commander: Commander) -> Film:
    """The turns of an episode, and the scene that they led to."""
    frames = []
    for turn in episode.turns:
        note = f'reward {turn.outcome.reward:+.2f}' if turn.outcome else ''
        if turn.command.rejection:
            note = f'{turn.command.rejection}: {turn.command.detail}; {note}'
        frames.append(Frame(turn.input.image, turn.decision.thought, turn.decision.action, note,
                            commander.marker(turn.decision.action)))
    if episode.final is not None:
        frames.append(Frame(episode.final.image, '', '', 'end of the episode'))
    return Film(f'{episode.instruction} (seed {episode.slot.request.seed})', episode.success, tuple(frames))


def choose_examples(examples: Sequence[Episode], count: int = 3) -> list[Episode]:
    """Successes and at least one failure, where there are both."""
    successes = [episode for episode in examples if episode.success]
    failures = [episode for episode in examples if not episode.success]
    kept = max(count - len(failures), min(len(successes), count - 1)) if failures else count
    return (successes[:kept] + failures)[:count]


def render_report(summary: dict[str, Any], rows: Sequence[dict[str, Any]], films: Sequence[Film]) -> str:
    """The page.

    Args:
        summary: Content of summary.json.
        rows: Lines of metrics.jsonl.
        films: Example episodes of the last evaluation.

    Returns:
        HTML; every text from a model, a task or a configuration is escaped.
    """
    name = html.escape(str(summary.get('run_name', 'run')))
    sections = [_headline(summary), _evaluations(summary), _charts(summary, rows), _films(films), _details(summary)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<title>{name}</title><style>{_CSS}</style></head>\n<body><main><h1>{name}</h1>'
        f'{"".join(sections)}</main></body></html>\n'
    )


def _headline(summary: dict[str, Any]) -> str:
    before, after = summary.get('before'), summary.get('after')
    facts = (f'task {summary["task"]} in world {summary["world"]}, {summary["decisions"]} decisions in '
             f'{summary["worlds"]} worlds through {summary["transport"]}, {summary["wall_s"] / 60:.1f} minutes')
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
    if not columns:
        return ''
    head = ''.join(f'<th>{label}<br/><small>{html.escape(str(result["world"]))}</small></th>'
                   for label, result in columns)
    rows = [('success', [f'<b>{r["success"]:.1%}</b>' for _, r in columns]),
            ('95 % interval', ['{:.1%} – {:.1%}'.format(*r['ci95']) for _, r in columns]),
            ('episodes', [str(r['n']) for _, r in columns])]
    for key, label, pattern in _TABLE:
        rows.append((label, [pattern.format(r[key]) if key in r else '–' for _, r in columns]))
    for key in sorted({key for _, r in columns for key in r if key.startswith('kpi/')}):
        rows.append((f'KPI {key[4:]}', [f'{r[key]:.3f}' if key in r else '–' for _, r in columns]))
    body = ''.join(f'<tr><th>{html.escape(label)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
                   for label, cells in rows)
    return f'<h2>Held-out evaluation</h2><div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _charts(summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    levels = [Level(key, r['success'], r['ci95'][0], r['ci95'][1], key) for key in ('before', 'after')
              if (r := summary.get(key)) and r['n']]
    decisions = [row['decisions_total'] for row in rows]
    charts = [Chart('success while training (sampled), with the held-out evaluations', decisions,
                    [row.get('success', float('nan')) for row in rows], levels, (0.0, 1.0))]
    charts += [Chart(title, decisions, [row.get(key, float('nan')) for row in rows]) for key, title in _CURVES]
    figures = ''.join(f'<figure><figcaption>{html.escape(chart.title)}</figcaption>{svg}</figure>'
                      for chart in charts if (svg := chart.svg()))
    return f'<h2>Learning curves</h2><p>Over decisions.</p><div class="charts">{figures}</div>' if figures else ''


def _films(films: Sequence[Film]) -> str:
    if not films:
        return ''
    strips = ''
    for film in films:
        verdict = 'success' if film.success else 'failure'
        frames = ''.join(_frame(frame) for frame in film.frames)
        strips += (f'<h3><span class="verdict {verdict}">{verdict}</span> {html.escape(film.title)}</h3>'
                   f'<div class="film">{frames}</div>')
    return f'<h2>Episodes after training</h2>{strips}'


def _frame(frame: Frame) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame.image).save(buffer, format='PNG', optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode('ascii')
    marker = ''
    if frame.marker:
        x, y = (f'{100 * share:.2f}%' for share in frame.marker)
        marker = f'<span class="marker" style="left:{x};top:{y}"></span>'
    thought = f'<blockquote>{html.escape(frame.thought)}</blockquote>' if frame.thought else ''
    action = f'<code>{html.escape(frame.action)}</code>' if frame.action else ''
    return (f'<div class="frame"><div class="picture"><img alt="camera image" src="data:image/png;base64,{data}"/>'
            f'{marker}</div>{thought}{action}<small>{html.escape(frame.note)}</small></div>')


def _details(summary: dict[str, Any]) -> str:
    blocks = ''
    for key in ('config', 'versions', 'machine', 'phases_s', 'gate_refusals'):
        if summary.get(key):
            text = html.escape(json.dumps(summary[key], indent=2, ensure_ascii=False))
            blocks += f'<details><summary>{key.replace("_", " ")}</summary><pre>{text}</pre></details>'
    return f'<h2>Run</h2>{blocks}'


_CSS = """
:root{color-scheme:light dark;--ink:#1c2330;--dim:#667085;--line:#d8dde6;--page:#f7f8fa;--card:#fff;--curve:#2563eb;
--before:#b45309;--after:#15803d;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--dim:#98a2b3;--line:#2f3746;--page:#11151c;--card:#1a202b;
--curve:#60a5fa;--before:#f59e0b;--after:#4ade80;--bad:#f87171}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{margin:0 0 .5rem;font-size:1.7rem}h2{margin:2.5rem 0 .75rem;font-size:1.25rem}h3{font-size:1rem;font-weight:500}
.alarm{color:var(--bad);font-weight:600}
.hero{margin:0;font-size:2.6rem;font-weight:650;letter-spacing:-.02em}
.hero small{font-size:1rem;font-weight:400;color:var(--dim)}
small{color:var(--dim)}.before{color:var(--before)}.after{color:var(--after)}
.scroll{overflow-x:auto}table{border-collapse:collapse;background:var(--card);border-radius:10px;
overflow:hidden;min-width:60%}
th,td{padding:.45rem .9rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
th:first-child{text-align:left;font-weight:500;color:var(--dim)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:1rem}
figure{margin:0;padding:.75rem;background:var(--card);border:1px solid var(--line);border-radius:10px}
figcaption{font-size:.85rem;color:var(--dim)}
svg{display:block;width:100%;height:auto}svg text{font-size:11px;fill:var(--dim)}
svg .grid{stroke:var(--line)}svg polyline{fill:none;stroke:var(--curve)}svg .raw{opacity:.3}svg .curve{stroke-width:2.2}
svg rect.before{fill:var(--before)}svg rect.after{fill:var(--after)}svg .band{opacity:.13}
svg line.before{stroke:var(--before)}svg line.after{stroke:var(--after)}svg line.level{stroke-dasharray:5 4}
svg text.before{fill:var(--before)}svg text.after{fill:var(--after)}
.film{display:flex;gap:1rem;overflow-x:auto;padding-bottom:.5rem}
.frame{flex:0 0 224px;padding:.6rem;background:var(--card);border:1px solid var(--line);border-radius:10px}
.picture{position:relative}.picture img{display:block;width:100%;border-radius:6px}
.marker{position:absolute;width:18px;height:18px;margin:-9px 0 0 -9px;border:2px solid #fff;border-radius:50%;
box-shadow:0 0 0 2px #000}
.frame small{display:block;margin-top:.3rem;overflow-wrap:anywhere}
blockquote{margin:.5rem 0;padding-left:.6rem;border-left:3px solid var(--curve);font-size:.85rem;overflow-wrap:anywhere}
code{font-weight:600}pre{overflow-x:auto;font-size:.8rem}
.verdict{padding:.1rem .5rem;border-radius:99px;color:#fff;background:#15803d;font-size:.8rem}
.verdict.failure{background:#b91c1c}
details{margin:.4rem 0;padding:.5rem .9rem;background:var(--card);border:1px solid var(--line);border-radius:10px}
summary{cursor:pointer}
"""
