"""The decoding loop: one prefill of what differs, then steps of as many tokens as every row can read at once."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .kv_cache import KeyValueBuffers, SharedCache, StepCache, holds_everything
from .sampling import Sampler

Step = Callable[..., torch.Tensor]

_LAYERS = {'full_attention', 'sliding_attention'}
_TRACE_AFTER = 60  # steps: about what tracing costs is saved again after as many
_KEEP = 0.75  # rows are dropped once no more than this share of them is left


class DecodingLoop:
    """Writes outputs with a Hugging Face model whose cache holds plain keys and values.

    What a step computes is the model's own code, with positions and masks from here. Once it has run often enough it is
    traced: the small model spends more time in Python than in its products. A trace is taken only if it repeats the
    model's results to the bit, also for other numbers of rows and columns than it was made with.

    Args:
        model: Without PEFT's shell.

    Attributes:
        serves: Whether it can do so with this model, as far as is known: the first prefill tells.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._arguments = inspect.signature(model.forward).parameters
        text = model.config.get_text_config()
        self._layer_types = sorted(set(getattr(text, 'layer_types', None) or ()))
        self._window: Any = getattr(text, 'sliding_window', None)
        self._bool_mask = text._attn_implementation == 'sdpa'
        self.serves = ('position_ids' in self._arguments and not model.config.is_encoder_decoder
                       and text._attn_implementation in ('sdpa', 'eager') and set(self._layer_types) <= _LAYERS
                       and (bool(self._layer_types) or self._window is None))
        self._verified = False
        self._traced: Step | None = None
        self._steps = 0

    def prefill(self, inputs: Any) -> Prefill | None:
        """Read the prompts.

        Args:
            inputs: Left-padded, as ``PromptEncoder.encode`` gives them.

        Returns:
            None where this loop cannot go on from what the model left: ``generate`` can.
        """
        from transformers import DynamicCache

        if not self.serves:
            return None
        cache = DynamicCache()  # without the configuration: every layer keeps every column
        ids, given, positions = self._counted(inputs)
        prepared = self._model.prepare_inputs_for_generation(
            ids, past_key_values=cache, position_ids=positions, use_cache=True, is_first_iteration=True, **given,
            **self.keep(1))
        logits = self._model(**prepared, return_dict=True).logits[:, -1]
        if not holds_everything(cache):
            self.serves = False
            return None
        state = Prefill(logits, cache, prepared['position_ids'][..., -1:] + 1, inputs['attention_mask'].bool())
        if not self._verified:
            self._verified = self.serves = self._same_as_the_model(state, ids, positions, given)
        return state if self.serves else None

    def write(self, state: Prefill, expand: Sequence[int], sampler: Sampler) -> None:
        """Write until every row has ended.

        Args:
            state: Of the prompts.
            expand: Prompt of each row of the sampler.
            sampler: Draws; it is left with the outputs.
        """
        batch = Batch(state, expand)
        logits = state.logits[list(expand)]
        while sampler.active:
            # A row with tokens left to read has no logits of interest yet.
            due = [place for place, row in enumerate(batch.rows) if row in sampler.active and not sampler.pending[row]]
            if due:
                sampler.draw([batch.rows[place] for place in due], logits if len(due) == len(logits) else logits[due])
            if not sampler.active:
                return
            batch.drop(sampler.active)
            # Rows that have ended and are still in the batch read anything: nobody looks at it.
            count = min(len(sampler.pending[row]) for row in sampler.active)
            tokens = [sampler.pending[row][:count] if row in sampler.active else [0] * count for row in batch.rows]
            for row in sampler.active:
                del sampler.pending[row][:count]
            logits = self.step(batch.read(tokens, self.masks))

    def read_on(self, state: Prefill, expand: Sequence[int], ids: torch.Tensor) -> torch.Tensor:
        """Read given tokens after the prompts in one pass, with gradients also to what was read of the prompts.

        Args:
            state: Of the prompts.
            expand: Prompt of each row.
            ids: (rows, tokens) int64, padded on the right.

        Returns:
            (rows, tokens, vocabulary) logits after each of them.
        """
        rows, count = torch.tensor(list(expand), device=ids.device), ids.shape[1]
        valid = nn.functional.pad(state.valid[rows], (0, count), value=True)
        positions = state.positions.index_select(-2, rows) + torch.arange(count, device=ids.device)
        logits: torch.Tensor = self._model(
            input_ids=ids, position_ids=positions, attention_mask=self._by_layer(self.masks(valid, count)),
            use_cache=True, past_key_values=SharedCache(state.cache, rows), return_dict=True).logits
        return logits

    # -- one step

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, masks: tuple[torch.Tensor, ...],
                 *views: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) logits after the last of the tokens ``ids`` (rows, tokens)."""
        output = self._model(input_ids=ids, position_ids=positions, attention_mask=self._by_layer(masks),
                             use_cache=True, past_key_values=StepCache(views), return_dict=True, **self.keep(1))
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def step(self, arguments: tuple[Any, ...]) -> torch.Tensor:
        """(rows, vocabulary) logits after what ``Batch.read`` gave."""
        if arguments[0].shape[1] > 1:
            return self._forward(*arguments)  # rare, and attention with shared heads takes another way there
        if self._traced is not None:
            with torch.jit.optimized_execution(False):  # specialising for shapes costs more than it brings
                return self._traced(*arguments)
        self._steps += 1
        if self._steps == _TRACE_AFTER:
            self._traced = traced(self._forward, self._model, arguments)
        return self._forward(*arguments)

    def masks(self, valid: torch.Tensor, tokens: int) -> tuple[torch.Tensor, ...]:
        """Masks (rows, 1, tokens, columns) of the last tokens, one for each type of layer.

        Args:
            valid: (rows, columns) bool, True on tokens.
            tokens: How many are read.
        """
        columns = torch.arange(valid.shape[1], device=valid.device)
        places = columns[-tokens:, None]
        seen = valid[:, None, None] if tokens == 1 else valid[:, None, None] & (columns <= places)
        masks = []
        for kind in self._layer_types or ['full_attention']:
            mask = seen & (columns > places - self._window) if kind == 'sliding_attention' else seen
            masks.append(mask if self._bool_mask else torch.where(
                mask, 0.0, torch.finfo(self._model.dtype).min).to(self._model.dtype))
        return tuple(masks)

    def _by_layer(self, masks: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor] | torch.Tensor:
        """As the model takes the masks of its types of layers."""
        return dict(zip(self._layer_types, masks)) if self._layer_types else masks[0]

    def positions(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Positions as those of ``prefill``, for a pass over everything at once.

        Most families would count the padding too. What turns by distances alone is the same then, but for rounding:
        in bfloat16 that moves log-probabilities by more than an update does.

        Args:
            inputs: Left-padded; families without the argument count by themselves.
        """
        if 'position_ids' not in self._arguments or self._model.config.is_encoder_decoder:
            return {}
        ids, given, counted = self._counted(inputs)
        prepared = self._model.prepare_inputs_for_generation(
            ids, past_key_values=None, position_ids=counted, use_cache=False, is_first_iteration=True, **given)
        return {'position_ids': prepared['position_ids']}

    def _counted(self, inputs: Any) -> tuple[torch.Tensor, dict[str, Any], torch.Tensor]:
        """Token ids, the other inputs, and positions that do not count the padding on the left."""
        given = dict(inputs)
        ids = given.pop('input_ids')
        return ids, given, self._model._prepare_position_ids_for_generation(ids, {'input_ids': ids, **given})

    def keep(self, positions: int) -> dict[str, int]:
        """Tell the model how many positions need logits; families without the argument compute them all."""
        return {'logits_to_keep': positions} if 'logits_to_keep' in self._arguments else {}

    @torch.no_grad()
    def _same_as_the_model(self, state: Prefill, ids: torch.Tensor, positions: torch.Tensor, given: dict[str, Any]
                           ) -> bool:
        """Whether a step with positions, masks and cache from here is what the model computes by itself."""
        batch = Batch(state, range(len(state.logits)))
        tokens = state.logits.argmax(dim=1, keepdim=True)
        ours = self._forward(*batch.read(tokens.tolist(), self.masks))
        kept = [(layer, layer.keys, layer.values) for layer in state.cache.layers]  # with their gradients
        mask = torch.cat([given['attention_mask'], torch.ones_like(tokens)], dim=1)
        extended = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
        prepared = self._model.prepare_inputs_for_generation(
            torch.cat([ids, tokens], dim=1), next_sequence_length=1, past_key_values=state.cache, attention_mask=mask,
            position_ids=extended, use_cache=True, is_first_iteration=False)
        theirs = self._model(**prepared, return_dict=True).logits[:, -1]
        for layer, keys, values in kept:
            layer.keys, layer.values = keys, values
        # Two units in the last place of bfloat16 are 2^-6 of a number at most: other kernels may round by as much.
        tolerance = (1e-3, 1e-3) if ours.dtype == torch.float32 else (2.0**-6, 0.1)
        return torch.allclose(ours, theirs, *tolerance)


class Prefill:
    """What is known after the prompts.

    Attributes:
        logits: (prompts, vocabulary) of the first token.
        cache: Keys and values.
        positions: (…, prompts, 1) of the first token.
        valid: (prompts, columns) bool, True on tokens.
    """

    def __init__(self, logits: torch.Tensor, cache: Any, positions: torch.Tensor, valid: torch.Tensor) -> None:
        self.logits, self.cache, self.positions, self.valid = logits, cache, positions, valid


class Batch:
    """Rows that are being written, by their index among all.

    Attributes:
        rows: In their order within the batch.
    """

    def __init__(self, state: Prefill, expand: Sequence[int]) -> None:
        self.rows = list(range(len(expand)))
        self._buffers = KeyValueBuffers(state.cache, expand)
        index = torch.tensor(list(expand), device=state.valid.device)
        self._positions = state.positions.index_select(-2, index)
        self._valid = state.valid[index]

    def drop(self, active: Sequence[int]) -> None:
        """Leave out rows that have ended, once it pays to copy the others."""
        if len(active) > _KEEP * len(self.rows):
            return
        kept = [place for place, row in enumerate(self.rows) if row in active]
        index = torch.tensor(kept, device=self._valid.device)
        self.rows = [self.rows[place] for place in kept]
        self._buffers.select(index)
        self._positions, self._valid = self._positions.index_select(-2, index), self._valid[index]

    def read(self, tokens: Sequence[Sequence[int]], masks: Callable[[torch.Tensor, int], tuple[torch.Tensor, ...]]
             ) -> tuple[Any, ...]:
        """Arguments of the step that reads these tokens, of one number in every row."""
        ids = torch.tensor(tokens, device=self._valid.device)
        count = ids.shape[1]
        positions = self._positions + torch.arange(count, device=ids.device)
        self._positions = self._positions + count
        views = self._buffers.extended(count)
        missing = self._buffers.length - self._valid.shape[1]
        self._valid = nn.functional.pad(self._valid, (0, missing), value=True)
        return ids, positions, masks(self._valid, count), *views


# -- tracing


def traced(function: Step, model: nn.Module, arguments: tuple[Any, ...]) -> Step | None:
    """The function as a graph that needs no Python, or None where that is not the same function.

    Args:
        function: Writes to the cache among its arguments.
        model: Whose weights it uses; changes of them in place are seen by the graph.
        arguments: Of a step of one token: ids, positions, masks, keys and values.
    """
    with warnings.catch_warnings(), _frozen(model):
        warnings.simplefilter('ignore')  # shapes that became constants are found by comparing
        try:
            graph: Step = torch.jit.trace(function, _copied(arguments), check_trace=False, strict=False)
            with torch.jit.optimized_execution(False):
                for other in (arguments, _reshaped(arguments)):
                    own, copy = _copied(other), _copied(other)
                    if not torch.equal(function(*own), graph(*copy)) or not all(map(torch.equal, own[3:], copy[3:])):
                        return None
        except Exception:  # tracing raises what it likes
            return None
    return graph


def _copied(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*arguments[:3], *(tensor.clone() for tensor in arguments[3:]))


def _reshaped(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same step with one row more and a column less."""
    ids, positions, masks, *views = arguments
    rows = torch.tensor([*range(len(ids)), 0], device=ids.device)
    return (ids[rows], positions.index_select(-2, rows) - 1, tuple(mask[rows][..., :-1] for mask in masks),
            *(view[rows][:, :, :-1] for view in views))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within it no weight asks for gradients: a graph takes only such as its constants."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
