"""An update with every economy gives the weights of the straightforward one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.bench.straightforward import StraightforwardPolicy
from training.config import TrainConfig
from training.rl.algorithms import Correction, Sample
from training.rl.algorithms.turn_ppo import TokenSample
from training.rl.learner import Learner
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.policy.config import Decoding, LoraSettings, ModelConfig
from vlm_agent_ros.policy.policy import Policy, PolicyInput


@pytest.fixture(params=[LoraSettings(rank=4), LoraSettings(rank=4, vision=False), None], ids=['lora', 'frozen', 'full'])
def policy(vlm_folder, request):
    decoding = Decoding(max_thought_chars=20, max_new_tokens=60)
    policy = Policy(ModelConfig(base=str(vlm_folder), decoding=decoding, lora=request.param, value_width=8),
                    SkillLanguage(48), torch.device('cpu'))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


def make_samples(policy, kind):
    """Decisions of groups that share prompt and image, some of them corrected."""
    rng = np.random.default_rng(0)
    scenes = [PolicyInput(rng.integers(0, 256, (32, 32, 3), np.uint8), f'task: {task}\ngripper: open')
              for task in ('pick up the red cube', 'done', 'push ' * 4)]
    inputs = [scenes[i] for i in (0, 1, 0, 2, 0, 1, 2, 0)]
    decisions = policy.decide(inputs, temperature=0.9, seeds=range(len(inputs)))
    others = policy.decide(inputs, temperature=2.0, seeds=range(100, 100 + len(inputs)))
    samples = []
    for row, (given, decision, other) in enumerate(zip(inputs, decisions, others)):
        credit = {}
        if kind is TokenSample:
            count = len(decision.token_ids)
            credit = {'old_values': np.full(count, decision.value), 'token_advantages': rng.normal(size=count),
                      'token_targets': rng.normal(size=count)}
        right = Correction(other, other.thought_mask) if row % 3 == 0 else None
        samples.append(kind(given, decision, advantage=float(rng.normal()), value_target=float(rng.normal()),
                            correction=right, **credit))
    return samples


@pytest.mark.parametrize('settings', [
    {}, {'ratio_level': 'token', 'entropy_coef': 0.05}, {'algorithm': 'turn_ppo'}], ids=['ppo', 'token', 'turn'])
def test_weights_are_those_of_the_straightforward_update(policy, settings):
    samples = make_samples(policy, TokenSample if settings.get('algorithm') else Sample)
    if policy.config.lora:
        settings = {**settings, 'kl_coef': 0.05}
    # Adam divides a gradient by its size: where it is nothing but rounding, the step would be of full size.
    config = TrainConfig(learning_rate=1e-2, value_learning_rate=1e-2, value_warmup_updates=0, adam_eps=1e-2, epochs=2,
                         minibatch_size=4, micro_batch_size=3, guard_coef=0.5, **settings)
    start = [p.detach().clone() for p in policy.parameters()]
    plain = StraightforwardPolicy(policy, [s.input for s in samples],
                                  [s.decision for s in samples] + [s.correction.said for s in samples if s.correction])
    ends = []
    for contender, size in ((plain, 8), (policy, config.micro_batch_size)):
        with torch.no_grad():
            for parameter, value in zip(policy.parameters(), start):
                parameter.copy_(value)
        learner = Learner(contender, replace(config, micro_batch_size=size), seed=0)
        row = learner.update(samples, number=0, temperature=0.9, progress=0.0)
        assert row['optimiser_steps'] == 4 and row['logprob_error'] < 1e-4 and row['guard_loss'] > 0.0
        ends.append([p.detach().clone() for p in policy.parameters()])
    for expected, found in zip(*ends):
        assert (found - expected).norm() <= 5e-5 * expected.norm().clamp(min=1e-3)
    expected, found = (torch.cat([p.flatten() for p in end]) for end in ends)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    moved = sum(not torch.equal(before, after) for before, after in zip(start, ends[0]))
    assert moved > len(start) / 3
