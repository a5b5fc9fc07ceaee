"""The update of the main job against a straightforward one: samples per second and peak memory."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig, load_train_config
from ..rl.algorithms import Sample
from ..rl.learner import Learner
from ..rl.rollout import TrainingSchedule, collect
from ..rl.train import environment_of
from ..session import use_threads
from ..worlds.episodes import Player
from .bench_setup import BenchSetup, PartResult
from .straightforward import StraightforwardPolicy
from .timing import interleaved, ratio

CONTENDERS = ('ours', 'straightforward')
_SAME_MICRO_BATCH = 'straightforward_in_micro_batches'


def run(setup: BenchSetup) -> PartResult:
    """Play a rollout of the main job, then learn from it both ways, from the same weights each time.

    Both make the same optimiser steps on the same minibatches, thought guard included. The straightforward one passes
    a whole minibatch through the model at once; for memory it is also measured in micro batches of our size.
    """
    config = _config(setup)
    use_threads(config.update_threads)
    policy = _policy(setup, config)
    samples = _rollout(setup, config, policy)
    start = [p.detach().clone() for p in policy.parameters()]
    ends: dict[str, list[torch.Tensor]] = {}
    learned: dict[str, dict[str, float]] = {}

    def contender(name: str) -> Callable[[], None]:
        learner = _learner(name, policy, config, samples, setup.seed)
        fresh = learner.optimizer.state_dict()

        def update() -> None:
            _set(policy, start)
            learner.load_state_dict(fresh)
            learned[name] = _update(learner, samples, config)
            ends[name] = [p.detach().clone() for p in policy.parameters()]

        return update

    seconds = interleaved({name: contender(name) for name in CONTENDERS}, setup.repeats, 0 if setup.quick else 1)
    _set(policy, start)
    count = config.epochs * _passed(samples, config)
    memory = _memory(setup, config, samples)
    figures: dict[str, Any] = {
        'speedup': ratio(seconds['straightforward'], seconds['ours']),
        'memory_ratio': memory['ours'] / memory['straightforward'],
        'samples_per_second': {name: count / median(seconds[name]) for name in CONTENDERS},
        'seconds': seconds, 'peak_memory_mib': memory,
        'difference': _difference(ends['ours'], ends['straightforward'], start),
        'logprob_error': learned['ours']['logprob_error'],
        'decisions': len(samples), 'passed_per_epoch': _passed(samples, config), 'epochs': config.epochs,
        'minibatch_size': config.minibatch_size, 'micro_batch_size': config.micro_batch_size,
        'threads': config.update_threads,
    }
    if _SAME_MICRO_BATCH in memory:
        figures['memory_ratio_same_micro_batch'] = memory['ours'] / memory[_SAME_MICRO_BATCH]
    rows = [('samples/s against a straightforward update', f'{figures["speedup"]:.2f}×', '≥ 4×'),
            ('peak memory against a straightforward update', f'{figures["memory_ratio"]:.0%}', '≤ 50 %'),
            ('samples/s', f'{figures["samples_per_second"]["ours"]:.1f}', '')]
    return PartResult(figures, rows)


def _config(setup: BenchSetup) -> TrainConfig:
    """The main job, with a shorter rollout: its size changes neither contender's work per sample."""
    small = {'worlds': 4, 'decisions_per_update': 4, 'epochs': 1} if setup.quick else {
        'worlds': 8, 'decisions_per_update': 96}
    return load_train_config('ppo', {'transport': 'in-process', 'model': setup.model, 'seed': setup.seed, **small})


def _policy(setup: BenchSetup, config: TrainConfig) -> Policy:
    environment = environment_of(config)
    return load_policy(setup.model, language=environment.language, prompt=environment.prompt,
                       constrained=config.constrained, cot=config.cot, seed=setup.seed, device=setup.device)


def _rollout(setup: BenchSetup, config: TrainConfig, policy: Policy) -> list[Sample]:
    environment = environment_of(config)
    pool = environment.open(config.worlds, setup.folder / 'update')
    try:
        player = Player(policy, pool, environment.commanders(policy.prompt, config.illegal_rule),
                        half_batches=config.half_batches, unit=config.group_size)
        return collect(player, TrainingSchedule(config), config, config.temperature).samples
    finally:
        pool.close()


def _learner(name: str, policy: Policy, config: TrainConfig, samples: list[Sample], seed: int) -> Learner:
    if name == 'ours':
        return Learner(policy, config, seed)
    corrected = [sample for sample in samples if sample.correction is not None]
    plain: Any = StraightforwardPolicy(
        policy, [sample.input for sample in samples],
        [*(sample.decision for sample in samples), *(s.correction.said for s in corrected if s.correction)])
    size = config.micro_batch_size if name == _SAME_MICRO_BATCH else config.minibatch_size * 2
    return _PlainLearner(plain, replace(config, micro_batch_size=size), seed)


class _PlainLearner(Learner):
    """Reads an input again for what is corrected of the decision on it, after it has learned from the decision."""

    def _accumulate(self, samples: list[Sample], minibatch: np.ndarray, temperature: float, reference: Any,
                    value_only: bool, guard: float, statistics: Any) -> torch.Tensor:
        kl = super()._accumulate(samples, minibatch, temperature, reference, value_only, 0.0, statistics)
        if guard:
            corrected = [samples[i] for i in minibatch if samples[i].correction is not None]
            self._correct(corrected, guard, statistics)
        return kl


def _update(learner: Learner, samples: list[Sample], config: TrainConfig) -> dict[str, float]:
    return learner.update(samples, number=config.value_warmup_updates, temperature=config.temperature, progress=0.0)


def _passed(samples: list[Sample], config: TrainConfig) -> int:
    """Outputs that go through the model in an epoch: decisions that tell something, and corrections."""
    telling = sum(abs(sample.advantage) >= config.min_advantage for sample in samples)
    return (telling or len(samples)) + sum(sample.correction is not None for sample in samples) * bool(telling)


def _set(policy: Policy, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(policy.parameters(), values):
            parameter.copy_(value)


def _difference(ours: list[torch.Tensor], others: list[torch.Tensor], start: list[torch.Tensor]) -> float:
    """Distance of the two results, relative to how far the update went."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(ours, others))
    moved = sum(float((b - c).square().sum()) for b, c in zip(others, start))
    return (apart / moved) ** 0.5 if moved else 0.0


# -- memory

def _memory(setup: BenchSetup, config: TrainConfig, samples: list[Sample]) -> dict[str, float]:
    """Peak of each contender in a process of its own, MiB above what model and samples take."""
    folder = setup.folder / 'update'
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'samples.pickle'
    file.write_bytes(pickle.dumps(samples))
    peaks = {}
    try:
        for name in CONTENDERS if setup.quick else (*CONTENDERS, _SAME_MICRO_BATCH):
            child = multiprocessing.get_context('spawn').Process(target=_measure_memory, args=(setup, name, file))
            child.start()
            child.join()
            peaks[name] = json.loads((folder / f'{name}.json').read_text(encoding='utf-8'))['mib']
    finally:
        file.unlink()
    return peaks


def _measure_memory(setup: BenchSetup, name: str, file: Path) -> None:
    """In a fresh process: one epoch, after a pass over one sample has loaded what is loaded lazily."""
    config = replace(_config(setup), epochs=1)
    use_threads(config.update_threads)
    policy = _policy(setup, config)
    samples: list[Sample] = pickle.loads(file.read_bytes())  # written by the parent a moment ago
    telling = max(samples, key=lambda sample: abs(sample.advantage))
    _update(_learner(name, policy, config, [telling], setup.seed), [telling], config)
    learner = _learner(name, policy, config, samples, setup.seed)
    peak = _peak_of(lambda: _update(learner, samples, config), torch.device(setup.device))
    (file.parent / f'{name}.json').write_text(json.dumps({'mib': peak / 2**20}), encoding='utf-8')


def _peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory grew at most: of the GPU as PyTorch counts it, else resident, as Linux counts it."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # the peak starts anew
    before = _status_bytes('VmRSS')
    work()
    return _status_bytes('VmHWM') - before


def _status_bytes(key: str) -> int:
    lines = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ':'))
