"""The cluster part of the benchmark: what it says of the engines was measured on them."""

import pytest

from training.bench import cluster
from training.bench.bench_setup import BenchSetup


def test_the_share_of_the_worlds_leaves_some_to_the_policy_and_every_rate_is_measured(tmp_path):
    figures = cluster.run(BenchSetup(seed=1, repeats=1, quick=True, folder=tmp_path)).figures
    assert 0.0 < figures['world_share'] < 1.0
    assert figures['speedup'] > 0 and all(speed > 0 for speed in figures['decisions_per_second'].values())
    assert all(rate > 0 for rate in figures['rates'].values())
    assert [point['workers'] for point in figures['plan']] == [1, 8, 64, 512]


def test_the_policy_is_where_those_of_the_workers_are(tmp_path, monkeypatch):
    def load(name, *, device, **settings):
        assert device == 'cpu'
        raise InterruptedError

    monkeypatch.setattr('vlm_agent_ros.checkpoint.load_policy', load)
    with pytest.raises(InterruptedError):
        cluster.run(BenchSetup(seed=1, repeats=1, quick=True, folder=tmp_path))
