"""The policy on a real, very small VLM: what is sampled, what the update recomputes, and what must never happen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vlm_agent_ros.actions import DiscreteLanguage
from vlm_agent_ros.policy.config import LoraSettings
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.sampling import Sampler

SEEDS = [11, 12, 13, 14, 15]


@pytest.mark.parametrize('padding_side', ['left', 'right'])
@pytest.mark.parametrize('constrained', [True, False])
@pytest.mark.parametrize('lora', [LoraSettings(rank=4), None])
def test_the_update_recomputes_the_log_probabilities_and_values_of_sampling(
        make_policy, inputs, padding_side, constrained, lora):
    policy = make_policy(constrained, lora)
    decisions = policy.decide(inputs, temperature=0.7, seeds=SEEDS)
    evaluation = policy.evaluate(inputs, decisions, 0.7, padding_side)
    if constrained:
        assert len({len(d.token_ids) for d in decisions}) > 1
    for row, decision in enumerate(decisions):
        count = len(decision.token_ids)
        np.testing.assert_allclose(evaluation.logprobs[row, :count].detach(), decision.token_logprobs, atol=1e-4)
        assert not evaluation.logprobs[row, count:].any() and not evaluation.entropy[row, count:].any()
        assert evaluation.mask[row].tolist() == [True] * count + [False] * (evaluation.mask.shape[1] - count)
        assert evaluation.thought_mask[row, :count].tolist() == decision.thought_mask.tolist()
        assert evaluation.values[row].item() == pytest.approx(decision.value, abs=1e-4)
    assert evaluation.entropy.isfinite().all() and (evaluation.entropy >= -1e-6).all()


def test_the_value_before_each_token_depends_on_what_was_written_before_it(make_policy, inputs):
    policy = make_policy()
    decisions = policy.decide(inputs, temperature=0.7, seeds=SEEDS)
    left, right = (policy.evaluate(inputs, decisions, 0.7, side, token_values=True) for side in ('left', 'right'))
    assert left.values.shape == left.logprobs.shape
    torch.testing.assert_close(left.values[:, 0], policy.evaluate(inputs, decisions, 0.7).values, rtol=0, atol=1e-6)
    torch.testing.assert_close(left.values[left.mask], right.values[right.mask], rtol=0, atol=1e-4)
    changed = decisions[0].token_ids.copy()
    changed[4] = changed[3]  # seen by the values from the fifth on
    rewritten = dataclasses.replace(decisions[0], token_ids=changed, thought_mask=changed > 0)
    other = policy.evaluate(inputs[:1], [rewritten], 0.7, token_values=True)
    difference = (other.values - left.values[:1, :len(changed)])[0].abs()
    assert difference[:5].max() < 1e-5 < difference[5]


def test_log_probabilities_are_those_of_the_masked_and_tempered_distribution(make_policy, inputs):
    policy = make_policy()
    hot, cold = (policy.decide(inputs[:1], temperature=t, seeds=SEEDS[:1])[0] for t in (2.0, 0.2))
    for decision, temperature in ((hot, 2.0), (cold, 0.2)):
        allowed = policy.constraint.replay(decision.token_ids)
        assert allowed[np.arange(len(allowed)), decision.token_ids].all()
        single = allowed.sum(axis=1) == 1
        assert (decision.token_logprobs[single] == 0).all()  # where the grammar leaves no choice there is no surprise
        other = policy.evaluate(inputs[:1], [decision], temperature * 1.5).logprobs[0].detach().numpy()
        assert np.abs(other - decision.token_logprobs).max() > 1e-2


def test_a_row_depends_on_its_seed_and_not_on_its_batch(make_policy, inputs):
    policy = make_policy()
    together = policy.decide(inputs, temperature=1.0, seeds=SEEDS)
    backwards = policy.decide(inputs[::-1], temperature=1.0, seeds=SEEDS[::-1])[::-1]
    for row in range(len(inputs)):
        alone = policy.decide(inputs[row:row + 1], temperature=1.0, seeds=SEEDS[row:row + 1])[0]
        assert alone.text == together[row].text == backwards[row].text
        np.testing.assert_allclose(alone.token_logprobs, together[row].token_logprobs, atol=1e-4)
    assert policy.decide(inputs[:1], temperature=1.0, seeds=[99])[0].text != together[0].text


def test_every_constrained_output_is_legal(make_policy, inputs):
    policy = make_policy()
    for first in range(0, 20, 5):
        for decision in policy.decide(inputs, temperature=3.0, seeds=range(first, first + 5)):
            assert decision.legal, decision.text
            assert len(decision.thought) <= 30
            policy.language.parse(decision.action)


def test_a_policy_without_chain_of_thought_writes_none(make_policy, inputs):
    for decision in make_policy(max_thought_chars=0).decide(inputs, temperature=1.0, seeds=SEEDS):
        assert decision.legal and decision.thought == '' and not decision.thought_mask.any()


@pytest.mark.parametrize('constrained', [True, False])
def test_special_tokens_are_impossible_however_likely_the_model_holds_them(make_policy, inputs, constrained):
    policy = make_policy(constrained)
    special = [i for i in policy.encoder.special_ids if i != policy.constraint.eos]

    def prefer_special(module: torch.nn.Module, arguments: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_add(-1, torch.tensor(special), torch.full((*logits.shape[:-1], len(special)), 100.0))

    policy.model.get_output_embeddings().register_forward_hook(prefer_special)
    assert policy.encoder.tokenizer.convert_tokens_to_ids('<image>') in special
    decisions = policy.decide(inputs, temperature=1.0, seeds=SEEDS)
    evaluation = policy.evaluate(inputs, decisions, 1.0)
    for row, decision in enumerate(decisions):
        assert not set(special) & set(decision.token_ids.tolist())
        np.testing.assert_allclose(evaluation.logprobs[row, :len(decision.token_ids)].detach(),
                                   decision.token_logprobs, atol=1e-4)


def test_thought_tokens_are_those_whose_text_is_the_thought(make_policy, inputs):
    policy = make_policy()
    for decision in policy.decide(inputs, temperature=1.0, seeds=SEEDS):
        pieces = policy.constraint.token_bytes(decision.token_ids)
        thought = b''.join(piece for piece, inside in zip(pieces, decision.thought_mask) if inside).decode()
        rest = b''.join(piece for piece, inside in zip(pieces, decision.thought_mask) if not inside).decode()
        # A token that also holds a part of the frame decides about the action's place, so it counts with the action.
        assert thought in decision.thought and decision.action in rest
        assert len(decision.thought) - len(thought) <= max(map(len, pieces))
        assert not decision.thought_mask[-1]


def test_an_output_that_is_cut_off_is_illegal_and_still_has_its_probability(make_policy, inputs):
    policy = make_policy(max_new_tokens=8)
    decisions = policy.decide(inputs, temperature=1.0, seeds=SEEDS)
    evaluation = policy.evaluate(inputs, decisions, 1.0)
    assert not any(d.legal for d in decisions) and all(len(d.token_ids) == 8 for d in decisions)
    np.testing.assert_allclose(evaluation.logprobs.detach(), [d.token_logprobs for d in decisions], atol=1e-4)


def test_free_text_of_an_untrained_model_is_illegal(make_policy, inputs):
    for decision in make_policy(constrained=False).decide(inputs, temperature=1.0, seeds=SEEDS):
        assert not decision.legal and decision.text


def test_greedy_takes_the_limit_of_low_temperature(make_policy, inputs):
    policy = make_policy()
    greedy = policy.decide(inputs, temperature=1.0, greedy=True)
    cold = policy.decide(inputs, temperature=1e-5, seeds=SEEDS)
    assert [d.text for d in greedy] == [d.text for d in cold]
    assert [d.text for d in greedy] == [d.text for d in policy.decide(inputs, temperature=1.0, greedy=True)]


def test_deciding_leaves_every_weight_as_it_was_to_the_bit(make_policy, inputs):
    policy = make_policy()
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    policy.decide(inputs, temperature=1.0, seeds=SEEDS)
    assert all(torch.equal(before[name], p) for name, p in policy.model.named_parameters())


def test_only_adapters_and_value_head_are_trained_and_the_value_never_moves_the_policy(make_policy, inputs):
    policy = make_policy()
    decisions = policy.decide(inputs, temperature=1.0, seeds=SEEDS)
    evaluation = policy.evaluate(inputs, decisions, 1.0)
    evaluation.values.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.adapter_parameters())
    assert any(p.grad.any() for p in policy.value_parameters())
    evaluation = policy.evaluate(inputs, decisions, 1.0)
    evaluation.logprobs.sum().backward()
    adapters = {id(p) for p in policy.adapter_parameters()}
    assert all(p.grad is None for p in policy.model.parameters() if id(p) not in adapters)
    moved = [name for name, p in policy.model.named_parameters() if p.grad is not None and p.grad.any()]
    for part in ('vision_tower', 'multi_modal_projector', 'language_model'):
        assert any(part in name for name in moved), part


def test_lora_leaves_the_vision_tower_alone_when_told_to(make_policy):
    names = make_policy(lora=LoraSettings(rank=2, vision=False)).adapter_state()
    assert names and not any('vision_tower' in name for name in names)


def test_the_reference_is_the_policy_before_its_adapters_moved(make_policy, inputs):
    policy = make_policy()
    decisions = policy.decide(inputs, temperature=1.0, seeds=SEEDS)
    adapters = [p for name, p in policy.model.named_parameters() if p.requires_grad and 'lora_B' in name]
    with policy.reference(), torch.no_grad():
        reference = policy.evaluate(inputs, decisions, 1.0).logprobs
    with torch.no_grad():
        for parameter in adapters:
            parameter.zero_()
        untrained = policy.evaluate(inputs, decisions, 1.0).logprobs
    torch.testing.assert_close(reference, untrained)


def test_values_without_a_decision_are_those_of_deciding(make_policy, inputs):
    policy = make_policy()
    decided = [d.value for d in policy.decide(inputs, temperature=1.0, seeds=SEEDS)]
    np.testing.assert_allclose(policy.values(inputs), decided, atol=1e-5)


def test_special_tokens_in_the_task_reach_the_model_as_nothing(make_policy, inputs):
    policy = make_policy()
    encoder = policy.encoder
    plain = encoder.chat_text('task: pick   it')
    assert encoder.chat_text('task: pick <image><eos> it').split() == plain.split()
    assert encoder.chat_text('task: pick <im<eos>age> it').count('<image>') == plain.count('<image>') == 1
    assert policy.decide([type(inputs[0])(inputs[0].image, 'task: <image> <pad>')], temperature=1.0, seeds=[1])[0].legal


def narrowed(inputs):
    """The inputs, of which some admit only some actions, each of them others."""
    languages = (DiscreteLanguage(['pick 01 02', 'done']), None, DiscreteLanguage(['done']),
                 DiscreteLanguage(['place 03 04', 'place 03 05', 'push 01 01 up']), DiscreteLanguage(['pick 01 02']))
    return [dataclasses.replace(given, language=language) for given, language in zip(inputs, languages)]


@pytest.mark.parametrize('padding_side', ['left', 'right'])
def test_rows_with_different_admissible_actions_are_sampled_and_recomputed_under_the_same_masks(
        make_policy, inputs, padding_side):
    policy, rows = make_policy(), narrowed(inputs)
    decisions = policy.decide(rows, temperature=0.7, seeds=SEEDS)
    evaluation = policy.evaluate(rows, decisions, 0.7, padding_side)
    for row, decision in enumerate(decisions):
        count = len(decision.token_ids)
        np.testing.assert_allclose(evaluation.logprobs[row, :count].detach(), decision.token_logprobs, atol=1e-4)
        assert evaluation.values[row].item() == pytest.approx(decision.value, abs=1e-4)
    # The same outputs are less likely where everything is admissible: the masks are really those of the row.
    free = policy.evaluate(inputs, decisions, 0.7, padding_side).logprobs.sum(1).detach()
    narrow = evaluation.logprobs.sum(1).detach()
    assert [bool(a > b + 1e-3) for a, b in zip(narrow, free)] == [row.language is not None for row in rows]


def test_only_admissible_actions_are_written_and_a_row_does_not_depend_on_those_of_the_others(make_policy, inputs):
    policy, rows = make_policy(), narrowed(inputs)
    for temperature in (1.0, 5.0):
        together = policy.decide(rows, temperature=temperature, seeds=SEEDS)
        for row, seed, decision in zip(rows, SEEDS, together):
            assert decision.legal and (row.language is None or row.language.parse(decision.action))
            assert policy.decide([row], temperature=temperature, seeds=[seed])[0].text == decision.text


def test_an_inadmissible_action_of_a_free_text_is_illegal_though_the_policy_knows_it(make_policy, inputs, monkeypatch):
    policy = make_policy(constrained=False, max_new_tokens=60)
    said = policy.encoder.encode_output('{"thoughts": "", "action": "done"}').tolist()
    monkeypatch.setattr(Sampler, '_draw', lambda sampler, rows, log_probs: torch.tensor(
        [said[len(sampler.token_ids[row])] for row in rows]))
    other, whole = (dataclasses.replace(inputs[0], language=language)
                    for language in (DiscreteLanguage(['pick 01 02']), None))
    decisions = policy.decide([other, whole], temperature=1.0, seeds=SEEDS[:2])
    assert [d.action for d in decisions] == ['done', 'done'] and [d.legal for d in decisions] == [False, True]


@pytest.mark.parametrize('thought', ['grün', 'x' * 31])
def test_what_the_grammar_rules_out_cannot_be_learned_from(make_policy, thought):
    """Its log-probability is the lowest number that there is, and so would be the loss."""
    text = format_output(thought, 'done')
    assert not make_policy().written(text).legal
    assert make_policy(constrained=False).written(text).legal


def test_more_sets_of_actions_than_are_kept_compiled_give_the_same_masks(make_policy, inputs, monkeypatch):
    policy, rows = make_policy(), narrowed(inputs)
    expected = policy.decide(rows, temperature=1.0, seeds=SEEDS)
    monkeypatch.setattr('vlm_agent_ros.policy.constraint._GRAMMARS', 1)
    few = make_policy()
    assert [d.text for d in few.decide(rows, temperature=1.0, seeds=SEEDS)] == [d.text for d in expected]
    assert few.evaluate(rows, expected, 1.0).logprobs.isfinite().all()


@pytest.mark.parametrize('rows', [1, 3, 4])
def test_an_image_of_few_rows_is_not_read_as_one_whose_channels_come_first(make_policy, rows):
    policy, colour = make_policy(), np.array([200, 30, 90], np.uint8)
    few, many = (policy.encoder.encode([np.tile(colour, (height, 5, 1))], ['task'])['pixel_values']
                 for height in (rows, 40))
    torch.testing.assert_close(few, many)
