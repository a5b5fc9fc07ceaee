"""Plans and episodes of pilots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.pilot.costs import Costs
from training.pilot.plan import Plan
from training.pilot.results import PilotEpisode


@pytest.fixture
def plan_file(tmp_path: Path) -> Callable[..., str]:
    """Write a plan; keywords replace what it says."""
    def write(**changes: Any) -> str:
        content = {'a': 'one', 'b': 'other', 'tasks': ['place'], 'max_episodes': 100, 'difference': 0.39, **changes}
        path = tmp_path / 'plan.yaml'
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.fixture
def play() -> Callable[[Plan, Iterable[bool], Iterable[bool]], list[PilotEpisode]]:
    """Episodes in the order of a plan, with what A and B reach in theirs."""
    def played(plan: Plan, a: Iterable[bool], b: Iterable[bool], **fields: Any) -> list[PilotEpisode]:
        outcomes = {'A': iter(a), 'B': iter(b)}
        episodes: list[PilotEpisode] = []
        while (reached := next(outcomes[label := plan.label(len(episodes))], None)) is not None:
            episodes.append(PilotEpisode(len(episodes), label, f'weights of {label}', plan.task(len(episodes)), 0.0,
                                         reached=reached, turns=2, cycle_s=30.0, **fields))
        return episodes

    return played


COSTS = Costs(operator_per_hour=60.0, machine_per_hour=30.0, operator_share=0.1, minutes_per_intervention=3.0,
              parts_per_episode=2.0, value_per_good_part=1.0, cost_per_defect=2.0, cost_per_false_alarm=0.5,
              one_off_a=100.0, one_off_b=1000.0, hours_per_year=1000.0)
