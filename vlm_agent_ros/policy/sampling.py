"""Drawing tokens: one distribution, one random number per row and step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .constraint import OutputConstraint, tempered_log_probs


class Sampler:
    """A logits processor that draws the token itself and forces it, so that ``generate`` of any family serves.

    Args:
        constraint: Masks.
        regexes: One per row: its grammar where that is narrower than the constraint's, or None.
        temperature: Of the distribution.
        seeds: One per row, or None for the most likely token.
    """

    def __init__(self, constraint: OutputConstraint, regexes: Sequence[str | None], temperature: float,
                 seeds: Sequence[int] | None) -> None:
        self._constraint, self._temperature = constraint, temperature
        self._matchers = [constraint.start(regex) for regex in regexes]
        self._random = None if seeds is None else [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._done = [False] * len(regexes)
        self.token_ids: list[list[int]] = [[] for _ in regexes]
        self.logprobs: list[list[float]] = [[] for _ in regexes]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Draw the next token of every row that has not ended; scores are logits (batch, vocabulary)."""
        forced = torch.full_like(scores, torch.finfo(scores.dtype).min)
        active = [row for row, done in enumerate(self._done) if not done]
        allowed = torch.from_numpy(self._constraint.allowed([self._matchers[row] for row in active])).to(scores.device)
        log_probs = tempered_log_probs(scores[active], allowed, self._temperature).cpu().numpy()
        for row, row_log_probs in zip(active, log_probs):
            token = self._draw(row, row_log_probs)
            self.token_ids[row].append(token)
            self.logprobs[row].append(float(row_log_probs[token]))
            forced[row, token] = 0.0
            self._done[row] = token == self._constraint.eos
            if not self._done[row] and self._matchers[row] is not None:
                self._matchers[row].consume_token(token)
        return forced

    def _draw(self, row: int, log_probs: np.ndarray) -> int:
        if self._random is None:
            return int(log_probs.argmax())
        cumulative = np.cumsum(np.exp(log_probs.astype(np.float64)))
        # First token whose cumulative probability exceeds the number: never one of probability zero.
        drawn = np.searchsorted(cumulative, self._random[row].random() * cumulative[-1], side='right')
        return int(min(drawn, np.searchsorted(cumulative, cumulative[-1])))
