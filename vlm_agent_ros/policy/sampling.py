"""Drawing tokens: one distribution, one random number per row and token, and no draw where the grammar leaves none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .constraint import OutputConstraint, tempered_log_probs, unpacked

_BLOCK = 64  # random numbers that are drawn at once


class Sampler:
    """What is written so far, and what may follow, of every row of a batch.

    A token that is the only one allowed is written without looking at the model: its log-probability under the
    constrained distribution is exactly 0.

    Args:
        constraint: Masks.
        regexes: One per row: its grammar where that is narrower than the constraint's, or None.
        temperature: Of the distribution.
        seeds: One per row, or None for the most likely token.
        max_new_tokens: Where an output is cut off.

    Attributes:
        token_ids: Tokens written, by row.
        logprobs: Their log-probabilities.
        pending: Tokens written that the model has not read yet, by row. A row with any is not to be drawn for.
        active: Rows that have not ended.
    """

    def __init__(self, constraint: OutputConstraint, regexes: Sequence[str | None], temperature: float,
                 seeds: Sequence[int] | None, max_new_tokens: int) -> None:
        self._constraint, self._temperature, self._limit = constraint, temperature, max_new_tokens
        self._matchers = [constraint.start(regex) for regex in regexes]
        self._random = None if seeds is None else [_RandomNumbers(seed) for seed in seeds]
        self.token_ids: list[list[int]] = [[] for _ in regexes]
        self.logprobs: list[list[float]] = [[] for _ in regexes]
        self.pending: list[list[int]] = [[] for _ in regexes]
        self.active = list(range(len(regexes)))
        self._allowed = constraint.packed(self._matchers)
        self._jump(self.active)

    def draw(self, rows: Sequence[int], logits: torch.Tensor) -> None:
        """Write the next token of these rows, and those that the grammar then forces.

        Args:
            rows: Active rows without pending tokens.
            logits: (rows, vocabulary) of any float type.
        """
        allowed = unpacked(torch.from_numpy(self._allowed[rows]).to(logits.device), self._constraint.vocabulary)
        log_probs = tempered_log_probs(logits, allowed, self._temperature)
        tokens = self._draw(rows, log_probs)
        chosen = log_probs.gather(1, tokens[:, None])[:, 0]
        for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist()):
            self._write(row, token, logprob)
        self._look(rows)
        self._jump(rows)

    def _draw(self, rows: Sequence[int], log_probs: torch.Tensor) -> torch.Tensor:
        """(rows,) int64."""
        if self._random is None:
            return log_probs.argmax(dim=1)
        cumulative = log_probs.double().exp().cumsum(dim=1)
        numbers = [[self._random[row].number(len(self.token_ids[row]))] for row in rows]
        drawn = torch.tensor(numbers, dtype=torch.float64, device=log_probs.device) * cumulative[:, -1:]
        # First token whose cumulative probability exceeds the number: never one of probability zero.
        found = torch.searchsorted(cumulative, drawn, right=True)
        return torch.minimum(found, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()))[:, 0]

    def _write(self, row: int, token: int, logprob: float) -> None:
        self.token_ids[row].append(token)
        self.logprobs[row].append(logprob)
        self.pending[row].append(token)
        if token == self._constraint.eos or len(self.token_ids[row]) >= self._limit:
            self.active.remove(row)
        elif self._matchers[row] is not None:
            self._matchers[row].consume_token(token)

    def _look(self, rows: Sequence[int]) -> None:
        """Find out what may come next in those of the rows that have not ended."""
        rows = [row for row in rows if row in self.active and self._matchers[row] is not None]
        if rows:
            self._allowed[rows] = self._constraint.packed([self._matchers[row] for row in rows])

    def _jump(self, rows: Sequence[int]) -> None:
        """Write the tokens that the grammar forces."""
        while True:
            rows = [row for row in rows if row in self.active]
            rows = [row for row, forced in zip(rows, _holds_one(self._allowed[rows])) if forced]
            if not rows:
                return
            for row in rows:
                self._write(row, int(np.unpackbits(self._allowed[row], bitorder='little').argmax()), 0.0)
            self._look(rows)


def _holds_one(packed: np.ndarray) -> np.ndarray:
    """(batch,) bool, where exactly one bit of a mask (batch, bytes) uint8 is set.

    Not by ``numpy.bitwise_count``: ROS 2 Jazzy comes with NumPy 1.26, which has none.
    """
    largest: np.ndarray = packed.max(axis=1)
    return (np.count_nonzero(packed, axis=1) == 1) & ((largest & (largest - 1)) == 0)


class _RandomNumbers:
    """Numbers in [0, 1) by their place in a stream that is a function of the seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=seed))
        self._numbers: list[float] = []

    def number(self, place: int) -> float:
        while place >= len(self._numbers):
            self._numbers += self._generator.random(_BLOCK).tolist()
        return self._numbers[place]


class SamplingProcessor:
    """A logits processor that lets a sampler write, and forces what it wrote: for ``generate`` of any family.

    Args:
        sampler: New.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (batch, vocabulary) of which one token of each row is left."""
        forced = torch.full_like(scores, torch.finfo(scores.dtype).min)
        rows = [row for row in self._sampler.active if not self._sampler.pending[row]]
        if rows:
            self._sampler.draw(rows, scores[rows])
        for row, pending in enumerate(self._sampler.pending):
            if pending:
                forced[row, pending.pop(0)] = 0.0
        return forced
