"""The policy: a vision-language model that writes a thought and an action, with exact log-probabilities and a value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..actions import ActionLanguage
from .config import ModelConfig
from .constraint import OutputConstraint
from .encoding import PromptEncoder, join_outputs
from .folded_lora import folded_lora
from .generation import DecodingLoop
from .loading import add_lora, load_base, make_value_head
from .merged_lora import MergedLora
from .output import output_regex, parse_output
from .sampling import Sampler, SamplingProcessor
from .scoring import score_tokens
from .vision_cache import cached_vision


@dataclass(frozen=True)
class PolicyInput:
    """What the policy reads.

    Attributes:
        image: (height, width, 3) uint8, rgb8.
        prompt: Text of the user message.
        language: The actions that are admissible here, where they are not all of the policy's language.
    """

    image: np.ndarray
    prompt: str
    language: ActionLanguage | None = None


@dataclass(frozen=True)
class Decision:
    """What the policy wrote, and how likely it was.

    Attributes:
        text: The verbatim output.
        thought: The chain of thought.
        action: The action text.
        legal: The output parses and its action belongs to the language.
        token_ids: (tokens,) int64, the end of the sequence included.
        token_logprobs: (tokens,) float32 under the sampling distribution (constraint and temperature).
        thought_mask: (tokens,) bool, True for tokens that lie wholly within the thought; by byte offsets of the
            parsed output, never by token ids.
        value: The value head's estimate of the return from here.
    """

    text: str
    thought: str
    action: str
    legal: bool
    token_ids: np.ndarray
    token_logprobs: np.ndarray
    thought_mask: np.ndarray
    value: float

    @property
    def memory(self) -> str:
        """What the next turn's prompt may say of this one: the thought, or the action where there is none."""
        return self.thought or self.action


@dataclass(frozen=True)
class Evaluation:
    """Recomputed probabilities of decisions, with gradients.

    Attributes:
        logprobs: (batch, tokens) float32, 0 on padding.
        mask: (batch, tokens) bool, True on tokens.
        thought_mask: (batch, tokens) bool.
        entropy: (batch, tokens) float32, nats, 0 on padding.
        values: (batch,) float32 before the first token; (batch, tokens) before every token where that was asked for.
    """

    logprobs: torch.Tensor
    mask: torch.Tensor
    thought_mask: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor

    def rows(self, chosen: slice) -> Evaluation:
        """Some of the decisions."""
        return Evaluation(self.logprobs[chosen], self.mask[chosen], self.thought_mask[chosen], self.entropy[chosen],
                          self.values[chosen])


class Policy:
    """A base model, adapters and a value head.

    Dropout is off always: sampling and update must see one distribution. The value head reads the hidden state before
    the first output token with a stop-gradient (VL-DAC), so that its error never moves the policy.

    Args:
        config: The models file.
        language: Action language.
        device: Where the model runs.
        seed: Seed of freshly initialised adapters and value head.

    Raises:
        UserError: The model cannot be loaded or has no chat template, or an action cannot be written.
    """

    def __init__(self, config: ModelConfig, language: ActionLanguage, device: torch.device, seed: int = 0) -> None:
        self.config, self.language, self.device = config, language, device
        self.prompt = config.prompt
        model, self.processor = load_base(config, device)
        self.encoder = PromptEncoder(self.processor, config.base)
        self.encoder.check_actions(language, config.decoding.max_new_tokens)
        output = model.get_output_embeddings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = add_lora(model, config.lora) if config.lora is not None else model
            self.value_head = make_value_head(output.weight.shape[1], config.value_width).to(device)
        regex = output_regex(language, config.decoding.max_thought_chars) if config.decoding.constrained else None
        self.constraint = OutputConstraint(self.encoder.tokenizer, self.encoder.special_ids, output.weight.shape[0],
                                           regex)
        self._hidden = _HiddenStates(output)
        self.merged_lora = MergedLora(self.model)
        self.loop = DecodingLoop(self._base())

    # -- deciding

    @torch.no_grad()
    def decide(self, inputs: Sequence[PolicyInput], *, temperature: float, seeds: Sequence[int] | None = None,
               greedy: bool = False) -> list[Decision]:
        """Write one output per input.

        Args:
            inputs: A batch; prompts may differ in length.
            temperature: Of the sampling distribution, also of the reported log-probabilities.
            seeds: One per row; a row's random numbers depend on its seed alone, never on the rest of the batch.
            greedy: Take the most likely token instead; ``seeds`` may then be missing.

        Returns:
            One decision per input, in order.
        """
        if not greedy and (seeds is None or len(seeds) != len(inputs)):
            raise ValueError('sampling needs one seed per input')
        sampler = Sampler(self.constraint, [self._regex(i.language) for i in inputs], temperature,
                          None if greedy else seeds, self.config.decoding.max_new_tokens)
        with self.merged_lora():
            values = self._write(inputs, sampler)
        return [self._decision(np.array(ids, np.int64), np.array(logprobs, np.float32), float(value), i.language)
                for i, ids, logprobs, value in zip(inputs, sampler.token_ids, sampler.logprobs, values)]

    def _write(self, inputs: Sequence[PolicyInput], sampler: Sampler) -> np.ndarray:
        """Let the sampler write one output per input; (batch,) float32 values of the inputs."""
        if not self.loop.serves:
            return self._generate(inputs, sampler)
        distinct, expand = _distinct(inputs)
        self._hidden.clear()
        prefill = self.loop.prefill(self._encode(distinct, 'left'))
        if prefill is not None:
            values = self._value(self._hidden.first[:, -1])[expand]
            self.loop.write(prefill, expand, sampler)
            return values.cpu().numpy()
        return self._generate(inputs, sampler)

    def _generate(self, inputs: Sequence[PolicyInput], sampler: Sampler) -> np.ndarray:
        """The same by the model's own ``generate``, for caches that the decoding loop does not know."""
        from transformers import GenerationConfig, LogitsProcessorList

        settings = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=self.config.decoding.max_new_tokens,
            eos_token_id=self.constraint.eos, pad_token_id=self.encoder.tokenizer.pad_token_id)
        # What the settings here leave open, such as a repetition penalty, would be taken from the model's own.
        self._base().generation_config = GenerationConfig()
        self._hidden.clear()
        self.model.generate(**self._encode(inputs, 'left'), generation_config=settings,
                            logits_processor=LogitsProcessorList([SamplingProcessor(sampler)]))
        return self._value(self._hidden.first[:, -1]).cpu().numpy()

    @torch.no_grad()
    def values(self, inputs: Sequence[PolicyInput]) -> np.ndarray:
        """(batch,) float32 values of observations on which nothing is decided, e.g. the last of a truncated episode."""
        encoded = self._encode(inputs, 'left')
        self.model(**encoded, **self.loop.positions(encoded), **self.loop.keep(1))
        return self._value(self._hidden.last[:, -1]).cpu().numpy()

    def written(self, text: str) -> Decision:
        """A given output as if the policy had written it with certainty: what an expert says, to be learned from.

        It is legal only if the policy may write it: what its grammar rules out has no likelihood that could be raised.
        """
        token_ids = self.encoder.encode_output(text).numpy()
        said = self._decision(token_ids, np.zeros(len(token_ids), np.float32), 0.0)
        return replace(said, legal=said.legal and self.constraint.admits(token_ids))

    def _decision(self, token_ids: np.ndarray, logprobs: np.ndarray, value: float,
                  language: ActionLanguage | None = None) -> Decision:
        pieces = self.constraint.token_bytes(token_ids)
        parsed = parse_output(b''.join(pieces), language or self.language)
        ends = np.cumsum([len(piece) for piece in pieces])
        starts = np.concatenate([[0], ends[:-1]])
        first, last = parsed.thought_span
        inside = (starts >= first) & (ends <= last) & (ends > starts)
        complete = bool(len(token_ids)) and token_ids[-1] == self.constraint.eos
        return Decision(text=parsed.text, thought=parsed.thought, action=parsed.action,
                        legal=bool(parsed.legal and complete), token_ids=token_ids, token_logprobs=logprobs,
                        thought_mask=inside, value=value)

    def _regex(self, language: ActionLanguage | None) -> str | None:
        """The grammar of an input whose actions are its own."""
        return None if language is None else output_regex(language, self.config.decoding.max_thought_chars)

    # -- learning

    def evaluate(self, inputs: Sequence[PolicyInput], decisions: Sequence[Decision],
                 temperature: float | Sequence[float], padding_side: str = 'left', token_values: bool = False
                 ) -> Evaluation:
        """Log-probabilities, entropies and values of decisions under the present weights, with gradients.

        Args:
            inputs: What was decided on; what several rows share is read once.
            decisions: What was written.
            temperature: At which it was sampled, or that of each row.
            padding_side: Layout of the forward pass; the result is the same to rounding.
            token_values: Give a value before every token, not only before the first.
        """
        if torch.is_grad_enabled():
            self.merged_lora.release()  # the update needs the memory, and changes the weights
        lengths = [len(decision.token_ids) for decision in decisions]
        tokens = max(lengths)
        ids = np.full((len(decisions), tokens), self.constraint.eos, np.int64)
        thoughts = np.zeros(ids.shape, bool)
        allowed = np.full((*ids.shape, -(-self.constraint.vocabulary // 8)), 255, np.uint8)
        for row, (given, decision) in enumerate(zip(inputs, decisions)):
            ids[row, :lengths[row]], thoughts[row, :lengths[row]] = decision.token_ids, decision.thought_mask
            allowed[row, :lengths[row]] = self.constraint.replay_bits(decision.token_ids, self._regex(given.language))
        outputs = torch.from_numpy(ids).to(self.device)
        counts = torch.tensor(lengths, device=self.device)
        mask = torch.arange(tokens, device=self.device) < counts[:, None]
        try:
            with folded_lora(self.model):
                found = self._read_once(inputs, outputs) if padding_side == 'left' else None
                logits, hidden = found or self._forward(inputs, outputs, counts, padding_side)
        except BaseException:
            self._hidden.clear()  # else the graph of what has failed stays in memory
            raise
        chosen, entropy = score_tokens(logits, outputs, torch.from_numpy(allowed).to(self.device), temperature)
        return Evaluation(chosen * mask, mask, torch.from_numpy(thoughts).to(self.device), entropy * mask,
                          self._value(hidden if token_values else hidden[:, 0]))

    def _read_once(self, inputs: Sequence[PolicyInput], outputs: torch.Tensor
                   ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """As ``_forward``, with one pass for inputs that are the same; None where none are, or the cache is unknown."""
        distinct, expand = _distinct(inputs)
        if len(distinct) == len(inputs) or not self.loop.serves:
            return None
        self._hidden.clear()
        prompts = self.loop.prefill(self._encode(distinct, 'left'))
        if prompts is None:
            return None
        logits, hidden = prompts.logits[expand][:, None], self._hidden.first[expand, -1:]
        if outputs.shape[1] > 1:  # nothing is predicted from the last token
            logits = torch.cat([logits, self.loop.read_on(prompts, expand, outputs[:, :-1])], dim=1)
            hidden = torch.cat([hidden, self._hidden.last], dim=1)
        return logits, hidden

    def _forward(self, inputs: Sequence[PolicyInput], outputs: torch.Tensor, counts: torch.Tensor, padding_side: str
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (batch, tokens, vocabulary) and hidden states (batch, tokens, width) that predict the outputs."""
        prompts, tokens = self._encode(inputs, 'left'), outputs.shape[1]
        joined = join_outputs(prompts, outputs, counts, padding_side)
        if padding_side == 'left':
            # The outputs are the last columns of every row: nothing else needs the width of the vocabulary.
            logits = self.model(**joined, **self.loop.positions(joined), use_cache=False,
                                **self.loop.keep(tokens + 1)).logits[:, -tokens - 1:-1]
            return logits, self._hidden.last[:, -tokens - 1:-1]
        logits = self.model(**joined, use_cache=False).logits
        columns = prompts['attention_mask'].sum(dim=1)[:, None] - 1 + torch.arange(tokens, device=logits.device)
        columns = columns.clamp(max=logits.shape[1] - 1)
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows[:, None], columns], self._hidden.last[rows[:, None], columns]

    def _value(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…) float32 values of hidden states (…, width)."""
        return self.value_head(hidden.detach().float()).squeeze(-1)

    def cached_vision(self, limit_bytes: int) -> contextlib.AbstractContextManager[None]:
        """Within it a frozen vision tower encodes an image once, e.g. in all epochs of an update; see VisionCache.

        Args:
            limit_bytes: What may be kept at most, on the model's device; all of it is given back at the end.
        """
        return cached_vision(self._base(), limit_bytes)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the policy is what it was before RL: adapters off (without LoRA there is none to go back to)."""
        if self.config.lora is None:
            raise ValueError('a reference policy needs LoRA: set lora in the models file, or kl_coef to 0')
        with self.model.disable_adapter():
            yield

    # -- parameters

    def adapter_parameters(self) -> list[nn.Parameter]:
        """What the policy loss trains."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def value_parameters(self) -> list[nn.Parameter]:
        """What the value loss trains."""
        return list(self.value_head.parameters())

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return self.adapter_parameters() + self.value_parameters()

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Trained tensors of the model by name: the adapters as PEFT names them, or all weights without LoRA."""
        if self.config.lora is None:
            return {name: p.detach() for name, p in self.model.named_parameters()}
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(self.model))

    def adapter_config(self) -> dict[str, Any]:
        """PEFT's description of the adapters, as JSON holds it."""
        content = self.model.peft_config['default'].to_dict()
        return {key: sorted(value) if isinstance(value, set) else value for key, value in content.items()}

    def value_state(self) -> dict[str, torch.Tensor]:
        """Tensors of the value head by name."""
        return dict(self.value_head.state_dict())

    def load_state(self, adapter: dict[str, torch.Tensor] | None, value_head: dict[str, torch.Tensor]) -> None:
        """Take over tensors by name; every trained one must be there, with its shape.

        Args:
            adapter: As ``adapter_state`` gave them; None leaves the model as it is.
            value_head: As ``value_state`` gave them.

        Raises:
            ValueError: The tensors belong to another model or other LoRA settings.
        """
        if adapter is not None:
            own = self.adapter_state()
            if own.keys() != adapter.keys() or any(own[name].shape != adapter[name].shape for name in own):
                raise ValueError('its tensors are not those of the base model and its LoRA settings')
            with torch.no_grad():
                for name, tensor in own.items():  # shares memory with the model
                    tensor.copy_(adapter[name])
        self.value_head.load_state_dict(value_head)

    # -- inputs and hidden states

    def _encode(self, inputs: Sequence[PolicyInput], padding_side: str) -> Any:
        encoded = self.encoder.encode([i.image for i in inputs], [i.prompt for i in inputs], padding_side)
        encoded = encoded.to(self.device)
        dtype = self.model.dtype  # of the first parameter that is not quantized
        return {k: v.to(dtype) if torch.is_floating_point(v) else v for k, v in encoded.items()}

    def _base(self) -> Any:
        """The model without PEFT's shell; its layers keep their adapters."""
        return self.model.get_base_model() if self.config.lora is not None else self.model


def _distinct(inputs: Sequence[PolicyInput]) -> tuple[list[PolicyInput], list[int]]:
    """Inputs of which no two show the same to the model, and which of them each input is."""
    places: dict[Any, int] = {}
    keys = [(i.prompt, i.image.shape, i.image.tobytes()) for i in inputs]
    expand = [places.setdefault(key, len(places)) for key in keys]
    return [inputs[expand.index(place)] for place in range(len(places))], expand


class _HiddenStates:
    """What goes into the output embedding: the last hidden states, in every architecture.

    Attributes:
        first: (batch, positions, width) of the first forward pass since ``clear``.
        last: The same of the latest.
    """

    def __init__(self, output_embedding: nn.Module) -> None:
        self.first = self.last = torch.empty(0)
        output_embedding.register_forward_pre_hook(self._keep)

    def clear(self) -> None:
        """Forget both, and so the graph that they belong to."""
        self.first = self.last = torch.empty(0)

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.last = arguments[0]
        if not len(self.first):
            self.first = self.last
