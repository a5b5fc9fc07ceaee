"""Part ``rollback``: a checkpoint that fails comes to the line, in good faith and signed, and leaves it by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import Trigger

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.checkpoint import load_policy, save_checkpoint
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import outcome_from
from vlm_agent_ros.release.export import export_checkpoint
from vlm_agent_ros.release.keys import load_private_key, make_keys

from ..seeds import EVALUATION_START
from .cell_files import write_cell
from .check_setup import CheckSetup, Figures
from .processes import START_S, CellProcesses
from .witness import Said, Witness

_EPISODE_S = 60.0  # on a busy machine
_MOST_EPISODES = 20
_NOISE = 0.06
"""Standard deviation of what is added to the adapters: outputs are still legal, and mean other places."""


def run(setup: CheckSetup) -> Figures:
    """Let a good checkpoint play, swap the bad one in, and watch.

    Returns:
        ``rolled_back``: the bad one was replaced by the good one, is refused from then on, and the good one decides;
        ``episodes`` that the bad one played, and ``rollback_s`` from its first decision to the good one's next.
    """
    folder = setup.folder / 'rollback'
    # Fewer failures contradict a higher promise: three in a row for 0.9, five for 0.75.
    files = write_cell(folder, setup.world, {
        'autonomy': {'approved_episodes': 0, 'blend_episodes': 0, 'on_stop': 'keep', 'on_gate_hit': 'keep',
                     'on_failure': 'keep'},
        'audit': {'folder': str(folder / 'audit')}, 'trust': {'keys': ['line.pub.pem']},
        'rollback': {'min_success': 0.9 if setup.quick else 0.75, 'max_gate_hits': 0.5}})
    good, bad = _bundles(setup, folder, files.cell)
    with CellProcesses(folder) as processes:
        line = Line(processes, files.cell)
        line.start(files.world, good, folder)
        line.until(lambda: line.ended > 0, 'the first episode')
        line.swap(bad, expected=True)
        line.until(lambda: line.decides == str(bad), 'a decision of the bad checkpoint')
        begun, episodes = time.monotonic(), line.ended
        back = line.until(lambda: line.decides == str(good) and line.newest().values['state'] == 'deciding',
                          'the return of the good checkpoint', lambda: line.ended - episodes > _MOST_EPISODES)
        seconds, played = time.monotonic() - begun, line.ended - episodes
        kept_out = back and line.swap(bad, expected=False)
        decides = back and line.until(lambda: line.decided_since(begun + seconds), 'a decision of the good checkpoint')
        print(f'rollback: {line.newest().message}', file=sys.stderr)
    return {'rolled_back': bool(back and kept_out and decides), 'episodes': played, 'rollback_s': round(seconds, 1)}


def _bundles(setup: CheckSetup, folder: Path, cell_path: str) -> tuple[Path, Path]:
    """The checkpoint, and the same after something has gone wrong in its training; both signed."""
    cell = load_cell(cell_path)
    key = load_private_key(make_keys(folder / 'line')[0])
    good, bad = folder / 'good', folder / 'bad'
    export_checkpoint(good, setup.checkpoint, cell, key)
    policy = load_policy(setup.checkpoint, language=SkillLanguage(cell.grid))
    generator = torch.Generator().manual_seed(setup.seed)
    with torch.no_grad():
        for parameter in policy.adapter_parameters():
            parameter.add_(_NOISE * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(folder / 'spoilt', policy, step=1, camera=cell.camera)
    export_checkpoint(bad, str(folder / 'spoilt'), cell, key)
    return good, bad


@dataclass
class Line:
    """The cell with its agent, and the operator who resets a stop and swaps checkpoints.

    Attributes:
        ended: Episodes that have ended.
    """

    processes: CellProcesses
    cell: str

    def __post_init__(self) -> None:
        self._witness = Witness(self.processes.node, load_cell(self.cell))
        self.ended = 0
        self.processes.node.create_subscription(DiagnosticArray, interface.OUTCOME, self._on_outcome,
                                                interface.EVENT_QOS)

    def _on_outcome(self, message: DiagnosticArray) -> None:
        outcome = outcome_from(message, interface.OUTCOME)
        self.ended += outcome.terminated or outcome.truncated

    def start(self, world: str, checkpoint: Path, folder: Path) -> None:
        """Cell, gate in auto and agent."""
        start = self.processes.start
        start('emulator', world=world, task='place', seed=EVALUATION_START, inspection=True, pause_s=0.0,
              patience_s=5.0)
        start('gate', cell=self.cell, mode='auto', evidence_file=str(folder / 'evidence.json'), stop_cooldown_s=0.2)
        start('agent', cell=self.cell, model=str(checkpoint), threads=1, autostart=True, proposal_timeout_s=10.0,
              release_file=str(folder / 'releases.json'))
        self.processes.require(lambda: self._witness.statuses('agent_node: chain of thought'), 'a decision',
                               2 * START_S)

    @property
    def decides(self) -> str:
        """Path of the checkpoint that decides."""
        return self.newest().values['checkpoint']

    def newest(self) -> Said:
        """What the agent says of its checkpoint."""
        return self._witness.statuses('agent_node: checkpoint')[-1]

    def decided_since(self, at: float) -> bool:
        """Whether a decision was made since then."""
        thoughts = self._witness.statuses('agent_node: chain of thought')
        return any(said.at > at and said.values['cot_age_s'] == '0.000' for said in thoughts)

    def swap(self, checkpoint: Path, expected: bool) -> bool:
        """Have the agent load a checkpoint; whether it answered as expected."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(checkpoint))
        request = SetParameters.Request(parameters=[Parameter(name='next_model', value=value)])
        self.processes.call(SetParameters, 'agent_node/set_parameters', request)
        response = self.processes.call(Trigger, 'agent_node/swap')
        if response.success != expected:
            print(f'rollback: {response.message}', file=sys.stderr)
        return bool(response.success == expected)

    def until(self, condition: Callable[[], Any], what: str, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for a condition, and meanwhile reset each stop whose cause has gone; whether it came."""
        deadline = time.monotonic() + _EPISODE_S * (_MOST_EPISODES if what.startswith('the return') else 1)
        while not self.processes.wait(condition, 1.0):
            if given_up() or time.monotonic() > deadline:
                print(f'rollback: {what} did not come; {self.ended} episodes, {self.newest().values}', file=sys.stderr)
                return False
            stops = self._witness.statuses('gate_node: stop')
            if stops and stops[-1].values['active'] == 'true':
                self.processes.call(Trigger, 'gate_node/reset')
        return True
