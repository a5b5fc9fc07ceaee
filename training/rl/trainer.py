"""One training run: evaluate, train in updates, evaluate again, and leave checkpoints, figures and a report.

All that a run is, between two updates, is in ``RunState``, the policy and the optimiser. A checkpoint holds exactly
these, so that a resumed run makes the same next update as the unbroken one.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig, as_mapping
from ..device_memory import with_memory_advice
from ..evaluation.evaluate import EvaluationResult, Suite, evaluate
from ..metrics import MetricsLog, PeakMemory, write_atomically
from ..progress import Phase, Progress, clock_time
from ..reports.films import choose_examples, film_of
from ..reports.report import render_report
from ..seeds import evaluation_seeds
from ..session import machine, use_threads, versions
from ..worlds.commands import REJECTIONS, CommanderOf
from ..worlds.episodes import Episode, EpisodePlayer
from .algorithms import Sample
from .learner import Learner, require_trainable
from .learner_group import LearnerGroup
from .rollout import Players, TrainingSchedule, collect
from .run_folder import RunFolder
from .staleness import corrected
from .training_state import restore_training, save_training

_EARNED = 0.01, 30.0  # what an episode may earn (magnitude) with the default step sizes and value_clip


@dataclass
class RunState:
    """Where a run stands between two updates; JSON in every checkpoint.

    Attributes:
        update: Finished updates.
        decisions: Decisions that they used.
        opened: Episodes that each group of worlds has been given.
        lost: Episodes dropped because their world broke down.
        rejected: Decisions that could not be carried out as they were written, by reason.
        train_s: Wall time of the updates, s.
        phases_s: Wall time of everything, by phase, s.
        evaluations: Results so far, by ``own_cell``, ``before``.
        held_out: Evaluations during training: update, decisions, wall time until its end, success, n, ci95.
        successes: Training success of the latest updates.
        best_success: Highest mean of ``successes``.
        best_update: Update that it was reached in; 0 = none yet.
        collapsed: Updates in which thoughts repeated themselves across scenes (``collapse_alarm``).
    """

    update: int = 0
    decisions: int = 0
    opened: list[int] = field(default_factory=list)
    lost: int = 0
    rejected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REJECTIONS, 0))
    train_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    successes: list[float] = field(default_factory=list)
    best_success: float = -1.0
    best_update: int = 0
    collapsed: list[int] = field(default_factory=list)


class Trainer:
    """Runs a configuration in a folder.

    Args:
        config: The run.
        folder: Where it leaves its files.
        policy: Trained in place.
        players: Of ``config.worlds`` worlds, which stay open.
        commander_of: Commanders of these worlds.
        progress: What the user sees.
        resume: Checkpoint to continue from.
        group: Processes that learn with this one.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, policy: Policy, players: Players,
                 commander_of: CommanderOf, progress: Progress, resume: Path | None = None,
                 group: LearnerGroup | None = None) -> None:
        self.config, self.folder, self.policy, self.players = config, folder, policy, players
        self.commander_of, self.progress = commander_of, progress
        require_trainable(policy, config)
        self.learner = Learner(policy, config, config.seed, group=group)
        self.state = RunState(opened=[0] * config.groups)
        if resume is not None:
            self.state = RunState(**restore_training(resume, self.learner))
        folder.go_back_to(self.state.update, self.state.best_update)
        if not (folder.checkpoints / 'best').exists():  # a later one was, which this run has gone back before
            self.state.best_success, self.state.best_update = RunState.best_success, RunState.best_update
        self.memory = PeakMemory()
        self._stopped, self._began = '', time.perf_counter()
        self._boundary = self._copy()

    def run(self, started: float) -> dict[str, Any]:
        """Everything from the first evaluation to the report.

        Args:
            started: ``time.perf_counter`` when the command began; loading and starting worlds count as its time.

        Returns:
            The content of summary.json.

        Raises:
            KeyboardInterrupt: After an interrupt, when the last finished update has been saved; the message says how
                to go on.
            UserError: A file cannot be written, or an environment failed, when the last finished update has been saved.
        """
        self._began = started - sum(self.state.phases_s.values())
        self._spend('start', time.perf_counter() - started)
        write_atomically(self.folder.path / 'config.json', json.dumps(as_mapping(self.config), indent=2) + '\n')
        log = MetricsLog(self.folder.path, self.state.update)
        try:
            with self.progress:
                task, world = self.config.scene
                if self.config.own_world and self.config.env == 'cell':
                    self._evaluate_once('own_cell', task, self.config.own_world)
                self._evaluate_once('before', task, world)
                self._train(log)
                after = self._evaluate_last()
                return self._finish(log, after)
        except KeyboardInterrupt:
            path = self._save_boundary()
            raise KeyboardInterrupt(
                f'stopped after update {self._boundary.state.update}: continue with `vlm-agent train --resume {path}`'
            ) from None
        except UserError as error:  # of an environment, which may fail at any hour
            path = self._save_boundary()
            raise UserError(f'{error}; then continue after update {self._boundary.state.update} with `vlm-agent train '
                            f'--resume {path}`') from error
        except Exception:
            self._save_boundary()
            raise
        finally:
            log.close()

    def _evaluate_once(self, name: str, task: str, world: str) -> None:
        """The evaluations before training, unless a resumed run has them already."""
        if self.config.eval_episodes and name not in self.state.evaluations:
            self.state.evaluations[name] = self._evaluate(name, task, world).to_json()
            self._boundary = self._copy()

    def _evaluate_last(self) -> EvaluationResult | None:
        best = self.folder.checkpoints / 'best'
        if self.config.select == 'best' and best.exists():
            restore_training(best, self.learner)
        elif self.config.select == 'best':
            self.progress.say(f'warning: the last checkpoint is evaluated: there were fewer than best_window '
                              f'({self.config.best_window}) updates, so that none is the best')
        return self._evaluate('after', *self.config.scene) if self.config.eval_episodes else None

    def _evaluate(self, name: str, task: str, world: str) -> EvaluationResult:
        started = time.perf_counter()
        phase = self.progress.phase(name, self.config.eval_episodes)
        count = {'episodes': 0, 'successes': 0}

        def show(episode: Episode) -> None:
            count['episodes'] += 1
            count['successes'] += episode.success
            phase.advance(1, f'success {count["successes"] / count["episodes"]:.0%}')

        result = evaluate(self.players.player(name), Suite(task, world), evaluation_seeds(self.config.eval_episodes),
                          temperature=self.config.eval_temperature, on_episode=show)
        self.memory.sample()
        phase.end(result.words())
        self._spend(name, time.perf_counter() - started)
        return result

    def _train(self, log: MetricsLog) -> None:
        config, state = self.config, self.state
        phase = self.progress.phase('train', config.decisions, state.decisions)
        player = self.players.player(f'update {state.update}')
        longest = 0.0
        while state.decisions < config.decisions and not self._succeeds():
            limit = 60.0 * config.max_wall_minutes
            if limit and state.train_s + longest > limit:
                self._stopped = f'training ended at max_wall_minutes ({config.max_wall_minutes:g})'
                break
            started = time.perf_counter()
            row = self._update(player, phase)
            longest = max(longest, time.perf_counter() - started)
            log.write(row)
            phase.line(self._figures(row))
            if row['collapse_alarm']:
                self.progress.say(f'warning: in update {row["update"]} {row["thought_collapse"]:.0%} of the thoughts '
                                  'were also written for another scene (thought collapse): raise guard_coef')
            if row.get('kept_share') == 0.0:
                self.progress.say(f'warning: update {row["update"]} taught nothing: in no group did some episodes '
                                  'succeed and others fail (dynamic_sampling)')
            self._evaluate_between()
            self._boundary = self._copy()
            self._checkpoint(final=False)
        self._checkpoint(final=True)
        if state.update:
            phase.end(self._stopped or f'{state.decisions} decisions, {state.update} updates')

    def _evaluate_between(self) -> None:
        """The evaluations during training; they are part of their update, so that a resumed run has the same."""
        config, state = self.config, self.state
        if not config.eval_every or not config.eval_episodes or state.update % config.eval_every:
            return
        result = self._evaluate('held_out', *config.scene)
        state.held_out.append({
            'update': state.update, 'decisions': state.decisions, 'wall_s': time.perf_counter() - self._began,
            'success': result.success, 'n': result.n, 'ci95': list(result.ci95)})

    def _succeeds(self) -> bool:
        """Whether the newest evaluation during training was good enough to end it."""
        if not self.config.stop_at_success or not self.state.held_out:
            return False
        reached = bool(self.state.held_out[-1]['success'] >= self.config.stop_at_success)
        if reached:
            self._stopped = f'training ended at stop_at_success ({self.config.stop_at_success:g})'
        return reached

    def _update(self, player: EpisodePlayer, phase: Phase) -> dict[str, Any]:
        """Play, learn, and count."""
        config, state = self.config, self.state
        started = time.perf_counter()
        temperature, fraction = config.temperature_at(state.decisions), config.progress(state.decisions)
        schedule = TrainingSchedule(config, state.opened, state.decisions)
        player.checkpoint, player.lost = f'update {state.update}', 0
        waited = dataclasses.replace(player.clock)
        earned: list[float] = []

        def ended_episode(episode: Episode) -> None:
            phase.advance(len(episode.turns))
            earned.append(abs(sum(turn.outcome.reward for turn in episode.turns if turn.outcome is not None)))

        rollout = collect(player, schedule, config, temperature, ended_episode)
        if not state.update:
            self._check_rewards(sum(earned) / max(len(earned), 1))
        played = time.perf_counter()
        use_threads(config.update_threads)
        samples, figures = rollout.samples, dict(player.figures)
        if config.max_staleness:
            samples, importance = with_memory_advice(lambda: corrected(samples, self.policy, config, temperature),
                                                     'reading stale decisions again', 'lower micro_batch_size')
            figures |= importance
        learned = self.learner.update(samples, number=state.update, temperature=temperature, progress=fraction)
        use_threads(config.torch_threads)
        ended = time.perf_counter()
        self.memory.sample()

        state.update += 1
        state.decisions += rollout.decisions
        state.opened, state.lost = schedule.opened, state.lost + player.lost
        state.train_s += ended - started
        self._spend('rollout', played - started)
        self._spend('update', ended - played)
        alarm = self._collapsed(rollout.metrics)
        state.collapsed = [*state.collapsed, *([state.update] if alarm else [])]
        for name in REJECTIONS:
            state.rejected[name] += round(rollout.metrics[name] * rollout.decisions)
        state.successes = [*state.successes, rollout.metrics['success']][-config.best_window:]
        return {
            'update': state.update, 'decisions_total': state.decisions, **rollout.metrics,
            'collapse_alarm': int(alarm), **learned, **figures,
            'temperature': temperature, 'lost': player.lost, 'rollout_s': played - started, 'update_s': ended - played,
            'waiting_s': player.clock.waiting - waited.waiting, 'deciding_s': player.clock.deciding - waited.deciding,
            'planning_s': player.clock.planning - waited.planning,
            'decisions_per_second': rollout.decisions / (ended - started), 'memory_mib': self.memory.mib,
        }

    def _check_rewards(self, earned: float) -> None:
        """Say where rewards are of an order for which no step size of the value head is meant."""
        low, high = _EARNED
        if earned and not low <= earned <= high:
            self.progress.say(f'warning: an episode earns about {earned:.1g}, and values are learned between {low:g} '
                              f'and {high:g}: scale the rewards, e.g. with gymnasium.wrappers.TransformReward')

    def _collapsed(self, metrics: dict[str, float]) -> bool:
        """Whether the thoughts say too much the same of different scenes; a policy without thoughts never does."""
        limit = self.config.collapse_alarm
        return limit < 1.0 and metrics.get('thought_collapse', -1.0) >= limit

    def _figures(self, row: dict[str, Any]) -> str:
        """The line that shows an update."""
        speed = self.state.decisions / self.state.train_s
        left = max(self.config.decisions - self.state.decisions, 0) / speed
        if self.config.max_wall_minutes:
            left = min(left, max(60.0 * self.config.max_wall_minutes - self.state.train_s, 0.0))
        text = (f'success {row["success"]:.0%}  return {row["return"]:+.2f}  illegal {row["illegal"]:.0%}  '
                f'thought {row["thought_tokens"]:.0f} tokens  {row["decisions_per_second"]:.1f} decisions/s')
        if self.progress.live:
            return text
        return f'{row["decisions_total"]}/{self.config.decisions}  {text}  {clock_time(left)} left'

    def _checkpoint(self, final: bool) -> None:
        """Keep the state of this update if it is due, the last, or the best so far."""
        config, state = self.config, self.state
        mean = sum(state.successes) / config.best_window if len(state.successes) == config.best_window else -1.0
        best = mean > state.best_success
        if best:
            for kept in (state, self._boundary.state):
                kept.best_success, kept.best_update = mean, state.update
        if final or best or state.update % config.checkpoint_every == 0:
            self.folder.save(state.update, self._write_checkpoint, best=best)
            self.folder.prune(config.keep_checkpoints)

    def _write_checkpoint(self, path: Path) -> None:
        save_training(path, self.policy, self.learner, dataclasses.asdict(self.state), as_mapping(self.config))

    def _copy(self) -> _Boundary:
        """All of a run between two updates, kept while the next one changes it."""
        parameters = [p.detach().clone() for p in self.policy.parameters() if p.requires_grad]
        return _Boundary(copy.deepcopy(self.state), parameters, copy.deepcopy(self.learner.state_dict()),
                         self.learner.memory.samples)

    def _save_boundary(self) -> Path:
        """Go back to the last finished update, whatever was interrupted, and save it."""
        boundary = self._boundary
        self.state = boundary.state
        with torch.no_grad():
            for parameter, value in zip((p for p in self.policy.parameters() if p.requires_grad), boundary.parameters):
                parameter.copy_(value)
        self.learner.load_state_dict(boundary.optimizer)
        self.learner.memory.restore(boundary.corrections)
        return self.folder.save(self.state.update, self._write_checkpoint)

    def _spend(self, phase: str, seconds: float) -> None:
        self.state.phases_s[phase] = self.state.phases_s.get(phase, 0.0) + seconds

    def _finish(self, log: MetricsLog, after: EvaluationResult | None) -> dict[str, Any]:
        """Write summary.json and report.html."""
        config, state = self.config, self.state
        task, world = config.scene
        summary = {
            'run_name': self.folder.path.name, 'transport': self.players.transport, 'task': task,
            'world': world, 'model': config.model, 'worlds': config.worlds, 'decisions': state.decisions,
            'updates': state.update, 'wall_s': round(sum(state.phases_s.values()), 1),
            'before': state.evaluations.get('before'), 'after': after.to_json() if after else None,
            'own_cell': state.evaluations.get('own_cell'), 'held_out': state.held_out, 'seed': config.seed,
            'stopped': self._stopped,
            'collapsed_updates': state.collapsed, 'gate_refusals': state.rejected['refused'],
            'rejected': state.rejected, 'lost_episodes': state.lost,
            'phases_s': {name: round(seconds, 1) for name, seconds in state.phases_s.items()},
            'peak_memory_mib': round(self.memory.mib, 1), 'versions': versions(), 'machine': machine(),
            'config': as_mapping(config),
        }
        films = []
        if after is not None:
            commander = self.commander_of(world)
            films = [film_of(episode, commander) for episode in choose_examples(after.examples)]
        write_atomically(self.folder.path / 'summary.json', json.dumps(summary, indent=2) + '\n')
        write_atomically(self.folder.path / 'report.html', render_report(summary, log.rows, films))
        return summary


@dataclass(frozen=True)
class _Boundary:
    state: RunState
    parameters: list[torch.Tensor]
    optimizer: dict[str, Any]
    corrections: tuple[Sample, ...]
