"""The learner's side of the workers: weights go out by version, rollouts come back, lost workers are replaced.

With ``max_staleness`` 0 a rollout begins when the learner has finished its update, and its episodes are those of one
process. With more, so many further rollouts are begun ahead, and no worker begins another while they all wait.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig
from ..rl.rollout import TrainingSchedule
from ..worlds.episodes import Clock, Episode, Schedule, Slot
from .connection import result_of, trained_bytes
from .identity import given, identity
from .share import in_order, shares
from .worker import Played, RolloutWorker, Weights

_BEGIN_S = 900.0  # a large model is loaded from a slow disk
_ATTEMPTS = 3


@dataclass
class _Asked:
    """Something that every worker was asked to play.

    Attributes:
        submit: Asks a worker, by its index, given what was asked before.
        results: References of what each worker brings back.
    """

    submit: Callable[[int, _Asked | None], Any]
    results: list[Any] = field(default_factory=list)


class ClusterPlayers:
    """Workers on a Ray cluster as the players of a run, and as one player.

    Args:
        config: The run.
        policy: In training; its weights go to the workers whenever they have changed.
        ray: The module, connected.
    """

    transport = 'in_process'

    def __init__(self, config: TrainConfig, policy: Policy, ray: Any) -> None:
        self.config, self.policy, self._ray = config, policy, ray
        self.checkpoint = ''
        self.clock, self.lost = Clock(), 0
        self.figures: dict[str, float] = {}
        self._shares = shares(config)
        self._workers: list[Any] = []
        self._failures = [0] * config.workers
        self._replaced = self._bytes = 0
        self._pending: deque[_Asked] = deque()
        self._opened: list[int] = []
        self._weights: Weights = ({}, {})
        self._version, self._reference = -1, None
        self._errors = ray.exceptions

    def __enter__(self) -> ClusterPlayers:
        try:
            self._workers = [self._made() for _ in self._shares]
            begun = [self._begin(index) for index in range(len(self._workers))]
            for index, reference in enumerate(begun):
                self._require_begun(index, reference)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []

    def player(self, checkpoint: str) -> ClusterPlayers:
        """See Players."""
        self.checkpoint = checkpoint
        return self

    def play(self, schedule: Schedule, *, temperature: float, greedy: bool = False) -> Iterator[Episode]:
        """See EpisodePlayer; the schedule is one of training, or hands out its episodes regardless of the world.

        Raises:
            UserError: Of a worker; or a worker was lost again and again, or could not be replaced.
        """
        self._publish()
        self._replaced = self._bytes = 0
        if isinstance(schedule, TrainingSchedule):
            yield from self._rollout(schedule, temperature)
        else:
            yield from self._list(schedule, temperature, greedy)

    # -- rollouts of training

    def _rollout(self, schedule: TrainingSchedule, temperature: float) -> list[Episode]:
        """The episodes of the oldest rollout that was asked for, or of a new one."""
        config = self.config
        if not self._pending:
            self._opened = list(schedule.opened)
            self._ask_rollout(schedule.wanted, temperature)
        while len(self._pending) <= config.max_staleness:
            expected = schedule.before + len(self._pending) * config.decisions_per_update
            if expected >= config.decisions:
                break
            self._ask_rollout(config.decisions_per_update, config.temperature_at(expected))
        asked = self._pending[0]
        found: list[Played] = []
        opened = list(self._opened)
        for index, share in enumerate(self._shares):
            after, played = self._result(index, asked)
            found.append(self._received(played))
            for group in share.groups:
                opened[group] = after[group]
        self._pending.popleft()
        self._opened = opened
        schedule.advance_to(list(opened))
        self._count(found)
        return in_order(config, [episode for played in found for episode in played.episodes])

    def _ask_rollout(self, wanted: int, temperature: float) -> None:
        """Have every worker play its share of one more rollout, after those that it was asked for."""
        def submit(index: int, before: _Asked | None) -> Any:
            opened = before.results[index][0] if before else self._opened
            play = self._workers[index].play.options(num_returns=2, concurrency_group='rollouts')
            return list(play.remote(opened, wanted, temperature, self._version, [self._reference]))

        self._ask(submit)

    def _ask(self, submit: Callable[[int, _Asked | None], Any]) -> _Asked:
        before = self._pending[-1] if self._pending else None
        asked = _Asked(submit, [submit(index, before) for index in range(len(self._workers))])
        self._pending.append(asked)
        return asked

    # -- given episodes

    def _list(self, schedule: Schedule, temperature: float, greedy: bool) -> Iterator[Episode]:
        while slots := _drained(schedule):
            def submit(index: int, before: _Asked | None, slots: Sequence[Slot] = slots) -> Any:
                play = self._workers[index].play_list.options(concurrency_group='rollouts')
                part = slots[index::len(self._workers)]
                return play.remote(part, temperature, greedy, self._version, [self._reference])

            asked = self._ask(submit)
            found = [self._received(self._result(index, asked)) for index in range(len(self._workers))]
            self._pending.remove(asked)
            self._count(found)
            for played in found:
                for slot in played.broken:
                    schedule.lost(slot)
                yield from played.episodes

    # -- weights

    def _publish(self) -> None:
        """Put the weights into the object store where they have changed, and tell the workers."""
        weights = tuple({name: tensor.detach().to('cpu', copy=True) for name, tensor in state.items()}
                        for state in (self.policy.adapter_state(), self.policy.value_state()))
        if self._reference is not None and all(
                torch.equal(tensor, then[name]) for state, then in zip(weights, self._weights)
                for name, tensor in state.items()):
            return
        self._weights = weights[0], weights[1]
        self._version += 1
        try:
            self._reference = self._ray.put(self._weights)
        except self._errors.ObjectStoreFullError as error:
            raise UserError('the trained weights do not fit into the object store of this node: start its Ray with a '
                            'larger --object-store-memory, or lower max_staleness or worlds') from error
        for worker in self._workers:
            worker.offer.options(concurrency_group='weights').remote(self._version, [self._reference])

    # -- workers

    def _made(self) -> Any:
        """A new worker, wherever the cluster has room."""
        options = self._ray.remote(num_cpus=1, num_gpus=self.config.worker_gpus, max_restarts=0,
                                   concurrency_groups={'weights': 1, 'rollouts': 1})
        return options(RolloutWorker).remote(_fetch)

    def _begin(self, index: int) -> Any:
        return self._workers[index].begin.remote(identity(), given(self.config, self.policy), _portable(self.config),
                                                 self._shares[index])

    def _require_begun(self, index: int, reference: Any) -> None:
        try:
            differs = result_of(self._ray, reference, _BEGIN_S)
        except TimeoutError as error:
            raise UserError(f'worker {index} did not start within {_BEGIN_S:.0f} s: see `ray status` for what the '
                            'cluster lacks, or set workers lower') from error
        except self._errors.RayTaskError as error:
            raise self._told(index, error) from error
        except self._errors.RayActorError as error:
            raise UserError(f'worker {index} cannot be started ({_reason(error)}): install the same vlm_agent_ros[sim,'
                            'train,cluster] on every node') from error
        if differs:
            raise UserError(f'worker {index} runs other code than the learner ({differs}): install the same version of '
                            'vlm_agent_ros and of its libraries on every node, and start Ray there anew')

    def _result(self, index: int, asked: _Asked) -> Any:
        """What a worker brings back; where it is lost, what its replacement does."""
        lost = (self._errors.RayActorError, self._errors.ObjectLostError, self._errors.NodeDiedError,
                self._errors.WorkerCrashedError, self._errors.OutOfMemoryError)
        while True:
            try:
                found = self._brought_back(asked.results[index])
            except lost as error:
                self._replace(index, error)
            except self._errors.RayTaskError as error:
                raise self._told(index, error) from error
            else:
                self._failures[index] = 0
                return found

    def _brought_back(self, result: Any) -> Any:
        if isinstance(result, list):
            return [result_of(self._ray, reference) for reference in result]
        return result_of(self._ray, result)

    def _received(self, played: bytes) -> Played:
        self._bytes += len(played)
        found: Played = pickle.loads(played)
        return found

    def _replace(self, index: int, error: Exception) -> None:
        """Another worker in the place of one that was lost, which plays what that one has not brought back."""
        self._replaced += 1
        self._failures[index] += 1
        if self._failures[index] == _ATTEMPTS:
            raise UserError(f'worker {index} was lost {_ATTEMPTS} times in a row ({_reason(error)}): see its log in '
                            "Ray's folder, and whether its node has enough memory for its worlds") from error
        self._ray.kill(self._workers[index])
        self._workers[index] = self._made()
        try:
            self._require_begun(index, self._begin(index))
        except UserError as failure:
            if not isinstance(failure.__cause__, self._errors.RayActorError):
                raise
            self._replace(index, failure.__cause__)  # lost, too, before it had begun
            return
        before = None
        for asked in self._pending:
            asked.results[index] = asked.submit(index, before)
            before = asked

    def _told(self, index: int, error: Any) -> Exception:
        """The error of a worker as one of this process."""
        cause = error.cause
        return UserError(f'worker {index}: {cause}') if isinstance(cause, UserError) else error

    def _count(self, found: Sequence[Played]) -> None:
        """What is reported of a rollout."""
        share = 1.0 / len(found)
        for played in found:
            self.clock.waiting += share * played.clock.waiting
            self.clock.deciding += share * played.clock.deciding
            self.clock.planning += share * played.clock.planning
            self.lost += played.lost
        rates = [sum(len(episode.turns) for episode in played.episodes) / played.seconds for played in found]
        self.figures = {
            'staleness': sum(self._version - played.version for played in found) * share,
            'workers_lost': self._replaced, 'worker_decisions_per_second': sum(rates) * share,
            'episodes_mib': self._bytes / 2**20, 'weights_mib': trained_bytes(self.policy) / 2**20,
        }


def _fetch(reference: Any) -> Weights:
    import ray

    weights: Weights = ray.get(reference)
    return weights


def _drained(schedule: Schedule) -> list[Slot]:
    """All the episodes that a schedule has at present."""
    return list(iter(lambda: schedule.next(0, 0), None))


def _portable(config: TrainConfig) -> TrainConfig:
    """The configuration for a process that may have another working directory."""
    found: dict[str, Any] = {}
    for key in ('model', 'world', 'own_world'):
        value = getattr(config, key)
        if value and Path(value).expanduser().exists():
            found[key] = str(Path(value).expanduser().absolute())
    return dataclasses.replace(config, **found)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip('.:') if lines else type(error).__name__
