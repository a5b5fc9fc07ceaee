"""A comparison for people: the table on the terminal, and the page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from .charts import Whisker, legend, series_style, whiskers
from .comparison import MEASURES
from .evaluator import suite_of
from .films import Film, film_strips
from .page import details, figures, render_page, table
from .report import evaluation_table

_SHOWN_EACH = 3  # differing episodes of either kind
_METHOD = """
Each episode is played by every model with the same seed, and only such pairs are compared. Success: exact two-sided
McNemar test on the episodes that one model alone solves; the interval of the difference is Agresti and Min's (2005).
Return and turns: paired permutation test by random signs, and percentile bootstrap over episodes, 10,000 each.
Intervals of a single model's success are Wilson's. All intervals are 95 %.
"""

Films = Mapping[tuple[str, str, int], Film]
"""By label, suite and seed."""


def print_table(comparison: Mapping[str, Any]) -> None:
    """Print every pair on every suite."""
    shown = Table(title='differences are of the second less the first, with 95 % intervals')
    for heading in ('suite', 'pair', 'n', 'success', 'difference', _p_heading(comparison), 'return', 'turns'):
        shown.add_column(heading, justify='left' if heading in ('suite', 'pair') else 'right')
    for suite in comparison['suites']:
        for pair in suite['pairs']:
            success = pair['success']
            shown.add_row(_name(suite), f'{pair["a"]} → {pair["b"]}', str(pair['n']),
                          f'{success["a"]:.1%} → {success["b"]:.1%}', _difference(success, 'success'),
                          _p(success['p_holm']), *(_difference(pair[name], name) for name in MEASURES[1:]))
    # Not a terminal: whoever reads the file may have any width.
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    for label, model in comparison['models'].items():
        console.print(f'{label}: {model["checkpoint"]}', markup=False, highlight=False)
    console.print(shown)


def render_comparison(comparison: Mapping[str, Any], films: Films) -> str:
    """The page.

    Args:
        comparison: Content of compare.json.
        films: Of the episodes that were played now.

    Returns:
        HTML; every text from a model, a task or a configuration is escaped.
    """
    models = comparison['models']
    names = [f'{label}: {model["checkpoint"]}' for label, model in models.items()]
    charts = [(_name(suite), whiskers(f'success, {_name(suite)}', [
        Whisker(label, result['success'], (result['ci95'][0], result['ci95'][1]), series_style(i))
        for i, (label, result) in enumerate(suite['results'].items())])) for suite in comparison['suites']]
    sections = [legend(names), _verdicts(comparison), f'<h2>Success</h2>{figures(charts)}', _pairs(comparison)]
    for suite in comparison['suites']:
        columns = [(f'{label}, {suite["task"]}', result) for label, result in suite['results'].items()]
        sections.append(f'<h2>{html.escape(_name(suite))}</h2>{evaluation_table(columns)}'
                        + ''.join(_differing(suite, pair, films) for pair in suite['pairs']))
    return render_page('Comparison of ' + ' and '.join(models),
                       [*sections, f'<h2>How it was computed</h2><p>{_METHOD}{_correction(comparison)}</p>',
                        details(models)])


def _verdicts(comparison: Mapping[str, Any]) -> str:
    """One sentence per pair and suite: what the test of success allows to say."""
    lines = []
    for suite in comparison['suites']:
        for pair in suite['pairs']:
            success, better = pair['success'], pair['b']
            other = pair['a']
            if success['difference'] < 0:
                better, other = other, better
            if success['p_holm'] < 0.05:
                said = f'<b>{better} succeeds more often than {other}</b>'
            else:
                said = f'no difference in success between {pair["a"]} and {pair["b"]} is shown'
            lines.append(f'<li>{html.escape(_name(suite))}: {said} (difference {_difference(success, "success")}, '
                         f'p = {_p(success["p_holm"])}, {pair["n"]} episodes)</li>')
    return f'<ul>{"".join(lines)}</ul>'


def _pairs(comparison: Mapping[str, Any]) -> str:
    head = ['both', 'only<br/>first', 'only<br/>second', 'neither']
    for name in MEASURES:
        head += [f'{name},<br/>difference', _p_heading(comparison)]
    rows = []
    for suite in comparison['suites']:
        for pair in suite['pairs']:
            cells = [str(pair[key]) for key in ('both', 'only_a', 'only_b', 'neither')]
            for name in MEASURES:
                cells += [_difference(pair[name], name).replace(' (', '<br/><small>(') + '</small>',
                          _p(pair[name]['p_holm'])]
            rows.append((f'{pair["a"]} → {pair["b"]}, {_name(suite)}', cells))
    return ('<h2>Paired episodes</h2><p>Who solved which episodes, and differences of the second model less the first.'
            f'</p>{table(head, rows)}')


def _differing(suite: Mapping[str, Any], pair: Mapping[str, Any], films: Films) -> str:
    """A few episodes that one of two models alone solved, as both played them."""
    blocks = ''
    for winner, seeds in ((pair['a'], pair['seeds_only_a']), (pair['b'], pair['seeds_only_b'])):
        shown = [[(label, films[label, _name(suite), seed]) for label in (pair['a'], pair['b'])
                  if (label, _name(suite), seed) in films] for seed in seeds]
        shown = [strips for strips in shown if strips][:_SHOWN_EACH]
        if shown:
            other = pair['b'] if winner == pair['a'] else pair['a']
            blocks += (f'<h3>{winner} alone succeeds, {other} fails: {len(shown)} of {len(seeds)} episodes</h3>'
                       + ''.join(film_strips([Film(f'{label}: {film.title}', film.success, film.frames)
                                              for label, film in strips]) for strips in shown))
    return blocks


def _correction(comparison: Mapping[str, Any]) -> str:
    tests = comparison['tests']
    return (f' The p-values of each measure are corrected for {tests} tests by Holm (1979).' if tests > 1 else '')


def _p_heading(comparison: Mapping[str, Any]) -> str:
    return 'p (Holm)' if comparison['tests'] > 1 else 'p'


def _difference(measure: Mapping[str, Any], name: str) -> str:
    if name == 'success':
        return '{:+.1f} points ({:+.1f} to {:+.1f})'.format(
            *(100 * value for value in (measure['difference'], *measure['ci95'])))
    return '{:+.2f} ({:+.2f} to {:+.2f})'.format(measure['difference'], *measure['ci95'])


def _p(value: float) -> str:
    return f'{value:.3f}' if value >= 0.001 else '< 0.001'


def _name(suite: Mapping[str, Any]) -> str:
    return str(suite_of(suite))
