"""A comparison for people: the table on the terminal, and the page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ..reports.charts import Whisker, legend, series_style, whiskers
from ..reports.films import Film, film_strips
from ..reports.page import details, figures, render_page, table
from ..reports.report import evaluation_table
from .comparison import MEASURES
from .evaluator import suite_of

_LEVEL = 0.05
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
    shown = Table(title='differences of the second less the first, success in points, with 95 % intervals')
    for heading in ('suite', 'pair', 'n', 'success', 'difference', _p_heading(comparison), 'return', 'turns'):
        shown.add_column(heading, justify='left' if heading in ('suite', 'pair') else 'right')
    for suite in comparison['suites']:
        for pair in suite['pairs']:
            success, *others = ('{} ({})'.format(*_difference(pair[name], name)) for name in MEASURES)
            shown.add_row(_name(suite), f'{pair["a"]} → {pair["b"]}', str(pair['n']),
                          f'{pair["success"]["a"]:.1%} → {pair["success"]["b"]:.1%}', success,
                          _p(pair['success']['p_holm']), *others)
    # Not a terminal: whoever reads the file may have any width.
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    for name in _names(comparison['models']):
        console.print(name, markup=False, highlight=False)
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
    charts = [(_name(suite), whiskers(f'success, {_name(suite)}', [
        Whisker(label, result['success'], (result['ci95'][0], result['ci95'][1]), series_style(i))
        for i, (label, result) in enumerate(suite['results'].items())])) for suite in comparison['suites']]
    sections = [legend(_names(models)), _verdicts(comparison), f'<h2>Success</h2>{figures(charts)}']
    for suite in comparison['suites']:
        columns = [(f'{label}, {suite["task"]}', result) for label, result in suite['results'].items()]
        sections += [f'<h2>{html.escape(_name(suite))}</h2>{_pairs(suite, _p_heading(comparison))}',
                     f'<h3>Every figure</h3>{evaluation_table(columns)}',
                     *(_differing(suite, pair, films) for pair in suite['pairs'])]
    return render_page(_title(models), [
        *sections, f'<h2>How it was computed</h2><p>{_METHOD}{_correction(comparison)}</p>', details(models)])


def _names(models: Mapping[str, Any]) -> list[str]:
    """Each model by its label, where it came from, and its temperature unless it was greedy."""
    return [f'{label}: {model["source"]}' + (f', temperature {model["temperature"]:g}' if model['temperature'] else '')
            for label, model in models.items()]


def _title(models: Mapping[str, Any]) -> str:
    *others, last = models
    return f'Comparison of {", ".join(others)} and {last}'


def _verdicts(comparison: Mapping[str, Any]) -> str:
    """One sentence per suite and pair: what the test of success allows to say."""
    lines = ''
    for suite in comparison['suites']:
        for pair in suite['pairs']:
            success, worse, better = pair['success'], pair['a'], pair['b']
            if success['difference'] < 0:
                worse, better = better, worse
            p = f'p = {_p(success["p_holm"])}'.replace('= <', '<')
            said = (f'<b>{better} succeeds more often than {worse}</b>' if success['p_holm'] < _LEVEL else
                    f'no difference in success between {pair["a"]} and {pair["b"]} is shown')
            lines += f'<li>{html.escape(_name(suite))}: {said} ({html.escape(p)})</li>'
    return f'<ul>{lines}</ul>'


def _pairs(suite: Mapping[str, Any], p_heading: str) -> str:
    """Who solved which episodes, and how far the two are apart."""
    counts, differences = [], []
    for pair in suite['pairs']:
        name = f'{pair["a"]} → {pair["b"]}'
        counts.append((name, [str(pair[key]) for key in ('both', 'only_a', 'only_b', 'neither', 'n')]))
        for key in MEASURES:
            pattern = '{:.1%}' if key == 'success' else '{:.2f}'
            means = [pattern.format(pair[key][side]) for side in ('a', 'b')]
            differences.append((f'{name}, {key}', [*means, *_difference(pair[key], key),
                                                           html.escape(_p(pair[key]['p_holm']))]))
    return (table(['both succeed', 'only the first', 'only the second', 'neither', 'episodes'], counts) + '<p></p>'
            + table(['first', 'second', 'difference', '95 % interval', p_heading], differences)
            + '<p><small>Differences are of the second less the first, those of success in points.</small></p>')


def _differing(suite: Mapping[str, Any], pair: Mapping[str, Any], films: Films) -> str:
    """A few episodes that one of two models alone solved, as both played them."""
    blocks = ''
    for winner, seeds in ((pair['a'], pair['seeds_only_a']), (pair['b'], pair['seeds_only_b'])):
        shown = [[(label, films[label, _name(suite), seed]) for label in (pair['a'], pair['b'])
                  if (label, _name(suite), seed) in films] for seed in seeds]
        shown = [strips for strips in shown if strips][:_SHOWN_EACH]
        if shown:
            other = pair['b'] if winner == pair['a'] else pair['a']
            blocks += (f'<h3>{winner} succeeds where {other} fails: {len(shown)} of {len(seeds)} episodes</h3>'
                       + ''.join(film_strips([Film(f'{label}: {film.title}', film.success, film.frames)
                                              for label, film in strips]) for strips in shown))
    return blocks


def _correction(comparison: Mapping[str, Any]) -> str:
    tests = comparison['tests']
    return (f' The p-values of each measure are corrected for {tests} tests by Holm (1979).' if tests > 1 else '')


def _p_heading(comparison: Mapping[str, Any]) -> str:
    return 'p (Holm)' if comparison['tests'] > 1 else 'p'


def _difference(measure: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A difference and its interval; of success in percentage points."""
    scale, digits = (100, 1) if name == 'success' else (1, 2)
    value, low, high = (f'{scale * value:+.{digits}f}' for value in (measure['difference'], *measure['ci95']))
    return value, f'{low} to {high}'


def _p(value: float) -> str:
    return f'{value:.3f}' if value >= 0.001 else '< 0.001'


def _name(suite: Mapping[str, Any]) -> str:
    return str(suite_of(suite))
