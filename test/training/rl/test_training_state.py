"""Training checkpoints: policy, optimiser and run continue as if they had never been interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.config import TrainConfig, as_mapping
from training.rl.algorithms import Correction, Sample
from training.rl.correction_memory import packed_corrections, unpacked_corrections
from training.rl.learner import Learner
from training.rl.training_state import read_config, restore_training, save_training
from vlm_agent_ros.actions import DiscreteLanguage, SkillLanguage
from vlm_agent_ros.checkpoint import save_checkpoint
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Policy, PolicyInput

CONFIG = TrainConfig(epochs=2, minibatch_size=4, learning_rate=1e-3, value_warmup_updates=0)
STATE = {'update': 7, 'evaluations': {'before': {'success': 0.5}}}


def make_learner(folder: Path, config: TrainConfig = CONFIG, constrained: bool = True) -> Learner:
    model = ModelConfig(base=str(folder), decoding=Decoding(constrained, max_thought_chars=10, max_new_tokens=64),
                        lora=LoraSettings(rank=2), value_width=8)
    return Learner(Policy(model, SkillLanguage(48), torch.device('cpu')), config, seed=0)


def update(learner: Learner, number: int) -> list[torch.Tensor]:
    """An update on decisions of its own; the parameters after it."""
    rng = np.random.default_rng(number)
    few = DiscreteLanguage(['pick 03 04', 'pick 05 06'])  # as where an environment says what is admissible
    inputs = [PolicyInput(rng.integers(0, 256, (32, 32, 3), np.uint8), 'task: x', few if row % 2 else None)
              for row in range(8)]
    decisions = learner.policy.decide(inputs, temperature=1.0, seeds=[number * 100 + row for row in range(8)])
    right = learner.policy.written(format_output(f'cube {number}', 'pick 03 04'))
    weighted = Correction(right, np.full(len(right.token_ids), 1.0 / (3.0 + number)))
    samples = [Sample(i, d, float(rng.normal()), float(rng.normal()), correction) for i, d, correction in zip(
        inputs, decisions, [Correction(right, right.thought_mask), weighted, *6 * [None]])]
    learner.update(samples, number=number, temperature=1.0, progress=number / 10)
    return [p.detach().clone() for p in learner.policy.parameters()]


@pytest.mark.parametrize('config', [
    CONFIG, replace(CONFIG, guard_coef=1.0), replace(CONFIG, guard_coef=1.0, guard_replay=2.0),
], ids=['reward', 'guard', 'replay'])
def test_a_resumed_run_makes_the_same_next_update_to_the_bit(tmp_path, vlm_folder, config):
    unbroken = make_learner(vlm_folder, config)
    update(unbroken, 0)
    save_training(tmp_path / 'c', unbroken.policy, unbroken, STATE, as_mapping(config))
    expected = update(unbroken, 1)
    resumed = make_learner(vlm_folder, config)
    assert restore_training(tmp_path / 'c', resumed) == STATE
    assert all(torch.equal(a, b) for a, b in zip(update(resumed, 1), expected))


def test_what_was_remembered_without_a_grammar_is_forgotten_where_the_grammar_does_not_admit_it(vlm_folder):
    free = make_learner(vlm_folder, constrained=False).policy
    right, long = (free.written(format_output(thought, 'pick 03 04')) for thought in ('cube', 'a' * 40))
    samples = [Sample(PolicyInput(np.zeros((32, 32, 3), np.uint8), 'task: x'), said, 0.0,
                      correction=Correction(said, np.ones(len(said.token_ids)))) for said in (right, long)]
    packed = packed_corrections(samples)
    assert len(unpacked_corrections(*packed, free)) == 2
    kept = unpacked_corrections(*packed, make_learner(vlm_folder).policy)
    assert [sample.decision.text for sample in kept] == [right.text]


def test_the_configuration_of_the_run_comes_back(tmp_path, vlm_folder):
    learner = make_learner(vlm_folder)
    save_training(tmp_path / 'c', learner.policy, learner, STATE, as_mapping(CONFIG))
    assert read_config(tmp_path / 'c') == as_mapping(CONFIG)


def test_a_checkpoint_that_no_training_run_wrote_cannot_be_resumed(tmp_path, vlm_folder):
    learner = make_learner(vlm_folder)
    save_checkpoint(tmp_path / 'c', learner.policy, step=0)
    with pytest.raises(UserError, match=r'optimizer\.safetensors'):
        restore_training(tmp_path / 'c', learner)
    with pytest.raises(UserError, match=r'train_config\.json'):
        read_config(tmp_path / 'c')
    with pytest.raises(UserError, match='nowhere'):
        read_config(tmp_path / 'nowhere')
