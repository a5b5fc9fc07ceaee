"""What a fuzzed gate process commands is seen and judged: a gate that is too lax, or not alone, is found out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trajectory_msgs.msg import JointTrajectory

from training.cell_check import node_fuzz
from training.cell_check.bench import Bench
from training.cell_check.check_setup import CheckSetup
from training.cell_check.fuzz import write_strict_cell
from training.cell_check.independent_checker import IndependentChecker
from training.cell_check.node_fuzz import SECTIONS, fuzz_node, is_sendable
from training.cell_check.proposals import Proposal, Proposals
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.nodes import interface

_COUNT = 150


@pytest.fixture(scope='module')
def strict(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return load_cell(str(write_strict_cell('panda_table', tmp_path_factory.mktemp('node_fuzz'))))


@pytest.fixture(scope='module')
def lax_counts(strict: Cell, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """Of a gate that knows laxer limits than the checker, beside which somebody else commands the arm once."""
    setup = CheckSetup(seed=0, quick=True, folder=tmp_path_factory.mktemp('lax'), cell=strict.path)
    limits = strict.safety
    lax = {'velocity_tolerance': limits.velocity_tolerance + 0.1, 'max_image_age_s': 1.5 * limits.max_image_age_s,
           'acceleration_tolerance': limits.acceleration_tolerance + 0.1}
    with Bench(setup, 'lax', safety={**SECTIONS['safety'], **lax}, autonomy=SECTIONS['autonomy']) as bench:
        other = bench.processes.node.create_publisher(JointTrajectory, interface.ARM_COMMAND, interface.COMMAND_QOS)

        def proposals() -> Iterator[Proposal]:
            source = (proposal for proposal in Proposals(strict, Kinematics(strict), 7) if is_sendable(proposal))
            near = (proposal for proposal in source if proposal.kind in ('speed', 'age'))
            for number, proposal in enumerate(itertools.islice(near, _COUNT)):
                if number == _COUNT // 2:
                    other.publish(JointTrajectory())
                yield proposal

        return fuzz_node(bench, IndependentChecker(Path(strict.path), strict.urdf_path), proposals())


def test_commands_of_a_gate_with_laxer_limits_are_unsafe(lax_counts: Counter[str]) -> None:
    assert lax_counts['through the node'] == _COUNT
    assert {name.rpartition(': ')[2] for name in lax_counts} >= {'velocity', 'acceleration', 'image_s'}
    assert 3 <= lax_counts['unsafe'] <= lax_counts['forwarded']


def test_a_command_that_no_verdict_announced_is_unsafe(lax_counts: Counter[str]) -> None:
    assert sum(count for name, count in lax_counts.items() if name.endswith('unannounced')) == 1


def test_only_what_stamps_and_durations_can_say_is_sent(strict: Cell) -> None:
    drawn = list(itertools.islice(Proposals(strict, Kinematics(strict), 7), 1000))
    sent = list(filter(is_sendable, drawn))
    assert 800 < len(sent) < 1000
    assert {proposal.kind for proposal in sent} == {proposal.kind for proposal in drawn}
    for proposal in sent:
        assert np.abs(proposal.trajectory.times_ns * 1e-9).max(initial=0.0) < 2**31
        assert np.isfinite([proposal.ages.image_s, proposal.ages.joint_s]).all()


def test_a_gate_that_forwards_next_to_nothing_proves_nothing(strict: Cell, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_fuzz, '_QUICK', 50)
    monkeypatch.setitem(SECTIONS, 'safety', {**SECTIONS['safety'], 'max_duration_s': 0.1, 'policy': {}})
    with pytest.raises(UserError, match=r'forwarded only [0-4] of 50 proposals'):
        node_fuzz.run(CheckSetup(seed=0, quick=True, folder=tmp_path), strict.path)
