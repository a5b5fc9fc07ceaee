"""The decoding loop: whatever it spares, the same tokens come out with the same probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vlm_agent_ros.actions import DiscreteLanguage
from vlm_agent_ros.policy import generation, sampling
from vlm_agent_ros.policy.generation import traced

SEEDS = [11, 12, 13, 14, 15]


def decide(policy, inputs, seeds=SEEDS):
    return policy.decide(inputs, temperature=0.8, seeds=seeds)


def assert_same(ours, theirs, atol=1e-4):
    for own, other in zip(ours, theirs, strict=True):
        assert own.text == other.text and own.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(own.token_logprobs, other.token_logprobs, atol=atol)
        assert own.value == pytest.approx(other.value, abs=atol)


@pytest.fixture
def steps(monkeypatch):
    """Rows and tokens of every step that the loop takes, in a list that grows."""
    taken, own = [], generation.DecodingLoop.step

    def step(loop, arguments):
        taken.append(tuple(arguments[0].shape))
        return own(loop, arguments)

    monkeypatch.setattr(generation.DecodingLoop, 'step', step)
    return taken


@pytest.mark.parametrize('constrained', [True, False])
def test_the_loop_writes_what_generate_writes(make_policy, inputs, steps, monkeypatch, constrained):
    policy = make_policy(constrained)
    ours = decide(policy, inputs)
    assert steps
    steps.clear()
    monkeypatch.setattr(policy.loop, 'prefill', lambda encoded: None)
    assert_same(ours, decide(policy, inputs))
    assert not steps


def test_a_cache_that_is_more_than_keys_and_values_is_left_to_generate(make_policy, inputs, steps, monkeypatch):
    policy = make_policy()
    expected = decide(policy, inputs)
    steps.clear()
    asked = []
    monkeypatch.setattr(generation, 'holds_everything', lambda cache: asked.append(cache) or False)
    for _ in range(2):
        assert_same(decide(policy, inputs), expected)
    assert not steps
    assert len(asked) == 1, 'the prompts are read in vain once, not with every decision'


def test_a_model_that_computes_something_else_from_our_positions_is_left_to_generate(make_policy, inputs, steps):
    policy, other = make_policy(), make_policy()
    expected = decide(policy, inputs)
    steps.clear()
    own = other.loop.masks
    other.loop.masks = lambda valid, tokens: tuple(mask & (torch.arange(mask.shape[-1]) > 3)
                                                   for mask in own(valid, tokens))
    assert_same(decide(other, inputs), expected)
    assert not steps


def test_rows_of_one_scene_are_read_once_and_written_apart(make_policy, inputs, monkeypatch):
    policy = make_policy()
    group = [inputs[0], inputs[1], inputs[0], dataclasses.replace(inputs[0], image=inputs[0].image.copy()), inputs[2]]
    read, own = [], policy.encoder.encode
    monkeypatch.setattr(policy.encoder, 'encode', lambda images, *rest: read.append(len(images)) or own(images, *rest))
    together = decide(policy, group)
    assert read == [3]
    assert_same(together, [decide(policy, [given], [seed])[0] for given, seed in zip(group, SEEDS)])
    assert len({decision.text for decision in (together[0], together[2], together[3])}) == 3


def test_forced_tokens_are_read_in_one_step_and_are_certain(make_policy, inputs, steps):
    policy = make_policy(max_thought_chars=0)
    only = DiscreteLanguage(['zebra quux 17'])  # no tokens of its own: the grammar leaves choices of spelling only
    given = dataclasses.replace(inputs[0], language=only)
    decision = decide(policy, [given], SEEDS[:1])[0]
    counts = policy.constraint.replay(decision.token_ids, policy._regex(only)).sum(axis=1)
    assert (decision.token_logprobs[counts == 1] == 0).all()
    # Every choice needs a pass, the first of them the prefill; nothing is read after the last.
    assert len(steps) == max(0, int((counts > 1).sum()) - 1 + int(counts[0] == 1))
    np.testing.assert_allclose(policy.evaluate([given], [decision], 0.8).logprobs[0].detach(), decision.token_logprobs,
                               atol=1e-4)


def test_rows_with_different_numbers_of_forced_tokens_are_written_as_the_update_sees_them(make_policy, inputs, steps):
    policy = make_policy(max_thought_chars=0)
    # After the first letter there is one way on, in some of the rows.
    languages = [DiscreteLanguage(['a' + '\u00e9' * 6 + 'b', 'c' + '\u00e9' * 6 + 'd']), None]
    for rows in ([languages[0]] * 3, languages):
        given = [dataclasses.replace(i, language=language) for i, language in zip(inputs, rows)]
        steps.clear()
        decisions = decide(policy, given, SEEDS[:len(given)])
        evaluation = policy.evaluate(given, decisions, 0.8)
        for row, decision in enumerate(decisions):
            assert decision.legal
            np.testing.assert_allclose(evaluation.logprobs[row, :len(decision.token_ids)].detach(),
                                       decision.token_logprobs, atol=1e-4)
        assert any(tokens > 1 for _, tokens in steps)
        assert sum(tokens for _, tokens in steps) < max(len(decision.token_ids) for decision in decisions)


@pytest.mark.parametrize(('dtype', 'off', 'serves'), [
    (torch.float32, 2.0**-7, False), (torch.bfloat16, 2.0**-7, True), (torch.bfloat16, 0.5, False)])
def test_the_loop_is_taken_where_it_differs_from_the_model_by_no_more_than_rounding(make_policy, inputs, monkeypatch,
                                                                                    dtype, off, serves):
    """Kernels of one row and of many may round to either of two neighbours, which 2^-7 of a number are in bfloat16."""
    policy = make_policy()
    policy.model.to(dtype)
    forward = policy.loop._forward
    monkeypatch.setattr(policy.loop, '_forward', lambda *arguments: forward(*arguments) * (1.0 + off))
    policy.loop.prefill(policy.encoder.encode([i.image for i in inputs], [i.prompt for i in inputs]))
    assert policy.loop.serves == serves


def test_rows_that_have_ended_are_dropped_from_the_batch(make_policy, inputs, steps):
    policy = make_policy()
    short = [dataclasses.replace(i, language=DiscreteLanguage(['done'])) if place else i
             for place, i in enumerate(inputs)]
    together = decide(policy, short)
    rows = [rows for rows, _ in steps]
    assert rows == sorted(rows, reverse=True) and rows[0] == 5 and rows[-1] < 5
    assert_same(together, [decide(policy, [given], [seed])[0] for given, seed in zip(short, SEEDS)])


def test_an_output_that_outgrows_what_was_allocated_goes_on(make_policy, inputs, monkeypatch):
    expected = decide(make_policy(), inputs)
    monkeypatch.setattr('vlm_agent_ros.policy.kv_cache._BLOCK', 2)
    assert_same(decide(make_policy(), inputs), expected)


def test_a_trace_changes_nothing_and_follows_the_weights(make_policy, inputs, monkeypatch):
    monkeypatch.setattr(generation, '_TRACE_AFTER', 3)
    policy, plain = make_policy(), make_policy()
    monkeypatch.setattr(plain.loop, '_steps', 1000)  # past the step that is traced
    for _ in range(2):
        for own, other in zip(decide(policy, inputs), decide(plain, inputs)):
            assert own.text == other.text and np.array_equal(own.token_logprobs, other.token_logprobs)
        assert policy.loop._traced is not None and plain.loop._traced is None
        with torch.no_grad():
            for changed in (policy, plain):
                for parameter in changed.adapter_parameters():
                    parameter.mul_(1.5)
    assert all(parameter.requires_grad for parameter in policy.adapter_parameters())


def test_a_graph_that_is_not_the_function_is_not_taken(make_policy, inputs):
    layer = torch.nn.Linear(1, 1)
    arguments = (torch.zeros(2, 1), torch.zeros(2, 1), (torch.ones(2, 1, 1, 5, dtype=torch.bool),),
                 *(torch.zeros(2, 1, 5, 3) for _ in range(2)))

    def by_shape(ids, positions, masks, *views):
        return layer(ids) * (2 if len(ids) == 2 else 3)  # a trace holds one of both

    def plain(ids, positions, masks, *views):
        return layer(ids) + views[0].sum()

    with torch.no_grad():
        assert traced(by_shape, layer, arguments) is None
        assert traced(plain, layer, arguments) is not None


def test_a_token_is_forced_where_its_bit_is_the_only_one(make_policy, inputs, monkeypatch):
    bits = np.zeros((6, 40), bool)
    for row, tokens in enumerate([[], [0], [39], [8, 9], [3, 20], [17]]):
        bits[row, tokens] = True
    packed = np.packbits(bits, axis=1, bitorder='little')
    assert sampling._holds_one(packed).tolist() == [False, True, True, False, False, True]
    assert sampling._holds_one(packed[:0]).tolist() == []
    policy = make_policy()
    expected = decide(policy, inputs)
    monkeypatch.delattr(np, 'bitwise_count', raising=False)  # which the NumPy of ROS 2 Jazzy (1.26) has not
    assert_same(expected, decide(policy, inputs), atol=0.0)
