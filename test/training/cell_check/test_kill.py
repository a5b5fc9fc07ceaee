"""The kill part on real processes: a gate and an audit log are killed, are named, and come back."""

import json
import random
from types import SimpleNamespace

from training.cell_check import kill
from training.cell_check.check_setup import CheckSetup
from vlm_agent_ros.errors import UserError


def test_a_killed_gate_and_a_killed_audit_log_are_named_and_nothing_moves_that_should_not(tmp_path):
    """Seed 1 draws these two, which start faster than an agent."""
    figures = kill.run(CheckSetup(seed=1, quick=True, folder=tmp_path))
    trials = [json.loads(line) for line in (tmp_path / 'kill' / 'trials.jsonl').read_text().splitlines()]
    assert [trial['victim'] for trial in trials] == ['gate', 'audit']
    assert figures['kill_trials'] == 2
    for trial in trials:  # a busy machine may be late, but nobody may be silent
        assert trial['named_s'] is not None and trial['held'] and 'before the kill' not in trial['wrong'], trial


def test_a_cell_that_does_not_get_back_to_work_is_one_bad_trial_and_not_the_end_of_the_check(tmp_path, monkeypatch):
    """Where the bench is a stand-in: what counts is what becomes of the trial, and that every process begins anew."""
    done = []
    bench = object.__new__(kill.Bench)
    bench._processes = SimpleNamespace(spin=lambda s: None, exit_reason=lambda name: 'killed',
                                       kill=lambda name: done.append(('kill', name)),
                                       restart=lambda name: done.append(('restart', name)))
    bench._folder, bench._rng, bench._witness = tmp_path, random.Random(0), SimpleNamespace(forget=lambda: None)
    answers = iter([UserError('the arm does not move again within 90 s: see the logs'), None])

    def at_work():
        if (error := next(answers)) is not None:
            raise error

    monkeypatch.setattr(bench, '_at_work', at_work)
    monkeypatch.setattr(bench, '_named', lambda victim, killed: 0.5)
    monkeypatch.setattr(bench, '_held', lambda victim, killed: '')
    monkeypatch.setattr(kill, 'check_log_after_kill', lambda folder, killed_ns: '')
    assert bench.trial('gate').wrong == 'the arm does not move again within 90 s: see the logs'
    assert done[:2] == [('kill', 'gate'), ('restart', 'gate')]
    assert set(done[2:]) == {(what, name) for what in ('kill', 'restart') for name in kill.VICTIMS}
