"""The settings of config/training/ppo.yaml make the same updates as ever: its published results are those of a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.config import load_train_config
from training.rl.algorithms import Correction
from training.rl.learner import Learner
from training.rl.rollout import TrainingSchedule, collect
from training.worlds.episodes import Player

RECORDED = {
    'thoughts': [[-0.037437342, 0.037437513], [0.190067455, -0.190067396]],
    'actions': [[1.141696215, -1.141696215], [-0.984655142, 0.984655082]],
    'value_head': [0.475790322, 0.360711008],
}


def test_two_updates_of_the_shipped_settings_give_the_recorded_parameters(make_toy):
    config = load_train_config('ppo', {
        'transport': 'in-process', 'worlds': 8, 'decisions': 6000, 'decisions_per_update': 64, 'minibatch_size': 16,
        'micro_batch_size': 8, 'learning_rate': 0.05, 'value_learning_rate': 0.05})
    toy = replace(make_toy(worlds=8), config=config)
    schedule, player = TrainingSchedule(config), Player(toy.policy, toy.worlds, toy.commander_of, unit=4)
    learner = Learner(toy.policy, config, config.seed)
    for number in range(2):
        temperature = config.temperature_at(64 * number)
        samples = collect(player, schedule, config, temperature).samples
        # Every third thought is corrected to its opposite, so that the guard is part of the update.
        right = [replace(s.decision, token_ids=1 - s.decision.token_ids % 2 + [0, 2]) for s in samples]
        samples = [replace(s, correction=Correction(said, said.thought_mask)) if i % 3 == 0 else s
                   for i, (s, said) in enumerate(zip(samples, right))]
        row = learner.update(samples, number=number, temperature=temperature, progress=0.25 * number)
        assert 0.0 < row['learned_share'] < 1.0 and row['guard_loss'] > 0.0
    for name, recorded in RECORDED.items():
        np.testing.assert_allclose(dict(toy.policy.named_parameters())[name].detach().numpy(), recorded, atol=1e-4)
