"""The plan of a pilot: all that is decided beforehand, so that nobody can decide it by looking at the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlm_agent_ros.config import bounded, find_config, load_yaml, parse
from vlm_agent_ros.errors import UserError

from ..seeds import keyed_seed, pilot_seed
from .costs import Costs
from .sequential import shown_shares

LABELS = ('A', 'B')
_LONGEST = 4000  # episodes up to which the needed number is looked for


@dataclass(frozen=True)
class SuccessCriterion:
    """When an episode counts as a success: its outcome says so, and it kept to these limits."""

    max_turns: int = bounded(0, low=0, help='turns at most; 0 = any number')
    max_cycle_s: float = bounded(0.0, low=0.0, help='seconds from the task to its end at most; 0 = any')
    max_interventions: int | None = bounded(None, low=0, help='rejections, corrections and stops at most, a '
                                            'rejection with its correction being one; null = any')
    max_gate_hits: int | None = bounded(None, low=0, help='proposals that the rules refused or clamped at most; '
                                        'null = any')


@dataclass(frozen=True)
class StopCriteria:
    """What ends a pilot before ``max_episodes``, besides a difference that is shown. 0 = never."""

    no_difference: bool = bounded(True, help='stop once every difference that matters is excluded')
    max_minutes: float = bounded(0.0, low=0.0, help='minutes of episodes at most')
    max_stops: int = bounded(0, low=0, help='stops of the arm at most, of both checkpoints together')
    max_failures_in_a_row: int = bounded(0, low=0, help='episodes in a row at most that one checkpoint fails')
    max_lost_in_a_row: int = bounded(3, low=1, help='attempts at an episode at most that the line cannot finish')


@dataclass(frozen=True)
class CellLine:
    """How the pilot reaches a running cell; used with ``line: cell``."""

    agent: str = bounded('/agent_node', help='full name of the agent node')
    gate: str = bounded('/gate_node', help='full name of the gate')
    namespace: str = bounded('', help='namespace of the topics task and outcome')
    publish_task: bool = bounded(True, help='begin episodes by publishing the task; false waits until the line does')
    swap_timeout_s: float = bounded(120.0, low=1.0, help='longest wait for a checkpoint to be loaded, s')
    episode_timeout_s: float = bounded(300.0, low=1.0, help='longest episode; then it counts as lost, s')


@dataclass(frozen=True)
class Plan:
    """A plan file."""

    a: str = bounded(help='the checkpoint of today: checkpoint, model directory or models file; at a cell whatever its '
                     'agent takes as next_model')
    b: str = bounded(help='the checkpoint that may replace it')
    tasks: tuple[str, ...] = bounded(help='names of simulated tasks, or instructions of the cell; blocks take turns')
    line: str = bounded('simulated', choices=('simulated', 'cell'), help='worlds in this process, or a cell through '
                        'ROS')
    world: str = bounded('panda_table', help='world file of the simulated line')
    temperature: float = bounded(0.0, low=0.0, high=5.0, help='sampling temperature on the simulated line; 0 = greedy')
    max_episodes: int = bounded(400, low=2, help='episodes of both together at most')
    block: int = bounded(2, low=2, help='episodes of a block: half by A, half by B, in random order')
    seed: int = bounded(0, low=0, high=2**62, help='of the order, and of the episodes of the simulated line')
    alpha: float = bounded(0.05, help='highest probability of showing a difference where there is none')
    beta: float = bounded(0.2, help='highest probability of missing a difference of `difference`')
    difference: float = bounded(0.2, help='smallest difference in success that matters')
    expected_success: float = bounded(0.6, help='what A is expected to reach; only for the planned number of episodes')
    success: SuccessCriterion = SuccessCriterion()
    stop: StopCriteria = StopCriteria()
    cell: CellLine = CellLine()
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        for name, high in (('alpha', 0.5), ('beta', 1.0), ('difference', 1.0), ('expected_success', 1.0)):
            value = getattr(self, name)
            if not 0.0 < value < high:
                raise UserError(f'{name} is {value:g}, but must lie between 0 and {high:g}, both excluded')
        if self.a == self.b:
            raise UserError(f'a and b are both {self.a}: name two checkpoints, a pilot of equals decides nothing')
        if not self.tasks:
            raise UserError('tasks is empty: name at least one')
        if self.block % 2:
            raise UserError(f'block is {self.block}, but must be even: half of a block is by A, half by B')
        if self.max_episodes % self.block:
            raise UserError(f'max_episodes is {self.max_episodes}, but must be a multiple of block ({self.block}): set '
                            f'it to {-(-self.max_episodes // self.block) * self.block}')

    # Derived, never set.
    @property
    def per_arm(self) -> int:
        """Episodes of each checkpoint in a block."""
        return self.block // 2

    @property
    def blocks(self) -> int:
        """Blocks at most."""
        return self.max_episodes // self.block

    def source(self, label: str) -> str:
        """The checkpoint of a label."""
        return {'A': self.a, 'B': self.b}[label]

    def label(self, number: int) -> str:
        """Whose episode it is, from 0; a function of the seed, so that a pilot that goes on keeps its order."""
        block, place = divmod(number, self.block)
        order = np.random.default_rng(keyed_seed('pilot order', self.seed, block)).permutation(self.block)
        return LABELS[int(order[place]) % 2]

    def task(self, number: int) -> str:
        """The task of an episode; that of its block, so that both checkpoints get each task equally often."""
        return self.tasks[number // self.block % len(self.tasks)]

    def scene(self, number: int) -> int:
        """Seed of an episode of the simulated line; others for every seed of the plan."""
        return pilot_seed(self.seed * self.max_episodes + number)

    def digest(self) -> str:
        """SHA-256 (hex) of everything in it."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def load_plan(name: str) -> Plan:
    """A plan by shipped name or path, checked before anything is started.

    Raises:
        UserError: A key is unknown or out of range, or the plan could not show the difference that it is for.
    """
    path = find_config('pilots', name)
    try:
        plan = parse(Plan, load_yaml(path), str(path))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f'{path}: {error}') from error
    _check_power(plan, path)
    return plan


def planned_power(plan: Plan, blocks: int) -> np.ndarray:
    """(blocks,) probability of having shown a difference of ``difference`` by each block, by simulation."""
    better = plan.expected_success + plan.difference
    other = better if better < 1.0 else plan.expected_success - plan.difference
    return shown_shares(plan.expected_success, max(other, 0.0), plan.per_arm, blocks, plan.alpha)


def _check_power(plan: Plan, path: Path) -> None:
    wanted = 1.0 - plan.beta
    power = planned_power(plan, plan.blocks)[-1]
    if power >= wanted:
        return
    longer = planned_power(plan, math.ceil(_LONGEST / plan.block))
    enough = np.flatnonzero(longer >= wanted)
    needed = (f'about {(int(enough[0]) + 1) * plan.block} are needed' if len(enough) else
              f'more than {_LONGEST} are needed')
    raise UserError(f'{path}: max_episodes is {plan.max_episodes}, with which a difference of {plan.difference:g} is '
                    f'shown in {power:.0%} of pilots, but beta asks for {wanted:.0%}, for which {needed}: raise '
                    'max_episodes, difference or beta')
