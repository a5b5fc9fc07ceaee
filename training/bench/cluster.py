"""Two workers on a cluster of this machine against the engine in one process, where worlds take most of the time."""

from __future__ import annotations

import time
from dataclasses import asdict
from statistics import median
from typing import Any

from ..cluster.connection import connected, trained_bytes
from ..cluster.plan import Rates, point
from ..cluster.players import ClusterPlayers
from ..config import TrainConfig
from ..rl.learner import Learner
from ..rl.rollout import LocalPlayers, Players, Rollout, TrainingSchedule, collect
from ..rl.train import environment_of, policy_of
from ..session import use_threads
from .bench_setup import BenchSetup, PartResult
from .timing import interleaved, ratio

_WORKERS = 2
_TARGET = 1.3


def run(setup: BenchSetup) -> PartResult:
    """Decisions per second of a rollout, in step (``max_staleness`` 0), and what a scaling plan needs.

    Thoughts are off: so the worlds take most of the time, as the share that is reported says.
    """
    worlds, decisions = (4, 8) if setup.quick else (8, 64)
    config = TrainConfig(task='place', world='panda_table', own_world='', model=setup.model, transport='in-process',
                         cot=False, seed=setup.seed, worlds=worlds, decisions_per_update=decisions, workers=_WORKERS,
                         value_warmup_updates=0, epochs=1)
    environment = environment_of(config)
    use_threads(1)
    policy = policy_of(config, environment, 'cpu')  # as those of the workers, to which no GPU is given
    pool = environment.open(worlds)
    try:
        local = LocalPlayers(config, policy, pool, environment.commanders(policy.prompt, config.illegal_rule))
        with connected(config, policy) as ray, ClusterPlayers(config, policy, ray) as cluster:
            return _compared(setup, config, {'in_process': local, 'workers': cluster})
    finally:
        pool.close()


def _compared(setup: BenchSetup, config: TrainConfig, players: dict[str, Players]) -> PartResult:
    schedules = {name: TrainingSchedule(config) for name in players}
    playing = {name: engine.player('bench') for name, engine in players.items()}
    made: dict[str, list[Rollout]] = {name: [] for name in players}

    def roll(name: str) -> None:
        schedule = schedules[name] = TrainingSchedule(config, schedules[name].opened)
        made[name].append(collect(playing[name], schedule, config, 1.0))

    seconds = interleaved({name: lambda name=name: roll(name) for name in players}, setup.repeats)  # type: ignore[misc]
    # Both play the same episodes, so that a ratio of seconds is one of decisions per second.
    counts = {name: [rollout.decisions for rollout in rollouts][-setup.repeats:] for name, rollouts in made.items()}
    if counts['in_process'] != counts['workers']:
        raise RuntimeError(f'the engines played different episodes: {counts}')
    local, cluster = playing['in_process'], playing['workers']
    busy = local.clock
    share = 1.0 - busy.deciding / max(busy.deciding + busy.waiting + busy.planning, 1e-9)
    speeds = {name: median(count / s for count, s in zip(counts[name], seconds[name])) for name in players}
    rates = _rates(config, made['workers'][-1], local.policy, cluster.figures)
    speedup = ratio(seconds['in_process'], seconds['workers'])
    figures: dict[str, Any] = {
        'speedup': speedup, 'world_share': share, 'decisions_per_second': speeds,
        'rates': asdict(rates), 'saturation_workers': rates.saturation,
        'plan': [asdict(point(rates, workers)) for workers in (1, 8, 64, 512)],
    }
    return PartResult(figures, [
        (f'{_WORKERS} workers against one process, decisions/s, worlds {share:.0%} of the time', f'{speedup:.2f}×',
         f'≥ {_TARGET}×'),
        ('decisions/s in one process, with workers', f'{speeds["in_process"]:.1f}, {speeds["workers"]:.1f}', ''),
        ('workers at which the learner is saturated', f'{rates.saturation:.1f}', ''),
    ])


def _rates(config: TrainConfig, rollout: Rollout, policy: Any, figures: dict[str, float]) -> Rates:
    """Measured rates of worker and learner."""
    learner = Learner(policy, config, config.seed)
    started = time.perf_counter()
    learner.update(rollout.samples, number=0, temperature=1.0, progress=0.0)
    learned = rollout.decisions / (time.perf_counter() - started)
    return Rates(worker=figures['worker_decisions_per_second'], learner=learned, update=rollout.decisions,
                 weights=trained_bytes(policy), decision=figures['episodes_mib'] * 2**20 / rollout.decisions)
