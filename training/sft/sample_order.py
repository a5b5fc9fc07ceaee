"""Which samples each step of supervised training takes, the rare ones oftener."""

from __future__ import annotations

import numpy as np

from vlm_agent_ros.errors import UserError

from ..demonstrations.dataset import DemonstrationDataset


class SampleOrder:
    """Which samples a step takes and how they are augmented: functions of the step, with no memory of those before.

    Args:
        seed: Of the run.
        train_rows: Rows to train on.
        held_out: Rows that are not.
        weights: (samples,) how often each row of the dataset is drawn in an epoch, on average.

    Attributes:
        held_out: Rows that are never trained on, in random order.

    Raises:
        UserError: The weights leave nothing.
    """

    def __init__(self, seed: int, train_rows: np.ndarray, held_out: np.ndarray, weights: np.ndarray) -> None:
        self._seed, self._train_rows = seed, train_rows
        self.held_out = np.random.default_rng(seed).permutation(held_out)
        self._until = np.cumsum(weights[train_rows])  # a row's share of the line ends here
        self._length = round(self._until[-1])
        if not self._length:
            raise UserError('weights leave no sample to train on: raise them')
        self._epoch, self._permutation = -1, train_rows

    def rows(self, step: int, batch: int) -> np.ndarray:
        """(batch,) int64; every epoch is a permutation of its own."""
        epochs, offsets = np.divmod(np.arange(step * batch, (step + 1) * batch), self._length)
        return np.concatenate([self._order(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    def seed(self, stage: int, step: int) -> int:
        """Seed of the augmentation: different in every stage and at every step."""
        return int(np.random.SeedSequence((self._seed, stage, step)).generate_state(1)[0])

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch != epoch:
            self._epoch = epoch
            drawn = self._draw(np.random.default_rng((self._seed, epoch, 1)).random())
            self._permutation = np.random.default_rng((self._seed, epoch)).permutation(drawn)
        return self._permutation

    def _draw(self, start: float) -> np.ndarray:
        """Systematic sampling: the rows under evenly spaced points on the line of weights.

        A row of weight w comes ⌊w⌋ or ⌈w⌉ times in an epoch, w times on average; each comes once where all
        weights are 1.
        """
        points = (np.arange(self._length) + start) * (self._until[-1] / self._length)
        places = np.searchsorted(self._until, points, side='right')
        return self._train_rows[np.minimum(places, len(self._train_rows) - 1)]


def sample_weights(dataset: DemonstrationDataset, weights: dict[str, float]) -> np.ndarray:
    """(samples,) float64: the product of the weights of a sample's task and rare events.

    Raises:
        UserError: A weight names what no sample has.
    """
    result = np.ones(len(dataset))
    for name, weight in weights.items():
        if name not in dataset.labels:
            raise UserError(f'weights: no sample has the task or rare event {name!r}; the data has '
                            f'{", ".join(sorted(dataset.labels)) or "none"}: correct the name or leave it out')
        result[dataset.labels[name]] *= weight
    return result
