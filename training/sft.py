"""Supervised fine-tuning on the expert's demonstrations: first what the image shows, then what to write about it.

Stage 1 (``vision``) trains vision tower and projector on per-patch grounding labels; stage 2 (``text``) trains the
whole model, or LoRA adapters, on prompt to output cross-entropy and keeps the grounding loss. Both stages depend on
the step number and the seed only, so that a run that was cut off continues as if it had not been.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from vlm_agent_ros.config import bounded, find_config, load_yaml, parse
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.policy.encoding import PromptEncoder
from vlm_agent_ros.policy.loading import add_lora, load_base, select_device

from .augment import Augmentation
from .dataset import DemonstrationDataset
from .grounding import GroundingHead
from .optimizer_state import load_optimizer, save_optimizer
from .sft_data import Batch, SftData
from .sft_metrics import greedy_accuracy, teacher_forced
from .tiny_vlm import TinyVlmConfig, build_tiny_vlm


@dataclass(frozen=True)
class Stage:
    """Length and step size of a stage."""

    steps: int = bounded(1000, low=0, help='optimiser steps; 0 skips the stage')
    batch: int = bounded(256, low=1, high=65536, help='samples a step')
    learning_rate: float = bounded(1e-3, low=0.0, high=1.0, help='AdamW, after warm-up')
    warmup: int = bounded(200, low=0, help='steps of linear warm-up; then cosine to a hundredth')


@dataclass(frozen=True)
class SftConfig:
    """Configuration of a run.

    Attributes:
        architecture: Sizes of a small VLM to build from scratch; None starts from the model's own weights.
    """

    data: tuple[str, ...] = bounded(help='demonstration files of `vlm-agent record`')
    model: str = bounded('tiny_vlm', help='models file: base, prompt, LoRA')
    architecture: TinyVlmConfig | None = None
    lora: bool = bounded(False, help='train LoRA adapters as the models file says and merge them at the end')
    vision: Stage = Stage()
    text: Stage = Stage()
    augmentation: Augmentation = Augmentation()
    grounding_weight: float = bounded(0.5, low=0.0, high=100.0, help='weight of the grounding loss in the text stage')
    weight_decay: float = bounded(0.02, low=0.0, high=1.0, help='of AdamW, on matrices')
    max_grad_norm: float = bounded(1.0, low=0.0, high=1000.0, help='gradients are clipped to this norm')
    held_out: float = bounded(0.02, low=0.0001, high=0.5, help='share of episodes kept for the metrics')
    eval_every: int = bounded(500, low=1, help='steps between teacher-forced metrics on held-out samples')
    eval_samples: int = bounded(1024, low=1, help='held-out samples of those metrics')
    greedy_samples: int = bounded(400, low=0, help='held-out samples written freely at the end')
    save_every: int = bounded(2000, low=1, help='steps between checkpoints of the training')
    seed: int = bounded(0, low=0, help='of weights, order, split and augmentation')


def load_sft_config(name: str) -> SftConfig:
    """A training file by shipped name or path.

    Raises:
        UserError: The file is missing or has a key that is unknown or out of range.
    """
    path = find_config('training', name)
    return parse(SftConfig, load_yaml(path), str(path))


def run_sft(config: SftConfig, folder: Path, device: str = 'auto') -> dict[str, object]:
    """Train, or continue a run that was cut off, and leave a Hugging Face directory in ``folder/model``.

    Args:
        config: What to train on and how.
        folder: ``model/`` (the result), ``metrics.jsonl``, ``summary.json``, and ``state/`` while it runs.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The content of ``summary.json``: sizes, speed and the metrics on held-out episodes.

    Raises:
        UserError: A file is missing or does not fit, or the device does not exist.
    """
    run = SftRun(config, folder, select_device(device))
    run.train()
    return run.finish()


class SftRun:
    """One run: model, data, optimiser and where it stands."""

    def __init__(self, config: SftConfig, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        torch.set_float32_matmul_precision('high')
        model_config = load_model_config(config.model)
        if config.architecture is not None:
            build_tiny_vlm(config.architecture, folder / 'untrained', config.seed)
            model_config = dataclasses.replace(model_config, base=str((folder / 'untrained').resolve()))
        self.model, processor = load_base(model_config, device)
        if config.lora and model_config.lora is not None:
            self.model = add_lora(self.model, model_config.lora)
        self.processor = processor
        dataset = DemonstrationDataset.concatenate([DemonstrationDataset.load(Path(path)) for path in config.data])
        self.data = SftData(dataset, PromptEncoder(processor, config.model), config.augmentation, device)
        self.train_rows, held_out = self.data.split(config.held_out, config.seed)
        self.eval_rows = np.random.default_rng(config.seed).permutation(held_out)
        width = self.model.get_output_embeddings().in_features
        self.head = GroundingHead(width, len(dataset.classes), dataset.grid).to(device)
        self.stage, self.step, self.seconds = 'vision', 0, 0.0
        self.history: list[dict[str, object]] = []

    def train(self) -> None:
        """Both stages, from where the run stands."""
        stages = {'vision': self.config.vision, 'text': self.config.text}
        optimizer = self._resume(stages)
        for name, stage in stages.items():
            if name == 'text' and self.stage == 'vision':
                self.stage, self.step, optimizer = 'text', 0, self._optimizer(stage)
            if name == self.stage and stage.steps:
                self._train_stage(stage, optimizer)

    def finish(self) -> dict[str, object]:
        """Write the model and the summary."""
        model = self.model.merge_and_unload() if self.config.lora else self.model
        model.save_pretrained(self.folder / 'model')
        self.processor.save_pretrained(self.folder / 'model')
        summary: dict[str, object] = {
            'samples': len(self.data.dataset),
            'held_out_samples': len(self.eval_rows),
            'parameters': sum(p.numel() for p in model.parameters()),
            'seconds': round(self.seconds, 1),
            'teacher_forced': self._evaluate(),
            'greedy': greedy_accuracy(model, self.data, self.eval_rows[: self.config.greedy_samples]),
        }
        (self.folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
        for leftover in ('state', 'untrained'):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)
        return summary

    def _train_stage(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        self.model.eval()  # no dropout: demonstrations are plentiful, and the policy must never have any
        started, first = time.perf_counter(), self.step
        while self.step < stage.steps:
            for group in optimizer.param_groups:
                group['lr'] = stage.learning_rate * _schedule(self.step, stage)
            rows = self._rows(self.step, stage.batch)
            # Different in both stages and at every step, the same in a continued run.
            seed = hash((self.config.seed, self.stage == 'text', self.step)) & 0x7FFFFFFF
            loss = self._vision_loss(rows, seed) if self.stage == 'vision' else self._text_loss(rows, seed)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(_parameters(optimizer), self.config.max_grad_norm)
            optimizer.step()
            self.step += 1
            if self.step % self.config.eval_every == 0 or self.step == stage.steps:
                elapsed = time.perf_counter() - started
                speed = (self.step - first) * stage.batch / elapsed
                self._log({'loss': float(loss), 'samples_per_s': round(speed), **self._evaluate()})
            if self.step % self.config.save_every == 0 or self.step == stage.steps:
                self._save(optimizer, self.seconds + time.perf_counter() - started)
        self.seconds += time.perf_counter() - started

    def _vision_loss(self, rows: np.ndarray, seed: int) -> torch.Tensor:
        objects = self.data.objects[torch.from_numpy(rows).to(self.device)]
        return self.head.loss(image_features(self.model, self.data.vision_inputs(rows, seed)), objects)

    def _text_loss(self, rows: np.ndarray, seed: int) -> torch.Tensor:
        batch = self.data.batch(rows, seed)
        logits, features = output_logits(self.model, batch)
        loss = cross_entropy(logits[batch.mask].float(), batch.outputs[batch.mask])
        if self.config.grounding_weight:
            loss = loss + self.config.grounding_weight * self.head.loss(features, batch.objects)
        return loss

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Metrics of the present stage on held-out samples, in batches that fit where training batches fit."""
        rows = self.eval_rows[: self.config.eval_samples]
        sums: dict[str, float] = {}
        for part in np.array_split(rows, math.ceil(len(rows) / self.config.text.batch)):
            objects = self.data.objects[torch.from_numpy(part).to(self.device)]
            metrics = {}
            if self.stage == 'text':
                batch = self.data.batch(part, None)
                logits, features = output_logits(self.model, batch)
                metrics = teacher_forced(logits, batch)
            else:
                features = image_features(self.model, self.data.vision_inputs(part, None))
            if self.stage == 'vision' or self.config.grounding_weight:
                metrics['grounded_within_1'] = self.head.within_one_cell(features, objects)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value * len(part) / len(rows)
        return {name: round(value, 4) for name, value in sums.items()}

    def _rows(self, step: int, batch: int) -> np.ndarray:
        """Rows of a step: every epoch is a permutation of its own, so that a step needs no memory of those before."""
        position = np.arange(step * batch, (step + 1) * batch)
        epochs, offsets = np.divmod(position, len(self.train_rows))
        rows = np.empty(batch, np.int64)
        for epoch in np.unique(epochs):
            rows[epochs == epoch] = self._order(int(epoch))[offsets[epochs == epoch]]
        return rows

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, '_epoch', None) != epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng((self.config.seed, epoch)).permutation(self.train_rows)
        return self._permutation
