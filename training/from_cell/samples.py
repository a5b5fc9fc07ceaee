"""From logged decisions to what the learner takes: corrections to be imitated, and outcomes to be reinforced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vlm_agent_ros.actions import ActionLanguage
from vlm_agent_ros.audit.log import LoggedDecision
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Decision, Policy, PolicyInput

from ..rl.algorithms import Correction, Sample
from ..rl.gae import generalized_advantages, standardise
from .config import CellTrainConfig
from .decisions import LoggedEpisode, Place, corrected_texts, is_approved, is_rejected, said


@dataclass(frozen=True)
class Learned:
    """What is learned from, and of how many decisions it was made.

    Attributes:
        samples: By the temperature that their decisions were sampled at.
        counts: ``corrected``, ``approved``, ``reinforced``; and those left out, by the reason.
    """

    samples: dict[float, list[Sample]]
    counts: dict[str, int]


def policy_input(decision: LoggedDecision, policy: Policy, language: ActionLanguage) -> PolicyInput:
    """What the policy reads where the logged decision was made."""
    return PolicyInput(decision.image, policy.prompt.render(decision.task, decision.state, language, decision.previous))


def corrected_output(decision: LoggedDecision, policy: Policy) -> Decision | None:
    """What should have been written by the operator's last correction; None without one, or if it cannot be written."""
    texts = corrected_texts(decision)
    return None if texts is None else _written(*texts, policy)


def make_samples(episodes: Sequence[LoggedEpisode], held_out: Container[Place], policy: Policy,
                 language: ActionLanguage, config: CellTrainConfig, digests: Container[str]) -> Learned:
    """Every decision that says something.

    Args:
        episodes: To learn from.
        held_out: Decisions that are not learned from.
        policy: As it is before the first step; with the digest below it is the behaviour policy of the log.
        language: Its actions.
        config: Weights.
        digests: By which the log may know the policy. Outcomes of decisions by others are left out: their
            probability under the policy that learns says nothing of how they came about.
    """
    counts: Counter[str] = Counter()
    credit = _advantages(episodes, config) if config.outcome_weight else {}
    chosen: dict[float, list[tuple[Sample, LoggedDecision]]] = {}
    for episode in episodes:
        for place, decision in episode.placed():
            if place in held_out:
                continue
            correction = _correction(decision, episode, policy, config, counts)
            output, advantage = policy.written(decision.text), credit.get(place, 0.0)
            reason = ('decided by another checkpoint' if decision.checkpoint_sha256 not in digests else
                      'the log lacks their output' if not output.legal else '')
            if advantage and reason:
                counts[f'not reinforced: {reason}'] += 1
                advantage = 0.0
            if correction and not output.legal:
                output = correction.said  # nothing else is known to have been written; it is not reinforced
            if advantage or correction:
                sample = Sample(policy_input(decision, policy, language), output, advantage, correction=correction)
                chosen.setdefault(decision.temperature or 1.0, []).append((sample, decision))
    samples = {temperature: _with_behaviour(found, policy, temperature, config, counts)
               for temperature, found in chosen.items()}
    return Learned({temperature: found for temperature, found in samples.items() if found}, dict(counts))


def _advantages(episodes: Sequence[LoggedEpisode], config: CellTrainConfig) -> dict[Place, float]:
    """Advantage of each decision that led to an outcome or was rejected, by episode and place; of unit variance.

    Generalised advantage estimation with the logged values as its critic. Where an episode was cut off by the turn
    limit, its last turn stands for what would have followed and is not learned from. An episode that the log does not
    end has no advantages. A rejected decision is a thread of its own, which ends with it.
    """
    found: dict[Place, float] = {}
    for episode in episodes:
        turns = [(place, d) for place, d in episode.placed() if d.outcome is not None]
        if episode.ended:
            rewards = np.array([d.outcome.reward for _, d in turns if d.outcome is not None])
            values = np.array([d.value for _, d in turns])
            last = turns[-1][1].outcome
            cut = last is not None and last.truncated and not last.terminated
            kept = len(turns) - cut
            estimates = generalized_advantages(rewards[:kept], values[:kept], float(values[-1]) if cut else 0.0,
                                               config.gamma, config.gae_lambda)
            found.update({place: float(a) for (place, _), a in zip(turns, estimates)})
        found.update({place: config.rejected_reward - d.value
                      for place, d in episode.placed() if d.outcome is None and is_rejected(d)})
    values = np.array(list(found.values()))
    # Were all alike there would be nothing to compare them with: then each stands for itself.
    scaled = standardise(values) if len(values) and values.std() > 1e-6 else np.sign(values)
    return {key: config.outcome_weight * float(a) for key, a in zip(found, scaled)}


def _correction(decision: LoggedDecision, episode: LoggedEpisode, policy: Policy, config: CellTrainConfig,
                counts: Counter[str]) -> Correction | None:
    """What is to be imitated: the operator's correction, else what the operator approved and led to success."""
    right = corrected_output(decision, policy)
    if right is not None:
        counts['corrected'] += 1
        return Correction(right, np.ones(len(right.token_ids), np.float32))
    if said(decision) is not None:
        counts['corrections that the policy cannot write'] += 1
        return None
    if config.approved_weight and is_approved(decision) and episode.success:
        approved = _written(decision.thought, decision.action, policy)
        if approved is not None:
            counts['approved'] += 1
            return Correction(approved, np.full(len(approved.token_ids), config.approved_weight, np.float32))
    return None


def _written(thought: str, action: str, policy: Policy) -> Decision | None:
    try:
        output = policy.written(format_output(thought, action))
    except ValueError:
        return None
    short = len(output.thought) <= policy.config.decoding.max_thought_chars
    return output if output.legal and short else None


@torch.no_grad()
def _with_behaviour(found: Sequence[tuple[Sample, LoggedDecision]], policy: Policy, temperature: float,
                    config: CellTrainConfig, counts: Counter[str]) -> list[Sample]:
    """Samples with the log-probability of each token at sampling.

    The log has their sum alone. What the policy recomputes has to agree with it: else the tokens were others, or the
    weights, and the ratio of the update would compare with something that nobody sampled from.
    """
    kept: list[Sample] = []
    for start in range(0, len(found), config.micro_batch_size):
        batch = found[start:start + config.micro_batch_size]
        result = policy.evaluate([s.input for s, _ in batch], [s.decision for s, _ in batch], temperature)
        for (sample, decision), row in zip(batch, result.logprobs.cpu().numpy()):
            log_probs = row[:len(sample.decision.token_ids)]
            if not np.isfinite(log_probs).all():
                counts['that the policy cannot write'] += 1
                continue
            advantage = sample.advantage
            if advantage and not abs(float(log_probs.sum()) - decision.logprob) <= config.logprob_tolerance:
                counts['not reinforced: their log-probability is not the logged one'] += 1
                advantage = 0.0
            if advantage:
                counts['reinforced'] += 1
            if advantage or sample.correction:
                own = replace(sample.decision, token_logprobs=log_probs.astype(np.float32), value=decision.value)
                kept.append(replace(sample, decision=own, advantage=advantage))
    return kept
