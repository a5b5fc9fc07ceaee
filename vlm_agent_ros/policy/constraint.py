"""Which tokens may come next: the output grammar as masks over the vocabulary, by llguidance.

The same masks serve sampling and the update, so that both see one distribution. Special tokens other than the end of
the sequence are impossible always: an image placeholder in an output would break the next forward pass.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch

from ..errors import UserError

_REPLAY_BYTES = 64 << 20
_GRAMMARS = 256  # compiled grammars that are kept


class OutputConstraint:
    """Token masks of one tokenizer under an output grammar, or under a narrower one for a single output.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        special_ids: Ids that must not be written, the end of the sequence excepted.
        vocabulary: Width of the model's logits; ids that the tokenizer lacks are never allowed.
        regex: Every legal output (Rust syntax); None leaves every text free.

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
        self._free = np.zeros(vocabulary, bool)
        self._free[:len(tokenizer)] = True
        self._free[[i for i in special_ids if i != self.eos and i < vocabulary]] = False
        known = self._free & (np.arange(vocabulary) < self._tokenizer.vocab_size)
        self._free_bits = np.packbits(self._free if regex is None else known, bitorder='little')
        self._replayed: OrderedDict[tuple[str, bytes], np.ndarray] = OrderedDict()
        self._compiled: OrderedDict[str, Any] = OrderedDict()  # copied for each output
        self._regex = regex
        self.start()

    def start(self, regex: str | None = None) -> Any:
        """Matcher of a new output; None where the text is free.

        Args:
            regex: Every output that is legal here, where that is less than the whole grammar.

        Raises:
            UserError: The grammar is not supported.
        """
        if self._regex is None:
            return None
        regex = regex or self._regex
        matcher = self._compiled.pop(regex, None) or self._compile(regex)
        if len(self._compiled) >= _GRAMMARS:
            self._compiled.popitem(last=False)
        self._compiled[regex] = matcher
        return matcher.deep_copy()

    def _compile(self, regex: str) -> Any:
        grammar = llguidance.LLMatcher.grammar_from_regex(regex)
        problem = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer)
        if problem:
            raise UserError(f'the action language has no usable grammar ({problem}): correct its regex')
        return llguidance.LLMatcher(self._tokenizer, grammar)

    def packed(self, matchers: list[Any]) -> np.ndarray:
        """(batch, bytes) uint8 masks of what may come next, a bit for each token, the lowest first.

        Args:
            matchers: As ``start`` gave them; they may be of different grammars.
        """
        allowed = np.broadcast_to(self._free_bits, (len(matchers), len(self._free_bits))).copy()
        if self._regex is None:
            return allowed
        bits = llguidance.numpy.allocate_token_bitmask(len(matchers), self._tokenizer.vocab_size)
        for row, matcher in enumerate(matchers):
            llguidance.numpy.fill_next_token_bitmask(matcher, bits, row)
        grammar = bits.view(np.uint8)[:, :allowed.shape[1]]  # the tokens that the grammar does not know are not free
        allowed[:, :grammar.shape[1]] &= grammar
        allowed[:, grammar.shape[1]:] = 0
        if not allowed.any(axis=1).all():
            errors = ', '.join(filter(None, (matcher.get_error() for matcher in matchers)))
            raise RuntimeError(f'the grammar allows no further token ({errors})')
        return allowed

    def replay(self, token_ids: np.ndarray, regex: str | None = None) -> np.ndarray:
        """(tokens, vocabulary) bool masks under which the tokens of one output were written.

        Args:
            token_ids: (tokens,) int64.
            regex: As it was given to ``start``.
        """
        bits = self.replay_bits(token_ids, regex)
        return np.unpackbits(bits, axis=1, count=self.vocabulary, bitorder='little').astype(bool)

    def replay_bits(self, token_ids: np.ndarray, regex: str | None = None) -> np.ndarray:
        """The masks of ``replay`` as (tokens, ⌈vocabulary / 8⌉) uint8, packed as by ``packed``.

        An update passes over the same outputs several times: the masks of the latest are kept.
        """
        if self._regex is None:
            return np.broadcast_to(self._free_bits, (len(token_ids), len(self._free_bits)))
        key = regex or self._regex, token_ids.tobytes()
        bits = self._replayed.pop(key, None)
        if bits is None:
            bits = self._replay(token_ids, regex)
            while self._replayed and (len(self._replayed) + 1) * bits.nbytes > _REPLAY_BYTES:
                self._replayed.popitem(last=False)
        self._replayed[key] = bits
        return bits

    def _replay(self, token_ids: np.ndarray, regex: str | None) -> np.ndarray:
        matcher = self.start(regex)
        masks = np.empty((len(token_ids), len(self._free_bits)), np.uint8)
        for step, token in enumerate(token_ids):
            masks[step] = self.packed([matcher])[0]
            if token != self.eos:
                matcher.consume_token(int(token))
        return masks

    def admits(self, token_ids: np.ndarray) -> bool:
        """Whether (tokens,) int64 ids are an output that could have been written, its end included."""
        if self._regex is None:
            return bool(self._free[token_ids].all())
        matcher, (*said, last) = self.start(), token_ids.tolist()
        return last == self.eos and matcher.try_consume_tokens(said) == len(said) and matcher.is_accepting()

    def token_bytes(self, token_ids: np.ndarray) -> list[bytes]:
        """The bytes of each token; the end of the sequence has none."""
        return [b'' if token == self.eos else self._tokenizer.decode_bytes([int(token)]) for token in token_ids]


def unpacked(packed: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """(…, vocabulary) bool of masks (…, ⌈vocabulary / 8⌉) uint8 as ``OutputConstraint.packed`` makes them."""
    if packed.device.type == 'cpu':
        bits = np.unpackbits(packed.numpy(), axis=-1, count=vocabulary, bitorder='little')
        return torch.from_numpy(bits.view(bool))
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> places & 1).flatten(-2)[..., :vocabulary].bool()


def tempered_log_probs(logits: torch.Tensor, allowed: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Log-probabilities over the allowed tokens at a temperature; the one distribution of sampling and update.

    Args:
        logits: (…, vocabulary) of any float type.
        allowed: (…, vocabulary) bool.
        temperature: Divides the logits; a tensor as far as it can be broadcast to them.

    Returns:
        (…, vocabulary) float32; forbidden tokens hold the lowest finite number, so that entropies stay finite.
    """
    scaled = logits.float() / temperature
    lowest = torch.finfo(torch.float32).min
    return torch.log_softmax(scaled.masked_fill(~allowed, lowest), dim=-1)
