"""The parts of the cell check that time the gate: on a real process, with too few trials to mean much."""

from training.cell_check import latency, stop
from training.cell_check.check_setup import CheckSetup


def test_latency_is_that_of_proposals_that_were_forwarded(tmp_path):
    figures = latency.run(CheckSetup(seed=0, quick=True, folder=tmp_path))
    assert 0.0 < figures['gate_ms_p50'] <= figures['gate_ms_p99'] < 1000.0


def test_stop_ends_a_stream_of_commands_and_holds(tmp_path):
    figures = stop.run(CheckSetup(seed=0, quick=True, folder=tmp_path))
    assert figures['stop_trials'] == 10
    assert 0.0 <= figures['stop_ms_p99'] < 1000.0
    assert 0.0 < figures['hold_ms_p99'] < 1000.0
