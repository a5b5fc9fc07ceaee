"""What an algorithm is: how much each decision of finished episodes is worth, and the loss that follows from it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Decision, Evaluation, Policy, PolicyInput

from ...config import TrainConfig
from ...worlds.episodes import Episode
from ..gae import generalized_advantages
from ..losses import policy_loss


@dataclass(frozen=True)
class Correction:
    """What should have been written, as a simulator (the thought guard) or an operator says.

    Attributes:
        said: The whole output.
        learned: (tokens,) bool, True for the tokens whose likelihood is to rise; or float, the weight of each.
    """

    said: Decision
    learned: np.ndarray


@dataclass(frozen=True)
class Sample:
    """A decision with what the update needs to know of it.

    Attributes:
        input: Image and prompt that were decided on; stored per decision, since prompts change from turn to turn.
        decision: Output with its token log-probabilities and value at sampling.
        advantage: Estimate of how much better than expected the decision was.
        value_target: What the value head should have said; unused without a critic.
        correction: None where the thought guard has nothing to say.
        gain: By how much more it earned than expected, in the scale of ``advantage``; that of an update whose decisions
            all earned less than expected is below zero, though the mean of normalised advantages is zero.
    """

    input: PolicyInput
    decision: Decision
    advantage: float
    value_target: float = 0.0
    correction: Correction | None = None
    gain: float = 0.0

    def reweighted(self, factor: float, decision: Decision) -> Sample:
        """With all its credit multiplied, which multiplies its surrogate, and another decision in its place."""
        return replace(self, advantage=factor * self.advantage, decision=decision)


@dataclass(frozen=True)
class Batch:
    """Decisions of one forward pass.

    Attributes:
        samples: (batch) of them, as the algorithm made them.
        result: Their recomputed probabilities and values; carries the gradient.
        old_log_probs: (batch, tokens) float32 at sampling, 0 on padding.
        weights: (batch, tokens) float32 from ``losses.token_weights``.
    """

    samples: Sequence[Sample]
    result: Evaluation
    old_log_probs: torch.Tensor
    weights: torch.Tensor

    def numbers(self, values: Sequence[float]) -> torch.Tensor:
        """(batch,) float32 of one number per decision."""
        return torch.tensor(values, dtype=torch.float32, device=self.old_log_probs.device)

    def rows(self, rows: Sequence[np.ndarray | torch.Tensor]) -> torch.Tensor:
        """(batch, tokens) float32 of one row per decision, zeros where a decision has no token."""
        return pad(rows, self.result.logprobs)


class Algorithm(ABC):
    """One way to learn from episodes; stateless, everything that it knows is in its arguments.

    Args:
        config: The run.
    """

    critic = True
    """Whether the value head is trained."""
    token_values = False
    """Whether the loss needs a value before every token: ``Evaluation.values`` is then (batch, tokens)."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @property
    def ratio_level(self) -> str:
        """What has a probability ratio of its own: ``decision`` or ``token``, as for ``losses.policy_loss``."""
        return self.config.ratio_level

    @abstractmethod
    def samples(self, episodes: Sequence[Episode], policy: Policy) -> list[Sample]:
        """Every decision of an update's episodes, in order, with its advantage and value target."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loss of the policy and of the value, (batch,) float32 each; no value loss without a critic."""

    def surrogate(self, batch: Batch) -> torch.Tensor:
        """(batch,) clipped surrogate with one advantage per decision."""
        config = self.config
        return policy_loss(batch.result.logprobs, batch.old_log_probs, batch.weights,
                           batch.numbers([s.advantage for s in batch.samples]), clip=config.clip,
                           clip_high=config.clip_high, max_ratio=config.max_ratio, level=self.ratio_level)


def pad(rows: Sequence[np.ndarray | torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Rows of different length as (batch, tokens), zeros where ``like`` has no token."""
    padded = torch.zeros_like(like, requires_grad=False)
    for i, row in enumerate(rows):
        padded[i, :len(row)] = torch.as_tensor(row, dtype=like.dtype, device=like.device)
    return padded


def rewards_of(episode: Episode, illegal_penalty: float) -> np.ndarray:
    """(turns,) rewards of the world, less the penalty for illegal outputs."""
    penalties = [illegal_penalty * (turn.command.rejection == 'illegal') for turn in episode.turns]
    return np.array([outcome.reward for outcome in episode.outcomes]) - np.array(penalties)


def groups_of(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes that started from the same seed, by group."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, episode in enumerate(episodes):
        groups.setdefault((episode.slot.group, episode.slot.index), []).append(i)
    return list(groups.values())


def anchors_of(episodes: Sequence[Episode], anchor: str) -> list[list[int]]:
    """Positions, among all turns in order, of those that a group's episodes took in the same state.

    Args:
        episodes: Of one update.
        anchor: What makes two states of a group the same: ``observation`` (image and prompt) or ``prompt``.
    """
    anchors: dict[Hashable, list[int]] = {}
    turns = [(episode.slot, turn.input) for episode in episodes for turn in episode.turns]
    for position, (slot, seen) in enumerate(turns):
        image = hashlib.blake2b(seen.image.tobytes(), digest_size=16).digest() if anchor == 'observation' else b''
        anchors.setdefault((slot.group, slot.index, seen.prompt, image), []).append(position)
    return list(anchors.values())


def turn_advantages(episodes: Sequence[Episode], policy: Policy, config: TrainConfig
                    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """GAE over the turns of each episode.

    Returns:
        Advantages and value targets, (turns,) float64 per episode.
    """
    finals = _final_values(episodes, policy, config.micro_batch_size)
    rewards = [rewards_of(episode, config.illegal_penalty) for episode in episodes]
    values = [np.array([turn.decision.value for turn in episode.turns]) for episode in episodes]
    advantages = [generalized_advantages(r, v, final, config.gamma, config.gae_lambda)
                  for r, v, final in zip(rewards, values, finals)]
    return advantages, [advantage + value for advantage, value in zip(advantages, values)]


def _final_values(episodes: Sequence[Episode], policy: Policy, size: int) -> list[float]:
    """Value after the last turn: 0 where the episode terminated, the policy's estimate where it was cut off.

    ``size`` of them are read at once.
    """
    finals = [0.0] * len(episodes)
    cut = {i: episode.final for i, episode in enumerate(episodes) if episode.truncated and episode.final is not None}
    seen = list(cut.items())
    for start in range(0, len(seen), size):
        part = seen[start:start + size]
        for (i, _), value in zip(part, policy.values([final for _, final in part])):
            finals[i] = float(value)
    return finals
