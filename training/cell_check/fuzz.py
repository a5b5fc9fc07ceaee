"""Part ``fuzz``: proposals of every kind through rules and gate, and what passes through the independent checker."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.limits import CLAMPABLE
from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.safety import SafetyRules

from . import node_fuzz
from .check_setup import CheckSetup, Figures
from .independent_checker import IndependentChecker
from .proposals import NEAR, Proposal, Proposals

_PROPOSALS, _QUICK = 1_000_000, 2_000
_CHUNK = 5_000
_PROCESSES = 2


@contextmanager
def begun(setup: CheckSetup) -> Iterator[Callable[[], Figures]]:
    """Fuzz the rules of the cell, and of the same cell with a keep-out box, tighter limits and every clamp.

    That begins at once, in processes which take only the time that nobody else wants: it needs half an hour of
    computing, and other parts wait more than they compute.

    Yields:
        What waits for it, fuzzes a gate process of the second cell with a hundredth as many more, and returns the
        figures. It raises UserError where the gate does not come up, does not answer, stops, or forwards too little to
        judge it by.
    """
    folder = setup.folder / 'fuzz'
    folder.mkdir(parents=True, exist_ok=True)
    cells = [load_cell(setup.cell).path, str(write_strict_cell(setup.cell, folder))]
    total = _QUICK if setup.quick else _PROPOSALS
    size = min(_CHUNK, total // len(cells))
    chunks = [(cells[i % len(cells)], (setup.seed, i), size) for i in range(total // size)]
    with multiprocessing.get_context('spawn').Pool(1 if setup.quick else _PROCESSES, _give_way) as pool:
        found = pool.imap_unordered(_fuzz_chunk, chunks)

        def finish() -> Figures:
            counts = sum(found, Counter[str]()) + node_fuzz.run(setup, cells[1])
            for name, count in sorted(counts.items()):
                print(f'fuzz: {name} {count}', file=sys.stderr)
            return {name: counts[name] for name in ('fuzzed', 'unsafe', 'near a limit', 'forwarded', 'clamped',
                                                    'through the node')}

        yield finish


def _give_way() -> None:
    if hasattr(os, 'SCHED_IDLE'):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def fuzz(rules: SafetyRules, checker: IndependentChecker, proposals: Iterable[Proposal]) -> Counter[str]:
    """Put proposals to the rules, and what passes to the checker.

    Returns:
        Counts of ``fuzzed``, ``near a limit``, ``forwarded``, ``clamped`` and ``unsafe``: forwarded although
        the checker finds a limit broken; and of ``kind: problem`` for each of those.
    """
    counts: Counter[str] = Counter()
    for proposal in proposals:
        verdict = rules.judge(proposal.trajectory, proposal.measured, ages=proposal.ages)
        counts.update({'fuzzed': 1, 'near a limit': proposal.kind in NEAR})
        if verdict.trajectory is None:
            continue
        counts.update({'forwarded': 1, 'clamped': bool(verdict.violations), f'{proposal.kind}: forwarded': 1})
        problems = checker.problems_of_ages(asdict(proposal.ages)) \
            + checker.problems(verdict.trajectory, proposal.measured.joint_positions)
        counts.update({'unsafe': bool(problems), **{f'{proposal.kind}: {problem}': 1 for problem in problems}})
    return counts


def write_strict_cell(cell: str, folder: Path) -> Path:
    """A cell file that gives every rule something to do: narrow joints, slow tool, a keep-out box, clamps.

    Args:
        cell: The cell file that it is made from.
        folder: Where it is written.
    """
    loaded = load_cell(cell)
    content: dict[str, Any] = yaml.safe_load(Path(loaded.path).read_text(encoding='utf-8'))
    kinematics, home = Kinematics(loaded), np.array(loaded.robot.home)
    arm = len(home)
    low, high = np.array(loaded.workspace.low), np.array(loaded.workspace.high)
    content['robot'] |= {
        'urdf': str(loaded.urdf_path),
        'min_position': np.append(np.maximum(kinematics.lower[:arm], home - 0.8), kinematics.lower[arm:]).tolist(),
        'max_position': np.append(np.minimum(kinematics.upper[:arm], home + 0.8), kinematics.upper[arm:]).tolist()}
    beside = low + [0.0, 0.7, 0.0] * (high - low)
    content['workspace']['keep_out'] = [
        {'name': 'shelf', 'low': beside.tolist(), 'high': (high - [0.0, 0.0, 0.5] * (high - low)).tolist()}]
    content['safety'] = {**content.get('safety', {}), 'max_tool_speed': 0.4, 'max_gripper_force': 5.0,
                         'policy': dict.fromkeys(CLAMPABLE, 'clamp')}
    path = folder / 'strict_cell.yaml'
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    return path


@lru_cache(maxsize=4)
def _made(path: str) -> tuple[Cell, Kinematics, SafetyRules, IndependentChecker]:
    cell = load_cell(path)
    kinematics = Kinematics(cell)
    return cell, kinematics, SafetyRules(cell, kinematics), IndependentChecker(Path(cell.path), cell.urdf_path)


def _fuzz_chunk(chunk: tuple[str, tuple[int, int], int]) -> Counter[str]:
    path, seed, size = chunk
    cell, kinematics, rules, checker = _made(path)
    return fuzz(rules, checker, itertools.islice(Proposals(cell, kinematics, seed), size))
