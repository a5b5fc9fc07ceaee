"""From the finished runs of an ablation to its figures."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vlm_agent_ros.errors import UserError

from ..metrics import read_rows
from .ablation_cell import EVALUATION, SUMMARY, plan_of_grid
from .ablation_grid import Ablation, Cell
from .evaluate import Suite
from .evaluator import read_evaluation, suite_of
from .statistics import wilson_interval

CURVES = ('success', 'grounded')


def trailing_mean(rows: Sequence[Mapping[str, Any]], key: str, window: int) -> list[tuple[int, float]]:
    """A training figure over the last ``window`` updates, each weighted by its episodes.

    Args:
        rows: Lines of metrics.jsonl with ``decisions_total`` and ``episodes``; those without ``key`` are passed over.
        key: A figure of an update, e.g. ``success``.
        window: Updates; the first value is that of the update which fills the window.

    Returns:
        Decisions made by the end of an update, and the mean there.
    """
    present = [row for row in rows if key in row]
    result = []
    for end in range(window, len(present) + 1):
        last = present[end - window:end]
        episodes = sum(row['episodes'] for row in last)
        result.append((last[-1]['decisions_total'], sum(row[key] * row['episodes'] for row in last) / episodes))
    return result


def decisions_to(rows: Sequence[Mapping[str, Any]], target: float, window: int) -> int | None:
    """Decisions that a run needed to reach a training success.

    The training success is that of the sampled episodes, smoothed by ``trailing_mean``: it looks back only, so a
    target counts as reached when the last decision that shows it has been made, and never before a whole window has
    been played. Evaluations cost no decisions.

    Returns:
        All decisions up to and including the first update at which the mean is at least ``target``; None where it
        never is.
    """
    return next((decisions for decisions, mean in trailing_mean(rows, 'success', window) if mean >= target), None)


def band(curves: Sequence[Sequence[tuple[float, float]]]) -> dict[str, list[float]]:
    """Mean and range of several curves where all of them are known, linear between their points.

    Returns:
        ``decisions``, ``mean``, ``low`` and ``high``; empty lists where the curves have no stretch in common.
    """
    start = max((curve[0][0] for curve in curves if curve), default=0)
    end = min((curve[-1][0] for curve in curves if curve), default=-1)
    if not all(curves) or end < start:
        return {'decisions': [], 'mean': [], 'low': [], 'high': []}
    x = sorted({point[0] for curve in curves for point in curve if start <= point[0] <= end})
    y = np.array([np.interp(x, [d for d, _ in curve], [value for _, value in curve]) for curve in curves])
    return {'decisions': x, 'mean': y.mean(axis=0).round(6).tolist(), 'low': y.min(axis=0).round(6).tolist(),
            'high': y.max(axis=0).round(6).tolist()}


def collect(ablation: Ablation, lost: Mapping[Cell, str]) -> dict[str, Any]:
    """The result of an ablation.

    Args:
        ablation: Its runs that are not lost are all finished.
        lost: The others, with the reason.

    Returns:
        The content of its JSON file.

    Raises:
        UserError: No run was finished, or one was damaged since.
    """
    finished = [cell for cell in ablation.cells if cell not in lost]
    if not finished:
        raise UserError(f'every run of {ablation.name} was lost; the first one {next(iter(lost.values()))}')
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in finished:
        runs[cell.variant].append(_run(cell, ablation))
    machines = [run.pop('machine') for of_variant in runs.values() for run in of_variant]
    versions = [run.pop('versions') for of_variant in runs.values() for run in of_variant]
    return {
        'name': ablation.name, 'target': ablation.target,
        'variants': [_variant(name, ablation.variants[name], of_variant) for name, of_variant in runs.items()],
        'lost': [{'variant': cell.variant, 'seed': cell.config.seed, 'reason': reason}
                 for cell, reason in lost.items()],
        'grid': ablation.content, 'versions': _distinct(versions), 'machines': _distinct(machines),
    }


def _run(cell: Cell, ablation: Ablation) -> dict[str, Any]:
    """One finished run."""
    summary = json.loads((cell.folder / SUMMARY).read_text(encoding='utf-8'))
    rows = read_rows(cell.folder / 'metrics.jsonl')
    evaluation, window = read_evaluation(cell.folder / EVALUATION), cell.config.best_window
    records, plan = {suite_of(record): record for record in evaluation['suites']}, plan_of_grid(ablation.evaluate)
    return {
        'seed': cell.config.seed, 'decisions': summary['decisions'], 'wall_s': summary['wall_s'],
        'stopped': summary['stopped'], 'window': window,
        'decisions_to_target': decisions_to(rows, ablation.target, window),
        # They may have been measured in another order.
        'suites': [{key: value for key, value in records[suite].items() if key not in ('episodes', 'lost_seeds')}
                   for suite in plan],
        'curves': {key: trailing_mean(rows, key, window) for key in CURVES},
        'versions': summary['versions'], 'machine': summary['machine'],
    }


def _variant(name: str, fields: Mapping[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All seeds of a variant together."""
    needed = [run['decisions_to_target'] for run in runs]
    median = statistics.median(float('inf') if value is None else value for value in needed)
    by_suite: dict[Suite, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        for record in run['suites']:
            by_suite[suite_of(record)].append(record)
    return {
        'name': name, 'settings': dict(fields), 'seeds': [run['seed'] for run in runs],
        'suites': [_suite(records) for records in by_suite.values()],
        # A run that never gets there counts as slower than any other: no mean could be given.
        'decisions_to_target': {'median': None if median == float('inf') else median,
                                'reached': sum(value is not None for value in needed), 'of': len(needed)},
        'curves': {key: band([run['curves'][key] for run in runs]) for key in CURVES},
        'runs': runs,
    }


def _suite(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One suite over the seeds of a variant.

    ``pooled`` takes the episodes of all seeds as one sample: it says how well these very policies do. ``over_seeds`` is
    the spread of the policies that training with another seed gives, and says how far the next run may fall.
    """
    shares = [record['success'] for record in records]
    n, successes = sum(r['n'] for r in records), sum(round(r['success'] * r['n']) for r in records)
    grounded = [record['grounded'] for record in records if 'grounded' in record]
    return {
        **asdict(suite_of(records[0])),
        'pooled': {'success': successes / n if n else 0.0, 'n': n, 'ci95': list(wilson_interval(successes, n))},
        'over_seeds': {'mean': statistics.fmean(shares), 'low': min(shares), 'high': max(shares),
                       'sd': statistics.stdev(shares) if len(shares) > 1 else None, 'n': len(shares)},
        'grounded': statistics.fmean(grounded) if grounded else None,
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]
