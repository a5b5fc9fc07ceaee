"""Playing episodes over a pool of worlds in lock step: the loop that training and evaluation share.

Two fixed halves of the worlds take turns: while one half moves, the policy decides for the other. Who is in which
batch, and every random number, depends on episodes and turns only, never on which world answers first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.policy.policy import Decision, Policy, PolicyInput
from vlm_agent_ros.types import EpisodeRequest, Outcome

from ..device_memory import with_memory_advice
from ..seeds import keyed_seed
from .commands import Command, CommanderOf
from .pool import Answer, WorldError, WorldPool


@dataclass(frozen=True)
class Slot:
    """An episode that a world is to play.

    Attributes:
        request: Seed, task and world file.
        key: What the policy's random numbers are a function of, together with the turn.
        group: Group of worlds that share the seed.
        index: Number of the episode within its group.
    """

    request: EpisodeRequest
    key: tuple[int, ...]
    group: int = 0
    index: int = 0


class Schedule(Protocol):
    """Which world plays what."""

    def next(self, world: int, decisions: int) -> Slot | None:
        """The next episode of a world after so many decisions of all worlds; None = the world is done."""
        ...

    def lost(self, slot: Slot) -> None:
        """The world of an episode broke down; the episode is dropped."""
        ...


@dataclass
class Turn:
    """One decision and what came of it; ``outcome`` is None while the world is moving."""

    input: PolicyInput
    decision: Decision
    command: Command
    latency_s: float
    outcome: Outcome | None = None


@dataclass
class Episode:
    """A finished (or running) episode of one world.

    Attributes:
        instruction: The task as the world worded it at the beginning.
        final: What the policy sees after the last turn.
    """

    world: int
    slot: Slot
    instruction: str = ''
    turns: list[Turn] = field(default_factory=list)
    final: PolicyInput | None = None

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of its turns."""
        return [turn.outcome for turn in self.turns if turn.outcome is not None]

    @property
    def success(self) -> bool:
        """Whether the task's predicate held at the end."""
        return self.outcomes[-1].success

    @property
    def truncated(self) -> bool:
        """Cut off by the turn limit, so that its value continues."""
        return self.outcomes[-1].truncated and not self.outcomes[-1].terminated


@dataclass
class Clock:
    """Where the wall time of playing went, in seconds."""

    waiting: float = 0.0
    deciding: float = 0.0
    planning: float = 0.0


class EpisodePlayer(Protocol):
    """What plays the episodes of a run: a ``Player`` here, or workers elsewhere.

    Attributes:
        policy: Decides.
        checkpoint: Name of what decides, for the chain of thought on display.
        clock: Wall time by what it was spent on.
        lost: Episodes dropped because their world broke down.
        figures: What else is to be reported of the latest ``play``, by the names of metrics.jsonl.
    """

    policy: Policy
    checkpoint: str
    clock: Clock
    lost: int
    figures: dict[str, float]

    def play(self, schedule: Schedule, *, temperature: float, greedy: bool = False) -> Iterator[Episode]:
        """Finished episodes, in an order that depends on the schedule only."""
        ...


def first_half(worlds: int, unit: int = 1) -> int:
    """Size of the half that is visited first; worlds of one unit stay together."""
    return (worlds // unit + 1) // 2 * unit


class Player:
    """Plays the episodes of a schedule.

    Args:
        policy: Decides.
        pool: The worlds.
        commander_of: Their commanders.
        half_batches: Let one half of the worlds move while the policy decides for the other.
        unit: Worlds that must stay in the same half, e.g. a group.
        first: Size of the first half, where it is not to be as large as the second.
        checkpoint: Name of what decides, for the chain of thought on display.

    Attributes:
        clock: Wall time by what it was spent on.
        lost: Episodes dropped because their world broke down.
        losses: The reasons, newest last.
        figures: None but those of every player.
    """

    def __init__(self, policy: Policy, pool: WorldPool, commander_of: CommanderOf, *, half_batches: bool = True,
                 unit: int = 1, first: int | None = None, checkpoint: str = '') -> None:
        self.policy, self.pool, self.commander_of, self.checkpoint = policy, pool, commander_of, checkpoint
        middle = pool.size if not half_batches else first_half(pool.size, unit) if first is None else first
        self._halves = [half for half in (range(middle), range(middle, pool.size)) if half]
        self._running: dict[int, Episode] = {}
        self._decisions = 0
        self.clock = Clock()
        self.lost = 0
        self.losses: list[str] = []
        self.figures: dict[str, float] = {}

    def play(self, schedule: Schedule, *, temperature: float, greedy: bool = False) -> Iterator[Episode]:
        """Finished episodes, in an order that depends on the schedule only.

        Args:
            schedule: Gives each world its next episode until it has none left.
            temperature: Sampling temperature.
            greedy: Take the most probable token instead of sampling.
        """
        self._running, self._decisions = {}, 0
        self._start(range(self.pool.size), schedule)
        while self._running:
            for half in self._halves:
                yield from self._visit([w for w in half if w in self._running], schedule, temperature, greedy)

    def _visit(self, worlds: list[int], schedule: Schedule, temperature: float, greedy: bool) -> list[Episode]:
        """Take up what these worlds answer, send them on, and return the episodes that ended."""
        inputs: dict[int, PolicyInput] = {}
        observations: dict[int, Any] = {}
        finished: list[Episode] = []
        waiting = worlds
        while waiting:
            answers = self._collect(waiting, schedule)
            for world, (observation, outcome) in answers.items():
                episode = self._running[world]
                if outcome is None:
                    episode.instruction = observation.task
                previous = episode.turns[-1].decision.memory if episode.turns else ''
                seen = self.commander_of(episode.slot.request.world).observe(observation, previous)
                if outcome is not None:
                    episode.turns[-1].outcome = outcome
                if outcome is not None and (outcome.terminated or outcome.truncated):
                    episode.final = seen
                    finished.append(self._running.pop(world))
                else:
                    inputs[world], observations[world] = seen, observation
            # A reset is short: waiting for it keeps the batch whole, while the other half of the worlds moves.
            waiting = self._start([world for world in waiting if world not in self._running], schedule)
        if inputs:
            self._decide({w: inputs[w] for w in sorted(inputs)}, observations, temperature, greedy)
        return finished

    def _start(self, worlds: Sequence[int], schedule: Schedule) -> list[int]:
        """Begin the next episodes of these worlds; returns the worlds that have one."""
        slots = {world: schedule.next(world, self._decisions) for world in worlds}
        self._running.update({world: Episode(world, slot) for world, slot in slots.items() if slot is not None})
        requests = {world: slot.request for world, slot in slots.items() if slot is not None}
        if requests:
            self.pool.reset(requests)
        return list(requests)

    def _collect(self, worlds: list[int], schedule: Schedule) -> dict[int, Answer]:
        """Answers in the order of ``worlds``, without those whose world broke down."""
        started = time.perf_counter()
        waiting, answers = list(worlds), {}
        while waiting:
            try:
                answers = self.pool.collect(waiting)
                break
            except WorldError as error:
                if error.index not in waiting:
                    raise
                self.lost += 1
                self.losses.append(f'world {error.index}: {error.reason}')
                waiting.remove(error.index)
                schedule.lost(self._running.pop(error.index).slot)
        self.clock.waiting += time.perf_counter() - started
        return {world: answers[world] for world in waiting}

    def _decide(self, inputs: dict[int, PolicyInput], observations: dict[int, Any], temperature: float,
                greedy: bool) -> None:
        started = time.perf_counter()
        episodes = [self._running[world] for world in inputs]
        seeds = [keyed_seed('decision', *episode.slot.key, len(episode.turns)) for episode in episodes]
        decisions = with_memory_advice(
            lambda: self.policy.decide(list(inputs.values()), temperature=temperature, seeds=seeds, greedy=greedy),
            f'deciding for {len(inputs)} worlds at once', 'set decoding.max_new_tokens lower or dtype to bfloat16 in '
            'the models file, or start with fewer worlds')
        decided = time.perf_counter()
        commands = {}
        for world, episode, decision, seed in zip(inputs, episodes, decisions, seeds):
            commander = self.commander_of(episode.slot.request.world)
            command = commander.command(decision, observations[world], seed)
            episode.turns.append(Turn(inputs[world], decision, command, decided - started))
            commands[world] = command.move
        self.pool.execute(commands)
        for world, decision in zip(inputs, decisions):
            self.pool.report(world, _cot(observations[world].task, decision, decided - started, self.checkpoint))
        self._decisions += len(decisions)
        self.clock.deciding += decided - started
        self.clock.planning += time.perf_counter() - decided


def _cot(task: str, decision: Decision, latency_s: float, checkpoint: str) -> CotReport:
    # In lock step the world's clock stands still while the policy thinks: the image is not older than its decision.
    return CotReport(task=task, thought=decision.thought, action=decision.action, text=decision.text,
                     logprob=float(decision.token_logprobs.sum()), value=decision.value, latency_ms=latency_s * 1e3,
                     checkpoint=checkpoint, image_age_ms=0.0)
