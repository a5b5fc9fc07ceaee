"""The kill part on real processes: a gate and an audit log are killed, are named, and come back."""

import json

from training.cell_check import kill
from training.cell_check.check_setup import CheckSetup


def test_a_killed_gate_and_a_killed_audit_log_are_named_and_nothing_moves_that_should_not(tmp_path):
    """Seed 1 draws these two, which start faster than an agent."""
    figures = kill.run(CheckSetup(seed=1, quick=True, folder=tmp_path))
    trials = [json.loads(line) for line in (tmp_path / 'kill' / 'trials.jsonl').read_text().splitlines()]
    assert [trial['victim'] for trial in trials] == ['gate', 'audit']
    assert figures['kill_trials'] == 2
    for trial in trials:  # a busy machine may be late, but nobody may be silent
        assert trial['named_s'] is not None and trial['held'] and 'before the kill' not in trial['wrong'], trial
