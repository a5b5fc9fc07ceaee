"""The scaling plan: sizes of adapters as PEFT makes them, and limits where they are."""

import pytest

from training.cluster.plan import MODELS, Decisions, Rates, TextModel, assumed, lora_bytes, point
from vlm_agent_ros.checkpoint import load_policy


def test_adapters_are_as_large_as_peft_makes_them(brief_model):
    policy = load_policy(str(brief_model))
    text = policy.model.config.text_config
    adapters = {name: tensor for name, tensor in policy.adapter_state().items() if 'language_model' in name}
    width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    model = TextModel(text.num_hidden_layers, text.hidden_size, width, text.intermediate_size, 0.0)
    assert lora_bytes(model, 4) == sum(4 * tensor.numel() for tensor in adapters.values()) > 0


def test_workers_help_until_the_learner_is_saturated():
    rates = Rates(worker=2.0, learner=20.0, update=100, weights=1e6, decision=1e5)
    assert rates.saturation == 10.0
    few, many = point(rates, 5), point(rates, 40)
    assert (few.ahead, few.in_step) == (10.0, pytest.approx(20.0 / 3))
    assert (many.ahead, many.in_step) == (20.0, pytest.approx(16.0))
    assert many.down == pytest.approx(0.2 * 1e6 * 40) and many.up == pytest.approx(2e6)


def test_a_larger_model_is_slower_in_both_and_decoding_is_bound_by_memory():
    fast = Decisions(turns=1e9)
    small, large = (assumed(MODELS[name], 16, worker_gpus=1, learner_gpus=1, update=512, of=fast)
                    for name in ('3B', '72B'))
    assert small.worker > 15 * large.worker and small.learner > 15 * large.learner
    two = assumed(MODELS['3B'], 16, worker_gpus=2, learner_gpus=1, update=512, of=fast)
    slow = assumed(MODELS['3B'], 16, worker_gpus=2, learner_gpus=1, update=512, of=Decisions(turns=5.0))
    assert slow.worker == 5.0
    assert two.worker == pytest.approx(2 * small.worker)
    assert lora_bytes(MODELS['7B'], 32) == 2 * lora_bytes(MODELS['7B'], 16)
