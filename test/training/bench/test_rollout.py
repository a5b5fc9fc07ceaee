"""The rollout part of the benchmark: every contender does the work that it is said to do."""

import math

import pytest

from training.bench import rollout
from training.bench.bench_setup import BenchSetup
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.errors import UserError


@pytest.fixture(scope='module')
def policy():
    return load_policy('tiny_vlm', device='cpu')


@pytest.fixture(scope='module')
def inputs(policy):
    commander = rollout.commanders(policy.prompt)(rollout.WORLD)
    return [commander.observe(observation, '') for observation in rollout.first_observations(2, seed=3)]


def test_figures_have_every_number_that_is_promised(tmp_path):
    found = rollout.run(BenchSetup(seed=1, repeats=1, quick=True, folder=tmp_path))
    for name in ('vs_paper_loop', 'vs_generate', 'of_limit'):
        assert found.figures[name] > 0 and math.isfinite(found.figures[name])
    for thoughts in ('long_thoughts', 'short_thoughts'):
        assert all(rate > 0 for rate in found.figures[thoughts]['worlds_2']['decisions_per_s'].values())
    assert found.figures['long_thoughts']['worlds_2']['tokens']['mean'] > (
        found.figures['short_thoughts']['worlds_2']['tokens']['mean'])
    assert [target for *_, target in found.rows if target] == ['10', '3', '60 %']


def test_a_model_that_the_engine_does_not_write_with_is_refused(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(rollout, 'load_policy', lambda *_, **__: policy)
    monkeypatch.setattr(policy.loop, 'serves', False)
    with pytest.raises(UserError, match='some_model has a cache that the decoding loop does not know'):
        rollout.run(BenchSetup(seed=1, repeats=1, quick=True, folder=tmp_path, model='some_model'))


def test_contenders_write_as_many_tokens_as_the_engine(policy, inputs):
    encoded, written = rollout.generate(policy, inputs, 9)
    assert written.shape == (2, 9) and encoded['input_ids'].shape[0] == 2
    logprob, value = rollout.paper_decision(policy, inputs[0], 9)
    assert logprob < 0 and value.isfinite().all()


def test_the_limit_makes_the_passes_of_the_engine_and_leaves_the_weights_as_they_were(policy, inputs):
    decisions, steps = rollout._counting_steps(policy, inputs)
    assert 0 < steps < max(len(decision.token_ids) for decision in decisions)  # forced tokens are not computed
    passes = rollout.limit(policy, inputs, steps)
    before = [parameter.clone() for parameter in policy.model.parameters()]
    passes()
    assert all(old.equal(new) for old, new in zip(before, policy.model.parameters()))
    assert [d.text for d in rollout._decide(policy, inputs)] == [d.text for d in decisions]
