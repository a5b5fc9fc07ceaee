"""The result of an ablation for people: a Markdown table and a page."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..metrics import write_atomically
from ..reports.charts import Chart, Series, Whisker, legend, series_style, whiskers
from ..reports.page import details, figures, render_page, table
from .evaluator import suite_of

_CURVE_TITLES = {'success': 'success while training (sampled)', 'grounded': 'true thoughts while training, share'}


def write_results(results: Mapping[str, Any], out: Path) -> None:
    """The JSON file, and table and page beside it.

    Args:
        results: As ``ablation_results.collect`` returns them.
        out: The JSON file.

    Raises:
        UserError: A file cannot be written.
    """
    write_atomically(out, json.dumps(results, indent=2) + '\n')
    write_atomically(out.with_suffix('.md'), render_markdown(results))
    write_atomically(out.with_suffix('.html'), render_ablation(results))


def render_markdown(results: Mapping[str, Any]) -> str:
    """A table with one row per variant and suite, and what its columns mean."""
    head, rows = _table(results)
    lines = [f'# {results["name"]}', '', f'| {" | ".join(["variant, suite", *head])} |', '|---' * (len(head) + 1) + '|']
    lines += [f'| {" | ".join([name.replace("|", "/"), *cells])} |' for name, cells in rows]
    return '\n'.join([*lines, '', *(f'{line}\n' for line in _notes(results))])


def render_ablation(results: Mapping[str, Any]) -> str:
    """The page; every text from a configuration or a log is escaped."""
    variants = results['variants']
    head, rows = _table(results)
    two_lines = [(name, [_two_lines(cell) for cell in cells]) for name, cells in rows]
    suites = [str(suite_of(suite)) for suite in variants[0]['suites']]
    success = [(f'{suite}, all seeds together', whiskers(suite, [
        Whisker(str(i + 1), pooled['success'], (pooled['ci95'][0], pooled['ci95'][1]), series_style(i))
        for i, pooled in enumerate(variant['suites'][k]['pooled'] for variant in variants)]))
        for k, suite in enumerate(suites)]
    charts = [(title, Chart(title, [
        Series(curve['decisions'], curve['mean'], (curve['low'], curve['high']), series_style(i))
        for i, curve in enumerate(variant['curves'][key] for variant in variants)], span=(0.0, 1.0)).svg())
        for key, title in _CURVE_TITLES.items()]
    notes = ''.join(f'<p>{html.escape(line)}</p>' for line in _notes(results))
    curves = figures(charts)
    return render_page(results['name'], [
        legend([f'{i + 1}: {_spaced(variant["name"])}' for i, variant in enumerate(variants)]), figures(success),
        f'<h2>Figures</h2>{table(head, two_lines)}',
        notes, f'<h2>Learning curves</h2><p>Over decisions; mean and range of the seeds.</p>{curves}' if curves else '',
        f'<h2>Runs</h2>{_runs(results)}', details({key: results[key] for key in ('grid', 'versions', 'machines')})])


def _table(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings and rows, as text."""
    rows = []
    for variant in results['variants']:
        needed = variant['decisions_to_target']
        median = 'n/a' if needed['median'] is None else f'{needed["median"]:,.0f}'
        for suite in variant['suites']:
            pooled, seeds = suite['pooled'], suite['over_seeds']
            spread = '' if seeds['sd'] is None else f' ± {100 * seeds["sd"]:.1f}'
            rows.append((f'{_spaced(variant["name"])}: {suite_of(suite)}', [
                str(pooled['n']), f'{pooled["success"]:.1%} {_span(*pooled["ci95"])}', str(seeds['n']),
                f'{seeds["mean"]:.1%}{spread} {_span(seeds["low"], seeds["high"])}',
                f'{median} ({needed["reached"]} of {needed["of"]})',
                '–' if suite['grounded'] is None else f'{suite["grounded"]:.1%}']))
    return ['episodes', 'pooled success', 'seeds', 'success over seeds', f'decisions to {results["target"]:.0%}',
            'true thoughts'], rows


def _span(low: float, high: float) -> str:
    return f'({100 * low:.1f} – {100 * high:.1f})'


def _two_lines(cell: str) -> str:
    """HTML of a cell, what is in brackets below the rest."""
    figure, _, bracket = html.escape(cell).partition(' (')
    return f'{figure}<br/><small>({bracket}</small>' if bracket else figure


def _spaced(variant: str) -> str:
    """A variant's name as a line may break it."""
    return variant.replace(',', ', ')


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What the columns mean, and what the figures were made with."""
    runs = [run for variant in results['variants'] for run in variant['runs']]
    windows = sorted({run['window'] for run in runs})
    notes = [
        'Pooled success and its 95 % interval (Wilson) take the held-out episodes of all seeds as one sample: how well '
        'these policies do. Success over seeds is the mean of the runs, their standard deviation in points, and their '
        'range: how far another run may fall.',
        f'Decisions to {results["target"]:.0%}: median over seeds of the decisions until the success of the sampled '
        f'training episodes, averaged over the last {" or ".join(map(str, windows))} updates, is that high; n/a where '
        'half of the seeds or more never get there; in brackets, how many did. True thoughts: share of thoughts that '
        'agree with the true scene, held-out, mean of seeds.',
    ]
    notes += [f'Lost: {lost["variant"]} seed {lost["seed"]}: {lost["reason"]}.' for lost in results['lost']]
    for reason, count in Counter(run['stopped'] for run in runs if run['stopped']).items():
        notes.append(f'{count} of {len(runs)} runs did not use up their decisions: {reason}.')
    for machine in results['machines']:
        notes.append(f'Machine: {machine["processor"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, '
                     f'{machine["gpu"] or "no GPU"}.')
    for versions in results['versions']:
        notes.append('Versions: ' + ', '.join(f'{name} {version}' for name, version in versions.items()) + '.')
    return notes


def _runs(results: Mapping[str, Any]) -> str:
    rows = []
    for variant in results['variants']:
        for run in variant['runs']:
            needed = run['decisions_to_target']
            rows.append((f'{_spaced(variant["name"])}: seed {run["seed"]}', [
                f'{run["decisions"]:,}', f'{run["wall_s"] / 60:.1f}', 'n/a' if needed is None else f'{needed:,}',
                *(f'{suite["success"]:.1%}' for suite in run['suites'])]))
    suites = [f'success,<br/>{html.escape(str(suite_of(suite)))}' for suite in results['variants'][0]['suites']]
    return table(['decisions', 'minutes', f'decisions<br/>to {results["target"]:.0%}', *suites], rows)
