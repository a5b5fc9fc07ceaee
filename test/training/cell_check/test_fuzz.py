"""Nothing unsafe passes the rules, and the checker that says so would notice if a rule were a little looser."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.cell_check.check_setup import CheckSetup
from training.cell_check.fuzz import begun, fuzz, write_strict_cell
from training.cell_check.independent_checker import IndependentChecker
from training.cell_check.proposals import Proposal, Proposals
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.safety import SafetyRules


@pytest.fixture(scope='module')
def strict(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return load_cell(str(write_strict_cell('panda_table', tmp_path_factory.mktemp('fuzz'))))


@pytest.fixture(scope='module')
def proposals(strict: Cell) -> list[Proposal]:
    return list(itertools.islice(Proposals(strict, Kinematics(strict), 3), 2500))


@pytest.fixture(scope='module')
def checker(strict: Cell) -> IndependentChecker:
    return IndependentChecker(Path(strict.path), strict.urdf_path)


def first_problems(rules: SafetyRules, checker: IndependentChecker, proposals: list[Proposal]) -> set[str]:
    """What the checker finds wrong with the first proposal that should not have passed; nothing if there is none."""
    for proposal in proposals:
        counts = fuzz(rules, checker, [proposal])
        if counts['unsafe']:
            return {name.partition(': ')[2] for name in counts} - {'', 'forwarded'}
    return set()


def test_the_part_fuzzes_close_to_the_limits_and_nothing_unsafe_passes(tmp_path: Path) -> None:
    with begun(CheckSetup(seed=1, quick=True, folder=tmp_path)) as finish:
        found = finish()
    assert found['fuzzed'] == 2300
    assert found['through the node'] == 300
    assert found['unsafe'] == 0
    assert found['near a limit'] > 500
    assert 200 < found['forwarded'] < 1800
    assert found['clamped'] > 100


def test_the_same_seed_gives_the_same_proposals(strict: Cell) -> None:
    kinematics = Kinematics(strict)
    first, second = (list(itertools.islice(Proposals(strict, kinematics, 5), 50)) for _ in range(2))
    for a, b in zip(first, second):
        assert a.kind == b.kind
        assert a.trajectory.positions.tobytes() == b.trajectory.positions.tobytes()


@pytest.mark.parametrize(('section', 'changes'), [
    ('robot', {'max_velocity': 1.05}), ('robot', {'max_acceleration': 1.05}),
    ('safety', {'max_tool_speed': 1.05}), ('safety', {'max_gripper_force': 1.05}),
    ('safety', {'max_start_error': 1.05}), ('safety', {'max_image_age_s': 1.05}),
    ('safety', {'max_rate_hz': 1.05}), ('safety', {'jump_time_s': 1.05}),
])
def test_the_checker_notices_a_limit_that_is_five_percent_too_lax(
        strict: Cell, proposals: list[Proposal], checker: IndependentChecker, section: str, changes: dict[str, float]
        ) -> None:
    old = getattr(strict, section)
    lax: dict[str, Any] = {key: tuple(np.multiply(getattr(old, key), factor)) if section == 'robot'
                           else getattr(old, key) * factor for key, factor in changes.items()}
    rules = SafetyRules(replace(strict, **{section: replace(old, **lax)}), Kinematics(strict))
    assert first_problems(rules, checker, proposals)


@pytest.mark.parametrize('changes', [
    {'high': (0.83, 0.44, 0.84)}, {'low': (0.23, -0.44, -0.02)}, {'keep_out': ()}])
def test_the_checker_notices_a_place_that_is_a_few_centimetres_too_large(
        strict: Cell, proposals: list[Proposal], checker: IndependentChecker, changes: dict[str, Any]) -> None:
    rules = SafetyRules(replace(strict, workspace=replace(strict.workspace, **changes)), Kinematics(strict))
    assert first_problems(rules, checker, proposals)


def test_the_checker_notices_joint_limits_that_are_too_wide(strict: Cell, proposals: list[Proposal],
                                                            checker: IndependentChecker) -> None:
    kinematics = Kinematics(strict)
    kinematics.upper[:7] += 0.01
    assert first_problems(SafetyRules(strict, kinematics), checker, proposals)


def test_the_checker_notices_that_collisions_are_not_judged(strict: Cell, proposals: list[Proposal],
                                                            checker: IndependentChecker) -> None:
    rules = SafetyRules(replace(strict, safety=replace(strict.safety, collision=False)), Kinematics(strict))
    assert first_problems(rules, checker, proposals) & {'table', 'self-collision', 'keep-out by a link'}
