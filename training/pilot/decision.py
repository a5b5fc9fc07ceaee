"""What the episodes of a pilot say: figures of either checkpoint, and the verdict."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..evaluation.statistics import wilson_interval
from .costs import cost_sheet
from .plan import LABELS, Plan
from .results import PilotEpisode
from .sequential import SequentialTest

RUNNING = 'running'


def sequential_test(plan: Plan, episodes: Sequence[PilotEpisode]) -> SequentialTest:
    """The test after all whole blocks.

    Args:
        plan: Of the pilot.
        episodes: Those that count, in order.
    """
    test = SequentialTest(plan.per_arm, plan.alpha)
    for start in range(0, len(episodes) - plan.block + 1, plan.block):
        counts = Counter(e.label for e in episodes[start:start + plan.block] if e.succeeds(plan.success))
        test.add_block(counts['A'], counts['B'])
    return test


def verdict_of(plan: Plan, episodes: Sequence[PilotEpisode], test: SequentialTest) -> str:
    """What may be said now: ``running`` until something ends the pilot.

    Args:
        plan: Of the pilot.
        episodes: All that were played, lost ones among them.
        test: After those that count.
    """
    finished = [episode for episode in episodes if not episode.lost]
    if reason := _stop_reason(plan, episodes, finished):
        return f'stopped: {reason}'
    low, high = test.interval
    if test.intervals and low >= 0.0:
        return 'B better'
    if test.intervals and high <= 0.0:
        return 'A better'
    if plan.stop.no_difference and -plan.difference < low and high < plan.difference:
        return 'no difference that matters'
    if len(finished) >= plan.max_episodes:
        return 'no difference shown by the end'
    return RUNNING


def _stop_reason(plan: Plan, episodes: Sequence[PilotEpisode], finished: Sequence[PilotEpisode]) -> str:
    """Which stop criterion is met; empty for none."""
    stop = plan.stop
    lost = 0
    for episode in reversed(episodes):
        if not episode.lost:
            break
        lost += 1
    if lost >= stop.max_lost_in_a_row:
        return f'the line could not finish an episode {lost} times in a row ({episodes[-1].lost})'
    minutes = sum(episode.cycle_s for episode in finished) / 60
    if stop.max_minutes and minutes >= stop.max_minutes:
        return f'{minutes:.1f} minutes of episodes have reached max_minutes'
    stops = sum(episode.stops for episode in episodes)
    if stop.max_stops and stops >= stop.max_stops:
        return f'the arm was stopped {stops} times, which max_stops does not allow more often'
    for label in LABELS:
        own = [episode.succeeds(plan.success) for episode in finished if episode.label == label]
        last = own[-stop.max_failures_in_a_row:] if stop.max_failures_in_a_row else []
        if last and len(last) == stop.max_failures_in_a_row and not any(last):
            return f'{label} failed {len(last)} times in a row'
    return ''


def figures(plan: Plan, episodes: Sequence[PilotEpisode]) -> dict[str, Any]:
    """Figures of one checkpoint, as JSON holds them; means are per episode.

    Args:
        plan: Of the pilot.
        episodes: Those of the checkpoint that count.
    """
    n, successes = len(episodes), sum(episode.succeeds(plan.success) for episode in episodes)
    minutes = sum(episode.cycle_s for episode in episodes) / 60
    counts = {name: sum(getattr(episode, name) for episode in episodes) for name in (
        'approvals', 'rejections', 'corrections', 'stops', 'interventions', 'gate_hits', 'turns')}
    kpi = Counter[str]()
    for episode in episodes:
        kpi.update(episode.kpi)
    return {
        'episodes': n, 'successes': successes, 'success': successes / n if n else None,
        'ci95': list(wilson_interval(successes, n)), 'machine_minutes': minutes,
        'cycle_s': 60 * minutes / n if n else None, 'return': sum(e.total_reward for e in episodes) / n if n else None,
        **counts, 'interventions_per_hour': counts['interventions'] / (minutes / 60) if minutes else None,
        'kpi_sums': dict(kpi), 'kpi': {name: value / n for name, value in kpi.items()},
        'checkpoint': next((episode.checkpoint for episode in episodes if episode.checkpoint), ''),
    }


def decide(plan: Plan, episodes: Sequence[PilotEpisode]) -> dict[str, Any]:
    """The content of decision.json.

    Args:
        plan: Of the pilot.
        episodes: All that were played, lost ones among them.
    """
    finished = [episode for episode in episodes if not episode.lost]
    test = sequential_test(plan, finished)
    by_label = {label: figures(plan, [e for e in finished if e.label == label]) for label in LABELS}
    rows = cost_sheet(plan.costs, by_label['A'], by_label['B'])
    return {
        'verdict': verdict_of(plan, episodes, test), 'plan_sha256': plan.digest(), 'episodes': len(finished),
        'lost': len(episodes) - len(finished), 'A': by_label['A'], 'B': by_label['B'],
        'difference': {'interval': list(test.interval), 'e_value': test.e_value, 'alpha': plan.alpha,
                       'blocks': len(test.intervals), 'intervals': [list(interval) for interval in test.intervals]},
        'costs': [dataclasses.asdict(row) for row in rows], 'plan': dataclasses.asdict(plan),
    }
