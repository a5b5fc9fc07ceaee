"""A rollout worker: its share of the worlds, and a copy of the policy; it never imports Ray."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vlm_agent_ros.errors import UserError

from ..config import TrainConfig
from ..worlds.episodes import Clock, Episode, Player, Schedule, Slot
from .identity import difference, given, identity
from .share import ListSchedule, Share, ShareSchedule

Weights = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""Trained tensors, of the model and of the value head."""

Offer = tuple[int, list[Any]]
"""A version of the weights, and a list with the reference under which they are to be had: Ray fetches what an argument
refers to, but not what it holds."""


@dataclass
class Played:
    """What a worker brings back from a rollout.

    Attributes:
        episodes: Finished ones, in the order of the worker.
        version: Of the weights that it played with.
        clock: Where the time went.
        seconds: Wall time.
        lost: Episodes dropped because their world broke down.
        broken: Those of a list of episodes, to be tried again.
    """

    episodes: list[Episode]
    version: int
    clock: Clock
    seconds: float
    lost: int
    broken: list[Slot] = field(default_factory=list)


class RolloutWorker:
    """Plays on demand, with the newest weights that it was offered when it begins.

    Args:
        fetch: Gives the weights behind a reference.
    """

    def __init__(self, fetch: Callable[[Any], Weights]) -> None:
        self._fetch = fetch
        self._offer: Offer = (-1, [])
        self._lock = threading.Lock()
        self._version = -1

    def begin(self, expected: dict[str, str], files: dict[str, str], config: TrainConfig, share: Share) -> str:
        """Make policy and worlds; called once.

        Args:
            expected: ``identity`` of the learner.
            files: What the learner was ``given``.
            config: The run.
            share: This worker's.

        Returns:
            What differs between the code of the learner and that of this worker; then nothing was made.

        Raises:
            UserError: The model or a world does not exist here, or is another one than the learner's.
        """
        if differs := difference(expected, identity()):
            return differs
        from ..rl.train import environment_of, policy_of
        from ..session import use_threads

        use_threads(config.torch_threads)
        environment = environment_of(config)
        self.policy = policy_of(config, environment)
        here = given(config, self.policy)
        if other := [name for name in files if files[name] != here.get(name)]:
            raise UserError(f'another {" and another ".join(other)} than the learner\'s, under the same name: copy '
                            f'what {config.model} and {config.world} name from there to the same place on every node')
        self.config, self.share = config, share
        commander_of = environment.commanders(self.policy.prompt, config.illegal_rule)
        pool = environment.open(len(share.worlds))
        self.player = Player(self.policy, pool, commander_of, half_batches=config.half_batches, first=share.first)
        return ''

    def offer(self, version: int, reference: list[Any]) -> None:
        """There are weights of this version; they are fetched when the next rollout begins."""
        with self._lock:
            self._offer = max(self._offer, (version, reference), key=lambda offer: offer[0])

    def play(self, opened: list[int], wanted: int, temperature: float, version: int, reference: list[Any]
             ) -> tuple[list[int], bytes]:
        """The share of one rollout.

        Args:
            opened: As for ``TrainingSchedule``.
            wanted: Decisions of all workers after which no episode is opened.
            temperature: Sampling temperature.
            version: As for ``offer``.
            reference: As for ``offer``.

        Returns:
            ``opened`` of all groups after it, of which those of other workers are as they were, and what was
            played, pickled: so it leaves the object store when it is read, and its arrays can be written to.
        """
        self.offer(version, reference)
        schedule = ShareSchedule(self.config, self.share, opened)
        schedule.wanted = wanted
        played = self._play(schedule, temperature, greedy=False)
        for episode in played.episodes:
            episode.world = self.share.worlds[episode.world]
        return schedule.opened, pickle.dumps(played, pickle.HIGHEST_PROTOCOL)

    def play_list(self, slots: Sequence[Slot], temperature: float, greedy: bool, version: int, reference: list[Any]
                  ) -> bytes:
        """Given episodes, in no particular order; otherwise as ``play``."""
        self.offer(version, reference)
        schedule = ListSchedule(slots)
        played = self._play(schedule, temperature, greedy)
        played.broken = schedule.broken
        return pickle.dumps(played, pickle.HIGHEST_PROTOCOL)

    def _play(self, schedule: Schedule, temperature: float, greedy: bool) -> Played:
        from ..session import use_threads

        use_threads(self.config.torch_threads)  # Ray calls this in another thread than ``begin``
        started = time.perf_counter()
        self._take_newest()
        player = self.player
        player.clock, player.lost = Clock(), 0
        episodes = list(player.play(schedule, temperature=temperature, greedy=greedy))
        return Played(episodes, self._version, player.clock, time.perf_counter() - started, player.lost)

    def _take_newest(self) -> None:
        with self._lock:
            version, reference = self._offer
        if version > self._version:
            self.policy.load_state(*self._fetch(reference[0]))
            self._version = version
