"""What evaluations of the same episodes say about the difference between two policies.

Every figure is of pairs: an episode that both finished, by its suite and its seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vlm_agent_ros.errors import UserError

from .evaluate import Suite
from .evaluator import plan_of, suite_of
from .statistics import bootstrap_interval, holm, mcnemar_p, paired_share_interval, sign_flip_p

MEASURES = ('success', 'return', 'turns')

Record = Mapping[str, Any]
"""An entry of ``suites`` in the result of an evaluation."""


def check_paired(plans: Sequence[tuple[str, Mapping[Suite, Sequence[int]]]]) -> None:
    """Refuse results that were not made on the same episodes.

    Args:
        plans: Name of each result, and the seeds of each of its suites.

    Raises:
        UserError: Naming the two and what differs.
    """
    (first, expected), *others = plans
    for name, plan in others:
        if set(plan) != set(expected):
            mine, theirs = (', '.join(sorted(map(str, p))) for p in (expected, plan))
            raise UserError(f'{first} was evaluated on {mine}, but {name} on {theirs}: only the same tasks and worlds '
                            'can be paired')
        for suite, seeds in plan.items():
            if sorted(seeds) != sorted(expected[suite]):
                raise UserError(f'{first} and {name} were evaluated on different seeds of {suite} '
                                f'({_span(expected[suite])}; {_span(seeds)}): evaluate both with the same --episodes')


def check_same_worlds(worlds: Sequence[tuple[str, Mapping[Suite, str]]]) -> None:
    """Refuse results of which one was made before a world file was changed: the same seeds are other scenes there.

    Args:
        worlds: Name of each result, and ``evaluator.worlds_of`` it.

    Raises:
        UserError: Naming the two and the world.
    """
    for (first, expected), (name, found) in itertools.combinations(worlds, 2):
        for suite in expected.keys() & found.keys():
            if expected[suite] and found[suite] and expected[suite] != found[suite]:
                raise UserError(f'{first} and {name} were not evaluated in the same {suite.world}: its world file or '
                                'cell file has been changed in between; evaluate both anew')


def compare(evaluations: Mapping[str, Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Every pair of policies on every suite.

    p-values of one measure are corrected together (Holm) over all pairs and suites.

    Args:
        evaluations: Results by label, on the same suites and seeds.
        seed: Of resampling.

    Returns:
        The content of compare.json.

    Raises:
        UserError: A pair has no episode that both finished.
    """
    records = {label: {suite_of(record): record for record in evaluation['suites']}
               for label, evaluation in evaluations.items()}
    suites = []
    for suite in plan_of(next(iter(evaluations.values()))):
        pairs = [_pair(suite, a, b, records[a][suite], records[b][suite], seed)
                 for a, b in itertools.combinations(records, 2)]
        results = {label: {key: value for key, value in by_suite[suite].items() if key != 'episodes'}
                   for label, by_suite in records.items()}
        suites.append({**asdict(suite), 'results': results, 'pairs': pairs})
    everything = [pair for suite_entry in suites for pair in suite_entry['pairs']]
    for measure in MEASURES:
        for pair, p in zip(everything, holm([pair[measure]['p'] for pair in everything])):
            pair[measure]['p_holm'] = p
    return {
        'models': {label: {key: value for key, value in evaluation.items() if key != 'suites'}
                   for label, evaluation in evaluations.items()},
        'tests': len(everything), 'resampling_seed': seed, 'suites': suites,
    }


def _pair(suite: Suite, label_a: str, label_b: str, a: Record, b: Record, seed: int) -> dict[str, Any]:
    first, second = ({episode['seed']: episode for episode in record['episodes']} for record in (a, b))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise UserError(f'{label_a} and {label_b} have no finished episode of {suite} in common: evaluate them anew')
    solved = [(bool(first[s]['success']), bool(second[s]['success'])) for s in seeds]
    only_a = [s for s, outcome in zip(seeds, solved) if outcome == (True, False)]
    only_b = [s for s, outcome in zip(seeds, solved) if outcome == (False, True)]
    counts = {'n': len(seeds), 'both': solved.count((True, True)), 'only_a': len(only_a), 'only_b': len(only_b),
              'neither': solved.count((False, False))}

    def measure(name: str, interval: Callable[[Sequence[float]], tuple[float, float]],
                p: Callable[[Sequence[float]], float]) -> dict[str, Any]:
        values_a, values_b = ([float(episodes[s][name]) for s in seeds] for episodes in (first, second))
        differences = np.subtract(values_b, values_a).tolist()
        return {'a': float(np.mean(values_a)), 'b': float(np.mean(values_b)), 'difference': float(np.mean(differences)),
                'ci95': list(interval(differences)), 'p': p(differences)}

    resampled = {name: measure(name, lambda d: bootstrap_interval(d, seed), lambda d: sign_flip_p(d, seed))
                 for name in MEASURES[1:]}
    success = measure('success', lambda _: paired_share_interval(len(only_a), len(only_b), len(seeds)),
                      lambda _: mcnemar_p(len(only_a), len(only_b)))
    return {'a': label_a, 'b': label_b, **counts, 'success': success, **resampled, 'seeds_only_a': only_a,
            'seeds_only_b': only_b}


def _span(seeds: Sequence[int]) -> str:
    return f'{len(seeds)} seeds from {min(seeds)} to {max(seeds)}' if seeds else 'none'
