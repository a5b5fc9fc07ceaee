"""Supervised fine-tuning on the expert's demonstrations: first what the image shows, then what to write about it.

Stage 1 (``vision``) trains vision tower and projector on per-patch grounding labels; stage 2 (``text``) trains the
language model alone on prompt to output cross-entropy, which costs half of a whole step; stage 3 (``joint``) trains
everything, or LoRA adapters, and keeps the grounding loss. All stages depend on the step number and the seed only, so
that a run that was cut off continues as if it had not been.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy

from vlm_agent_ros.bundle import is_bundle, read_bundle, write_bundle
from vlm_agent_ros.config import bounded
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import MODELS_FILE, ModelConfig, load_model_config
from vlm_agent_ros.policy.encoding import PromptEncoder
from vlm_agent_ros.policy.loading import add_lora, load_base, select_device
from vlm_agent_ros.policy.output import THOUGHT_CHARACTER

from .. import optimizer_state
from ..demonstrations.dataset import DemonstrationDataset
from ..metrics import write_atomically
from .augment import Augmentation
from .grounding import GroundingHead
from .image_features import ImageFeatures
from .sample_order import SampleOrder, sample_weights
from .sft_data import SftData
from .sft_metrics import greedy_accuracy, teacher_forced
from .tiny_vlm import TinyVlmConfig, build_tiny_vlm

_STATE_KIND = 'sft_state'
_STAGES = ('vision', 'text', 'joint')


@dataclass(frozen=True)
class Stage:
    """Length and step size of a stage."""

    steps: int = bounded(1000, low=0, help='optimiser steps; 0 skips the stage')
    batch: int = bounded(256, low=1, high=65536, help='samples a step')
    learning_rate: float = bounded(1e-3, low=0.0, high=1.0, help='AdamW, after warm-up')
    warmup: int = bounded(200, low=0, help='steps of linear warm-up; then cosine to a hundredth')
    augment: bool = bounded(True, help='change light, colour and sharpness of the images at random')

    def learning_rate_at(self, step: int) -> float:
        """Step size of a step, from 0."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1)) * (0.01 + 0.99 * cosine)


@dataclass(frozen=True)
class SftConfig:
    """Configuration of a run.

    Attributes:
        architecture: Sizes of a small VLM to build from scratch; None starts from the weights of ``base``.
    """

    data: tuple[str, ...] = bounded(help='datasets of `vlm-agent record`: folders, or parquet files')
    weights: dict[str, float] = bounded({}, low=0.0, high=1000.0, help='how often samples of a task or rare event are '
                                        'drawn, by its name in the data card; several are multiplied')
    model: str = bounded('tiny_vlm', help='models file: base, prompt, LoRA')
    base: str = bounded('', help='model to start from, as in a models file; empty for that of the models file')
    architecture: TinyVlmConfig | None = None
    cot: bool = bounded(True, help='learn the thoughts; off: empty ones, for `vlm-agent train --no-cot`')
    lora: bool = bounded(False, help='train LoRA adapters as the models file says and merge them at the end')
    vision: Stage = Stage()
    text: Stage = Stage()
    joint: Stage = Stage(steps=0)
    autocast: bool = bounded(True, help='matrix products in bfloat16 where the device has instructions for them; '
                             'weights and losses stay float32')
    augmentation: Augmentation = Augmentation()
    grounding_weight: float = bounded(0.5, low=0.0, high=100.0, help='weight of the grounding loss in the joint stage')
    weight_decay: float = bounded(0.02, low=0.0, high=1.0, help='of AdamW, on matrices')
    max_grad_norm: float = bounded(1.0, low=0.0, high=1000.0, help='gradients are clipped to this norm')
    held_out: float = bounded(0.02, low=0.0001, high=0.5, help='share of episodes kept for the metrics')
    eval_every: int = bounded(500, low=1, help='steps between teacher-forced metrics on held-out samples')
    eval_samples: int = bounded(1024, low=1, help='held-out samples of those metrics')
    greedy_samples: int = bounded(400, low=1, help='held-out samples written freely at the end')
    save_every: int = bounded(2000, low=1, help='steps between states from which a run that was cut off continues')
    seed: int = bounded(0, low=0, high=2**32 - 1, help='of weights, order, split and augmentation')


class SftTrainer:
    """One run: model, data, optimiser and where it stands.

    The folder holds the model at the end, with ``sft_metrics.jsonl`` and ``sft_summary.json`` beside it, and
    ``sft_state/`` until then.

    Args:
        config: What to train on and how.
        folder: The model directory that results; if it holds the state of the same run, that run is continued.
        device: ``auto``, ``cpu`` or ``cuda``.

    Attributes:
        saved: Where the run would go on, in words.

    Raises:
        UserError: A file is missing or does not fit, the folder is taken, or the device does not exist.
    """

    def __init__(self, config: SftConfig, folder: Path, device: str = 'auto') -> None:
        self.config, self.folder, self.device = config, folder, select_device(device)
        if (folder / 'config.json').exists():
            raise UserError(f'{folder} holds a model already: choose another --out, or delete it')
        dataset = DemonstrationDataset.load([Path(path).expanduser() for path in config.data])
        if not config.cot:
            dataset = dataset.without_thoughts(load_model_config(config.model).prompt)
        _check_thoughts(config, dataset)
        weights = sample_weights(dataset, config.weights)
        if not (dataset.objects[..., 3] > 0).any() and (config.vision.steps or config.grounding_weight):
            raise UserError(f'{", ".join(config.data)}: nothing is known of the objects in the images (column objects, '
                            'and metadata vlm_agent_ros of the schema), which grounding needs: set vision.steps and '
                            'grounding_weight to 0')
        torch.manual_seed(config.seed)
        torch.set_float32_matmul_precision('high')
        self.model, self.processor = _load_model(config, self.device)
        self.data = SftData(dataset, PromptEncoder(self.processor, config.model), config.augmentation, self.device)
        self.order = SampleOrder(config.seed, *self.data.split(config.held_out, config.seed), weights)
        self.features = ImageFeatures(self.model)
        self._bfloat16 = config.autocast and has_bfloat16(self.device)
        width = self.model.get_output_embeddings().weight.shape[1]
        self.head = GroundingHead(width, len(dataset.classes), dataset.grid).to(self.device)
        self.stage, self.step, self.seconds = 'vision', 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.saved = 'its start'

    def train(self) -> None:
        """All stages, from where the run stands; progress goes to stdout.

        Raises:
            UserError: The state found belongs to another run, or cannot be written.
        """
        optimizer = self._optimizer()
        state = self.folder / 'sft_state'
        if is_bundle(state, _STATE_KIND):
            self._resume(state, optimizer)
        for name in _STAGES[_STAGES.index(self.stage):]:
            if name != self.stage:
                self.stage, self.step, optimizer = name, 0, self._optimizer()
            self._train_stage(getattr(self.config, name), optimizer)

    def finish(self) -> dict[str, Any]:
        """Write the model and the summary.

        Returns:
            The content of ``sft_summary.json``: sizes, speed, and metrics on held-out episodes.

        Raises:
            UserError: The folder cannot be written to.
        """
        model = self.model.merge_and_unload() if self.config.lora else self.model
        summary = {
            'samples': len(self.data.dataset),
            'held_out_samples': len(self.order.held_out),
            'parameters': sum(p.numel() for p in model.parameters()),
            'seconds': round(self.seconds, 1),
            'teacher_forced': self._evaluate(),
            'greedy': greedy_accuracy(model, self.data, self.order.held_out[:self.config.greedy_samples]),
            'config': _plain(self.config),
        }
        write_atomically(self.folder / 'sft_summary.json', json.dumps(summary, indent=2) + '\n')
        _save_model(self.folder, model, self.processor, self._settings())
        shutil.rmtree(self.folder / 'sft_state', ignore_errors=True)
        return summary

    def _settings(self) -> ModelConfig:
        """Those of the models file, with the prompt that the demonstrations have, where they all tell the same."""
        settings, templates = load_model_config(self.config.model), set(self.data.dataset.templates)
        template = templates.pop() if len(templates) == 1 else ''
        return dataclasses.replace(settings, prompt=dataclasses.replace(
            settings.prompt, template=template or settings.prompt.template))

    # -- training

    def _train_stage(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        started, first, before = time.perf_counter(), self.step, self.seconds
        while self.step < stage.steps:
            for group in optimizer.param_groups:
                group['lr'] = stage.learning_rate_at(self.step)
            rows = self.order.rows(self.step, stage.batch)
            seed = self.order.seed(_STAGES.index(self.stage), self.step) if stage.augment else None
            loss = self._vision_loss(rows, seed) if self.stage == 'vision' else self._text_loss(rows, seed)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
            optimizer.step()
            self.step += 1
            elapsed, last = time.perf_counter() - started, self.step == stage.steps
            self.seconds = before + elapsed
            if self.step % self.config.eval_every == 0 or last:
                self._log({'train_loss': round(loss.item(), 4), **self._evaluate(),
                           'samples_per_s': round((self.step - first) * stage.batch / elapsed)})
            if self.step % self.config.save_every == 0 or last:
                self._save(optimizer)

    def _vision_loss(self, rows: np.ndarray, seed: int | None) -> torch.Tensor:
        objects = self.data.objects[torch.from_numpy(rows).to(self.device)]
        with self._autocast():
            features = self.features.of(self.data.vision_inputs(rows, seed))
        return self.head.loss(features.float(), objects)

    def _text_loss(self, rows: np.ndarray, seed: int | None) -> torch.Tensor:
        batch = self.data.batch(rows, seed)
        with self._autocast(), self.features.frozen(self.stage == 'text'):
            logits = _output_logits(self.model, batch.inputs, batch.outputs.shape[1])
        loss = cross_entropy(logits[batch.mask].float(), batch.outputs[batch.mask])
        if self.config.grounding_weight and self.stage == 'joint':
            loss = loss + self.config.grounding_weight * self.head.loss(self.features.latest().float(), batch.objects)
        return loss

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16)

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Metrics of the present stage on held-out samples, in batches that fit where training batches fit."""
        rows = self.order.held_out[:self.config.eval_samples]
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for part in np.array_split(rows, math.ceil(len(rows) / self.config.text.batch)):
            metrics: dict[str, float] = {}
            if self.stage != 'vision':
                batch = self.data.batch(part, None)
                metrics = teacher_forced(_output_logits(self.model, batch.inputs, batch.outputs.shape[1]), batch)
            if self.stage == 'vision' or self.config.grounding_weight:
                seen = self.stage != 'vision'
                features = self.features.latest() if seen else self.features.of(self.data.vision_inputs(part, None))
                objects = self.data.objects[torch.from_numpy(part).to(self.device)]
                metrics['grounded_within_1'] = self.head.within_one_cell(features, objects)
            for name, value in metrics.items():
                if not math.isnan(value):  # no number to write, or no object in sight, in this part
                    sums[name] = sums.get(name, 0.0) + value * len(part)
                    counts[name] = counts.get(name, 0) + len(part)
        return {name: round(value / counts[name], 4) for name, value in sums.items()}

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for _, p in self._trained()]
        return torch.optim.AdamW(
            [{'params': [p for p in parameters if p.ndim > 1], 'weight_decay': self.config.weight_decay},
             {'params': [p for p in parameters if p.ndim < 2], 'weight_decay': 0.0}],
            betas=(0.9, 0.98), fused=self.device.type == 'cuda')

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and tensor of all that is trained."""
        for prefix, module in (('model', self.model), ('head', self.head)):
            for name, parameter in module.named_parameters(prefix):
                if parameter.requires_grad:
                    yield name, parameter

    # -- state

    def _log(self, metrics: dict[str, Any]) -> None:
        row = {'stage': self.stage, 'step': self.step, 'seconds': round(self.seconds, 1), **metrics}
        self.history.append(row)
        write_atomically(self.folder / 'sft_metrics.jsonl', ''.join(json.dumps(r) + '\n' for r in self.history))
        print('  '.join(f'{name} {value}' for name, value in row.items()), flush=True)

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        tensors, rest = optimizer_state.split_state(optimizer.state_dict())
        progress = {'stage': self.stage, 'step': self.step, 'seconds': self.seconds, 'history': self.history,
                    'config': _plain(self.config)}
        write_bundle(self.folder / 'sft_state', _STATE_KIND, {}, tensors={'weights': dict(self._trained()),
                     'optimizer': tensors}, documents={'progress': progress, 'optimizer': rest})
        self.saved = f'step {self.step} of the {self.stage} stage'

    def _resume(self, path: Path, optimizer: torch.optim.Optimizer) -> None:
        state = read_bundle(path, _STATE_KIND)
        progress, weights = state.document('progress'), state.tensors('weights')
        if progress['config'] != _plain(self.config):
            raise UserError(f'{path} belongs to a run of another configuration: repeat its options, choose another '
                            '--out, or delete it')
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(weights[name])
        optimizer_state.restore(optimizer, state.tensors('optimizer'), state.document('optimizer'), str(path))
        self.stage, self.step, self.seconds = progress['stage'], progress['step'], progress['seconds']
        self.history = progress['history']
        self.saved = f'step {self.step} of the {self.stage} stage'
        print(f'{path}: continuing from {self.saved}', flush=True)


def has_bfloat16(device: torch.device, cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Whether a device multiplies in bfloat16 by itself; a CPU that has to emulate it takes nine times as long as in
    float32.

    Args:
        device: Where a run computes.
        cpuinfo: Where Linux lists what a CPU can do.
    """
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        known = set(cpuinfo.read_text(encoding='utf-8').split())
    except OSError:  # another system
        return False
    return not known.isdisjoint(('avx512_bf16', 'amx_bf16', 'bf16'))  # the last one is ARM's


def _plain(config: SftConfig) -> Any:
    """The configuration as it reads back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _check_thoughts(config: SftConfig, dataset: DemonstrationDataset) -> None:
    """Refuse what the policy would learn to write and never may."""
    decoding = load_model_config(config.model).decoding
    if decoding.constrained:
        written = re.compile(f'{THOUGHT_CHARACTER}*')
        strange = next((str(thought) for thought in dataset.thoughts if not written.fullmatch(str(thought))), None)
        if strange is not None:
            raise UserError(f'{", ".join(config.data)}: the thought {strange!r} is not of printable ASCII without '
                            'quote and backslash, and the grammar of outputs lets nothing else through: word it '
                            'otherwise, or set cot to false')
    limit = decoding.max_thought_chars
    longest = max((str(thought) for thought in dataset.thoughts), key=len, default='')
    if len(longest) > limit:
        raise UserError(f'{", ".join(config.data)}: a thought has {len(longest)} characters ({longest[:60]!r}…), but '
                        f'decoding.max_thought_chars of the models file {config.model} allows {limit}: raise that, '
                        'record shorter thoughts, or set cot to false')


def _load_model(config: SftConfig, device: torch.device) -> tuple[Any, Any]:
    """Model and processor to start from."""
    model_config = load_model_config(config.model)
    if config.base:
        model_config = dataclasses.replace(model_config, base=config.base)
    if config.lora and model_config.lora is None:
        raise UserError(f'lora is true, but the models file {config.model} has no lora: add it, or set lora to false')
    if model_config.quantization != 'none':
        raise UserError(f'the models file {config.model} says quantization {model_config.quantization}, but sft writes '
                        'a whole model, and what it learned cannot be merged into such weights: set it to none')
    with tempfile.TemporaryDirectory() as untrained:
        if config.architecture is not None:
            build_tiny_vlm(config.architecture, Path(untrained), config.seed)
            model_config = dataclasses.replace(model_config, base=untrained)
        model, processor = load_base(model_config, device)
    # On CPUs the fused attention's backward pass is several times slower than plain matrix products.
    model.set_attn_implementation('eager' if device.type == 'cpu' else 'sdpa')
    return (add_lora(model, model_config.lora) if config.lora and model_config.lora else model), processor


def _save_model(folder: Path, model: Any, processor: Any, settings: ModelConfig) -> None:
    """Write a Hugging Face directory that says how it was prompted; ``config.json``, by which it is known, is last."""
    temporary = folder / '.model.tmp'
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        own = {key: value for key, value in dataclasses.asdict(settings).items() if key != 'base'}
        (temporary / MODELS_FILE).write_text(yaml.safe_dump(own, sort_keys=False), encoding='utf-8')
        for file in sorted(temporary.iterdir(), key=lambda path: path.name == 'config.json'):
            file.replace(folder / file.name)
    except Exception as error:  # safetensors and tokenizers have no common class for a full disk
        raise UserError(f'{folder} cannot be written ({error}): free space and repeat the command') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _output_logits(model: Any, inputs: dict[str, Any], tokens: int) -> torch.Tensor:
    """(batch, tokens, vocabulary) logits that predict the last ``tokens`` columns of the input."""
    # Families without the argument compute the logits of the prompt as well.
    base = model.get_base_model() if hasattr(model, 'get_base_model') else model
    takes = 'logits_to_keep' in inspect.signature(base.forward).parameters
    return model(**inputs, **({'logits_to_keep': tokens + 1} if takes else {})).logits[:, -tokens - 1:-1]
