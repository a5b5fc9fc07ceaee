"""What was corrected in earlier updates, to be learned from again.

A decision is good for one update: its advantage and its probability are those of the policy that made it. What the
simulator says should have been written stays right for as long as the image does, as in DAgger (Ross et al. 2011, arXiv
1011.0686). So the reward's epochs are followed by an auxiliary phase over all that is remembered, as in PPG (Cobbe et
al. 2021, arXiv 2009.04416).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from vlm_agent_ros.policy.policy import Policy, PolicyInput

from .algorithms import Correction, Sample


class CorrectionMemory:
    """The newest corrections of a run.

    Args:
        capacity: How many are kept; 0 remembers nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._samples: deque[Sample] = deque(maxlen=capacity)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The oldest first; of a decision nothing but its input and what was right there."""
        return tuple(self._samples)

    def add(self, samples: Iterable[Sample]) -> None:
        """Remember those of them that were corrected."""
        self._samples.extend(Sample(sample.input, sample.correction.said, 0.0, correction=sample.correction)
                             for sample in samples if sample.correction is not None)

    def restore(self, samples: Iterable[Sample]) -> None:
        """Remember these instead, in their order."""
        self._samples.clear()
        self.add(samples)

    def draw(self, count: int, seed: int) -> list[Sample]:
        """So many at random, none a second time before all were drawn."""
        known, rng = len(self._samples), np.random.default_rng(seed)
        rounds = -(-count // known) if known else 0
        order = [index for _ in range(rounds) for index in rng.permutation(known)][:count]
        samples = self.samples
        return [samples[index] for index in order]


def packed_corrections(samples: Sequence[Sample]) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Images by the number of their correction, and its prompt, its output and the weight of each token: JSON."""
    images = {str(number): torch.tensor(sample.input.image) for number, sample in enumerate(samples)}
    return images, [[sample.input.prompt, sample.correction.said.text, sample.correction.learned.astype(float).tolist()]
                    for sample in samples if sample.correction is not None]


def unpacked_corrections(images: dict[str, torch.Tensor], texts: list[Any], policy: Policy) -> list[Sample]:
    """The inverse of ``packed_corrections``; ``policy`` knows how an output is written.

    Where a run goes on under a grammar that it did not have before, what cannot be written any more is forgotten.
    """
    samples = []
    for number, (prompt, text, learned) in enumerate(texts):
        said = policy.written(text)
        if said.legal:
            samples.append(Sample(PolicyInput(images[str(number)].numpy(), prompt), said, 0.0,
                                  correction=Correction(said, np.array(learned, np.float32))))
    return samples
