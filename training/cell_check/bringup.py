"""Part ``bringup``: an operator who follows docs/bring_up.md takes an emulated cell from shadow to auto."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from std_srvs.srv import SetBool, Trigger

from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import outcome_from
from vlm_agent_ros.types import Outcome

from ..evaluation.evaluate import Suite, evaluate
from ..seeds import EVALUATION_START
from ..worlds.environment import CellEnvironment
from ..worlds.episodes import Player
from .cell_files import write_cell
from .check_setup import CheckSetup, Figures
from .processes import START_S, CellProcesses
from .witness import Said, Witness

TASK = 'place'
_EPISODE_S = 120.0  # at a reduced speed and on a busy machine
_STILL_RAD = 0.02
_LOOK_S = 0.2  # before an answer is given again


@dataclass(frozen=True)
class Plan:
    """How much is to be seen at each gate of the guide."""

    shadow_verdicts: int = 5
    approved_episodes: int = 3
    auto_episodes: int = 24


_QUICK = Plan(shadow_verdicts=1, approved_episodes=1, auto_episodes=1)


class NotSeen(Exception):
    """What must be seen before going on was not seen; the message names the gate of the guide."""


def run(setup: CheckSetup) -> Figures:
    """Bring the cell up, then play the episodes that it has played in auto in plain simulation.

    Returns:
        ``bringup_success``, the share of successes in auto, 0 where auto was not reached, and ``sim_success`` of the
        same checkpoint on the same seeds; how often the robot was stopped.
    """
    plan, folder = _QUICK if setup.quick else Plan(), setup.folder / 'bringup'
    files = write_cell(folder, setup.world, {
        'autonomy': {'approved_episodes': plan.approved_episodes, 'blend_start': 0.5, 'blend_episodes': 2,
                     'on_stop': 'keep', 'on_gate_hit': 'keep', 'on_failure': 'keep'},
        'audit': {'folder': str(folder / 'audit')}})
    with CellProcesses(folder) as processes:
        operator = Operator(processes, files.cell, plan)
        try:
            operator.start(files.world, setup.checkpoint, folder)
            operator.shadow()
            operator.approve()
            ended = operator.auto()
        except NotSeen as error:
            print(f'bringup: {error}', file=sys.stderr)
            ended = []
    successes = sum(outcome.success for outcome in ended)
    seeds = [EVALUATION_START + outcome.episode for outcome in ended] or [EVALUATION_START]
    return {'bringup_success': successes / max(len(ended), 1), 'sim_success': _in_simulation(setup, seeds),
            'auto_episodes': len(ended), 'stops': operator.stops}


class Operator:
    """Goes through the gates of the guide by the services of the gate node."""

    def __init__(self, processes: CellProcesses, cell: str, plan: Plan) -> None:
        self.stops = 0
        self._processes, self._cell, self._plan = processes, cell, plan
        self._witness = Witness(processes.node, load_cell(cell))
        self._outcomes = processes.collect(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        self._answered = ''

    def start(self, world: str, checkpoint: str, folder: Path) -> None:
        """The cell, then the robot side in shadow."""
        start = self._processes.start
        start('emulator', world=world, task=TASK, seed=EVALUATION_START, inspection=True, pause_s=0.0, patience_s=5.0)
        start('gate', cell=self._cell, evidence_file=str(folder / 'evidence.json'), stop_cooldown_s=0.2)
        start('audit', cell=self._cell)
        start('agent', cell=self._cell, model=checkpoint, threads=1, autostart=True, proposal_timeout_s=10.0)

    def shadow(self) -> None:
        """Gate B: the agent is judged, and nothing moves."""
        self._processes.require(lambda: len({said.values.get('image_stamp_ns') for said in self._verdicts('shadow')})
                                >= self._plan.shadow_verdicts, 'gate B: a verdict in shadow', 2 * START_S)
        moved = max(float(abs(arm - self._witness.states[0][1]).max()) for _, arm in self._witness.states)
        if self._witness.commands or moved > _STILL_RAD:
            raise NotSeen('gate B: the arm was commanded or moved in shadow')

    def approve(self) -> None:
        """Gate C: auto is refused, a no is a no, and then every proposal is released until there is evidence."""
        self._mode('approve', 'B was seen')
        if self._set_mode('auto', 'impatience')[0]:
            raise NotSeen('gate C: auto was allowed without evidence')
        self._pending()
        self._processes.call(SetBool, 'gate_node/approve', SetBool.Request(data=False))
        self._until(lambda: self._verdicts('refused'), 'gate C: the refusal that was asked for')
        if self._witness.commands:
            raise NotSeen('gate C: a command went out although the operator said no')
        while int(self._newest('gate_node: mode').values['approved_episodes']) < self._plan.approved_episodes:
            self._pending()
            if int(self._newest('gate_node: mode').values['approved_episodes']) < self._plan.approved_episodes:
                yes = self._processes.call(SetBool, 'gate_node/approve', SetBool.Request(data=True))
                if not yes.success:  # it may have come too soon after another proposal
                    self._answered = ''
                    self._processes.spin(_LOOK_S)

    def auto(self) -> list[Outcome]:
        """Gates D and E: the last outcome of every episode that began in auto."""
        self._mode('auto', 'C was seen')
        begun = len(self._outcomes)

        def ended() -> list[Outcome]:
            outcomes = [outcome_from(message, interface.OUTCOME) for message in self._outcomes[begun:]]
            whole = {outcome.episode for outcome in outcomes if outcome.turn == 1}
            return [o for o in outcomes if o.episode in whole and (o.terminated or o.truncated)]

        for count in range(1, self._plan.auto_episodes + 1):
            self._until(lambda: len(ended()) >= count, f'gate E: the end of episode {count} in auto')  # noqa: B023
        if (mode := self._newest('gate_node: mode').values['mode']) != 'auto':
            raise NotSeen(f'gate E: the mode has fallen back to {mode}')
        return ended()[:self._plan.auto_episodes]

    # --- what an operator does ----------------------------------------------------------------------------------

    def _pending(self) -> None:
        """Wait for a proposal that has not been answered, or for the evidence to be complete."""
        def there() -> bool:
            verdict = self._newest('gate_node: verdict')
            enough = int(self._newest('gate_node: mode').values['approved_episodes']) >= self._plan.approved_episodes
            return enough or (verdict.values['verdict'] == 'pending'
                              and verdict.values['image_stamp_ns'] != self._answered)
        self._until(there, 'gate C: a proposal that waits for approval')
        self._answered = self._newest('gate_node: verdict').values.get('image_stamp_ns', '')

    def _mode(self, mode: str, reason: str) -> None:
        allowed, message = self._set_mode(mode, reason)
        if not allowed:
            raise NotSeen(f'{mode} is refused: {message}')

    def _set_mode(self, mode: str, reason: str) -> tuple[bool, str]:
        parameters = [Parameter(name=name, value=ParameterValue(
            type=ParameterType.PARAMETER_STRING, string_value=value)) for name, value in (
                ('mode', mode), ('reason', reason))]
        result = self._processes.call(SetParametersAtomically, 'gate_node/set_mode',
                                      SetParametersAtomically.Request(parameters=parameters)).result
        return result.successful, result.reason

    def _until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait, and meanwhile reset each stop whose cause has gone, as one does who has looked at it."""
        deadline = time.monotonic() + _EPISODE_S
        while not self._processes.wait(condition, 1.0):
            if time.monotonic() > deadline:
                raise NotSeen(f'{what} did not come')
            if self._newest('gate_node: stop').values['active'] == 'true':
                self.stops += self._processes.call(Trigger, 'gate_node/reset').success

    def _newest(self, name: str) -> Said:
        return self._witness.statuses(name)[-1]

    def _verdicts(self, kind: str) -> list[Said]:
        return [said for said in self._witness.statuses('gate_node: verdict') if said.values['verdict'] == kind]


def _in_simulation(setup: CheckSetup, seeds: list[int]) -> float:
    """Success of the same checkpoint in plain simulation."""
    environment = CellEnvironment([TASK], [setup.world], 'in-process')
    policy = load_policy(setup.checkpoint, language=environment.language)
    pool = environment.open(1)
    try:
        player = Player(policy, pool, environment.commanders(policy.prompt, 'auto'), checkpoint=setup.checkpoint)
        return evaluate(player, Suite(TASK, setup.world), seeds).success
    finally:
        pool.close()
