"""The update part measures both ways on the same decisions, and both come to the same weights."""

import json

import pytest

from training.bench import update
from training.bench.bench_setup import BenchSetup


@pytest.mark.timeout(600)  # three processes load PyTorch and the model, one after the other
def test_both_updates_are_measured_and_agree(tmp_path):
    found = update.run(BenchSetup(seed=0, repeats=1, quick=True, folder=tmp_path))
    figures = found.figures
    assert figures['speedup'] > 0.0 and 0.0 < figures['memory_ratio'] < 2.0
    assert figures['difference'] < 1e-2 and figures['logprob_error'] < 1e-4
    assert set(figures['peak_memory_mib']) >= {'ours', 'straightforward'}
    assert all(mib > 0.0 for mib in figures['peak_memory_mib'].values())
    assert len(found.rows) == 3 and json.dumps(figures)
    assert not list(tmp_path.glob('**/*.pickle'))
