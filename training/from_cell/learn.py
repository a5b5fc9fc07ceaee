"""``vlm-agent train --from-cell``: a checkpoint that has learned from what was logged at a cell."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_agent_ros.actions import ActionError, ActionLanguage, SkillLanguage
from vlm_agent_ros.audit.log import LoggedDecision
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.checkpoint import find_policy, load_policy, policy_digest, save_checkpoint, weights_digest
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy

from ..config import as_mapping
from ..metrics import MetricsLog, write_atomically
from ..progress import Progress
from ..rl.algorithms.grpo import GRPO
from ..rl.learner import Learner, require_trainable
from ..rl.run_folder import RunFolder, new_run_path
from ..session import machine, use_threads, versions
from .config import CellTrainConfig
from .decisions import LoggedEpisode, Place, cell_of, read_logs, said
from .measure import Measurement
from .samples import Learned, corrected_output, make_samples, policy_input

_BATCH = 16
_FEWEST = 10


def learn_from_cell(logs: Sequence[Path], config: CellTrainConfig, world: str) -> dict[str, Any]:
    """Learn, measure before and after, and leave a run folder with a checkpoint.

    Args:
        logs: Audit logs.
        config: The run.
        world: World file of a simulated counterpart of the cell to measure in; empty for none.

    Returns:
        The content of summary.json.

    Raises:
        UserError: Bad input, told before anything is trained; or a disk that is full.
    """
    started = time.perf_counter()
    cell = cell_of(logs, config.cell)
    path = new_run_path(config.runs_dir, config.run_name or time.strftime('from-cell-%Y%m%d-%H%M%S'))
    with contextlib.ExitStack() as opened:
        measurement = None
        if world and config.eval_episodes:
            measurement = opened.enter_context(contextlib.closing(Measurement(config, world, path / 'logs')))
        return _learn(logs, config, cell, path, measurement, started)


def _learn(logs: Sequence[Path], config: CellTrainConfig, cell: Cell, path: Path, measurement: Measurement | None,
           started: float) -> dict[str, Any]:
    use_threads(config.update_threads)
    language = SkillLanguage(cell.grid)
    found = find_policy(config.model)
    policy = load_policy(found, language=language, camera=cell.camera, constrained=config.constrained,
                         cot=config.cot, seed=config.seed)
    data = read_logs(logs, cell, policy.prompt, language)
    require_trainable(policy, config)
    held_out = newest_corrections(data.episodes, config.held_out)
    digests = policy_digest(found), weights_digest(found)  # older logs tell the latter
    learned = make_samples(data.episodes, held_out, policy, language, config, digests)
    if not learned.samples:
        raise UserError(_nothing(logs, data.counts, learned))
    folder = RunFolder(path)
    write_atomically(path / 'config.json', json.dumps(as_mapping(config), indent=2) + '\n')
    before = _measure(held_out, policy, language, measurement, 'before')
    rows = _train(learned, policy, config, folder.path)
    after = _measure(held_out, policy, language, measurement, 'after')
    checkpoint = _save(folder, policy, config, cell, {'before': before, 'after': after})
    summary = {
        'run_name': path.name, 'logs': [str(log) for log in logs], 'model': config.model, 'cell': cell.name,
        'world': measurement.world if measurement else '', 'checkpoint': str(checkpoint), 'found': data.counts,
        'learned': learned.counts, 'before': before, 'after': after, 'last_update': rows[-1], 'seed': config.seed,
        'wall_s': round(time.perf_counter() - started, 1), 'versions': versions(), 'machine': machine(),
        'config': as_mapping(config)}
    write_atomically(path / 'summary.json', json.dumps(summary, indent=2) + '\n')
    return summary


def newest_corrections(episodes: Sequence[LoggedEpisode], share: float) -> dict[Place, LoggedDecision]:
    """The newest share of the corrected decisions, to measure on; none of less than ten.

    A random share would hold the images of a moment later than those that were learned from.
    """
    corrected = [(place, d) for e in episodes for place, d in e.placed() if said(d)]
    corrected.sort(key=lambda placed: placed[1].time_ns)  # logs may be named in any order
    count = round(share * len(corrected)) if len(corrected) >= _FEWEST else 0
    return dict(corrected[len(corrected) - count:])


def agreement(decisions: Iterable[LoggedDecision], policy: Policy, language: ActionLanguage) -> dict[str, Any]:
    """How often the policy now does what the operator would have had: of ``n`` corrections the share that it ``agrees``
    with, and ``within_1``, with the same skill at the same cell or a neighbour of it.
    """
    wanted = [(policy_input(d, policy, language), output.action) for d in decisions
              if (output := corrected_output(d, policy)) is not None]
    agreed = near = 0
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start:start + _BATCH]
        now = policy.decide([seen for seen, _ in batch], temperature=1.0, greedy=True)
        for decision, (_, action) in zip(now, batch):
            agreed += decision.action == action
            near += _is_near(decision.action, action, language)
    shares = {'agrees': agreed, 'within_1': near}
    return {'n': len(wanted), **{name: count / len(wanted) if wanted else None for name, count in shares.items()}}


def _is_near(action: str, wanted: str, language: ActionLanguage) -> bool:
    try:
        here, there = language.parse(action), language.parse(wanted)
    except ActionError:
        return False
    same = type(here) is type(there) and getattr(here, 'direction', '') == getattr(there, 'direction', '')
    return same and all(abs(getattr(here, axis, 0) - getattr(there, axis, 0)) <= 1 for axis in ('column', 'row'))


def _measure(held_out: Mapping[Place, LoggedDecision], policy: Policy, language: ActionLanguage,
             measurement: Measurement | None, name: str) -> dict[str, Any]:
    return {'corrections': agreement(held_out.values(), policy, language),
            'simulation': measurement.evaluate(policy, name) if measurement else None}


def _train(learned: Learned, policy: Policy, config: CellTrainConfig, folder: Path) -> list[dict[str, Any]]:
    """All passes; the log-probabilities at sampling stay those of the log, so that every pass sees the true ratio."""
    # Its loss is the clipped surrogate alone: a few hundred decisions make no critic.
    # Every pass reads all corrections as it is.
    one_pass = dataclasses.replace(config, epochs=1, guard_replay=0.0)
    learner = Learner(policy, one_pass, config.seed, GRPO(one_pass))
    log, decisions = MetricsLog(folder), 0
    try:
        with Progress() as progress:
            phase = progress.phase('learn', config.epochs)
            for number in range(config.epochs):
                for temperature, samples in learned.samples.items():
                    row = learner.update(samples, number=number, temperature=temperature,
                                         progress=number / config.epochs)
                    decisions += len(samples)
                    log.write({'update': len(log.rows) + 1, 'decisions_total': decisions, 'temperature': temperature,
                               **row})
                phase.advance(1, f'loss of corrections {row.get("guard_loss", 0.0):.3f}')
            phase.end(f'{decisions} decisions in {len(log.rows)} updates')
    finally:
        log.close()
    return log.rows


def _save(folder: RunFolder, policy: Policy, config: CellTrainConfig, cell: Cell, metrics: dict[str, Any]) -> Path:
    # It was trained in no world, and in this cell, whether a file or the log has named it.
    told = {**as_mapping(config), 'world': '', 'own_world': '', 'cell': cell.name}

    def write(path: Path) -> None:
        save_checkpoint(path, policy, step=config.epochs, metrics=metrics, camera=cell.camera,
                        documents={'train_config': told})

    folder.save(config.epochs, write)
    return folder.checkpoints / 'latest'


def _nothing(logs: Sequence[Path], found: dict[str, int], learned: Learned) -> str:
    reasons = ', '.join(f'{count} {reason}' for reason, count in {**found, **learned.counts}.items())
    return (f'{", ".join(map(str, logs))}: nothing to learn from ({reasons}): log corrections, rejections, or '
            'outcomes of decisions by the checkpoint that is to learn')
