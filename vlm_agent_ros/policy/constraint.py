"""Which tokens may come next: the output grammar as masks over the vocabulary, by llguidance.

The same masks serve sampling and the update, so that both see one distribution. Special tokens other than the end of
the sequence are impossible always: an image placeholder in an output would break the next forward pass.
"""

from __future__ import annotations

from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch

from ..errors import UserError


class OutputConstraint:
    """Token masks of one output grammar and one tokenizer.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        special_ids: Ids that must not be written, the end of the sequence excepted.
        vocabulary: Width of the model's logits; ids that the tokenizer lacks are never allowed.
        regex: Every legal output (Rust syntax); None leaves the text free.

    Raises:
        UserError: The tokenizer or the grammar is not supported.
    """

    def __init__(self, tokenizer: Any, special_ids: list[int], vocabulary: int, regex: str | None) -> None:
        self.eos = int(tokenizer.eos_token_id)
        self.vocabulary = vocabulary
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer)
        except Exception as error:
            raise UserError(f'the tokenizer cannot be used for constrained decoding ({error}): choose a model with a '
                            'fast tokenizer') from error
        self._known = min(self._tokenizer.vocab_size, vocabulary)
        self._free = np.zeros(vocabulary, bool)
        self._free[:len(tokenizer)] = True
        self._free[[i for i in special_ids if i != self.eos and i < vocabulary]] = False
        self._grammar = llguidance.LLMatcher.grammar_from_regex(regex) if regex is not None else None
        if self._grammar is not None:
            problem = llguidance.LLMatcher.validate_grammar(self._grammar, self._tokenizer)
            if problem:
                raise UserError(f'the action language has no usable grammar ({problem}): correct its regex')

    def start(self) -> Any:
        """Matcher of a new output; None where the text is free."""
        return None if self._grammar is None else llguidance.LLMatcher(self._tokenizer, self._grammar)

    def allowed(self, matchers: list[Any]) -> np.ndarray:
        """(batch, vocabulary) bool, True where a token may come next."""
        allowed = np.broadcast_to(self._free, (len(matchers), self.vocabulary)).copy()
        bits = llguidance.numpy.allocate_token_bitmask(1, self._tokenizer.vocab_size)
        for row, matcher in enumerate(matchers):
            if matcher is not None:
                llguidance.numpy.fill_next_token_bitmask(matcher, bits, 0)
                unpacked = np.unpackbits(bits[0].view(np.uint8), bitorder='little')[:self._known].astype(bool)
                allowed[row, :self._known] &= unpacked
                allowed[row, self._known:] = False
        return allowed

    def replay(self, token_ids: np.ndarray) -> np.ndarray:
        """(tokens, vocabulary) bool masks under which the tokens of one output were written."""
        matcher = self.start()
        if matcher is None:
            return np.broadcast_to(self._free, (len(token_ids), self.vocabulary))
        masks = np.empty((len(token_ids), self.vocabulary), bool)
        for step, token in enumerate(token_ids):
            masks[step] = self.allowed([matcher])[0]
            if token != self.eos:
                matcher.consume_token(int(token))
        return masks

    def token_bytes(self, token_ids: np.ndarray) -> list[bytes]:
        """The bytes of each token; the end of the sequence has none."""
        return [b'' if token == self.eos else self._tokenizer.decode_bytes([int(token)]) for token in token_ids]


def tempered_log_probs(logits: torch.Tensor, allowed: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities over the allowed tokens at a temperature; the one distribution of sampling and update.

    Args:
        logits: (…, vocabulary) of any float type.
        allowed: (…, vocabulary) bool.
        temperature: Divides the logits.

    Returns:
        (…, vocabulary) float32; forbidden tokens hold the lowest finite number, so that entropies stay finite.
    """
    scaled = logits.float() / temperature
    lowest = torch.finfo(torch.float32).min
    return torch.log_softmax(scaled.masked_fill(~allowed, lowest), dim=-1)
