"""Part ``kill``: any process of a cell is killed at any moment; the arm holds, and the others say what is missing."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from std_srvs.srv import Trigger

from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface

from .cell_files import CellFiles, write_light_cell, write_random_model
from .check_setup import CheckSetup, Figures
from .log_check import check_log_after_kill
from .processes import START_S, CellProcesses
from .witness import Witness

TRIALS = 100
VICTIMS = ('agent', 'gate', 'audit', 'emulator')
NAMED_WITHIN_S = 1.0
_IN_FLIGHT_S = 0.1  # a command that was sent before the kill may still arrive
_AT_END_RAD = 0.1
# The servo of the simulated arm leaves the path of its fastest turns by up to 0.12 rad, nobody being killed; this is
# what the gate of the light cell takes for a tracking error.
_STRAY_RAD = 0.2
_REST_S = 0.3
_SETTLED_S = 15.0  # the longest motion, and what a busy machine adds

# What has to be said, by whoever is left: name of the status, key, and word in its value.
_NAMED = {
    'agent': (('gate_node: inputs', 'faults', 'heartbeat'), ('gate_node: stop', 'causes', 'heartbeat')),
    'gate': (('audit_node: peers', 'lost', interface.GATE_HEARTBEAT),
             ('agent_node: peers', 'lost', interface.GATE_HEARTBEAT)),
    'audit': (('gate_node: peers', 'lost', interface.AUDIT_HEARTBEAT),
              ('agent_node: peers', 'lost', interface.AUDIT_HEARTBEAT)),
    'emulator': (('gate_node: inputs', 'faults', 'joints'), ('gate_node: inputs', 'faults', 'camera'),
                 ('gate_node: stop', 'causes', 'joints'), ('gate_node: stop', 'causes', 'camera')),
}


@dataclass(frozen=True)
class Trial:
    """One kill.

    Attributes:
        named_s: Time until the cause was on ``/diagnostics``; None where it was not in 5 s.
        held: The arm did nothing but finish a motion that had been forwarded, or stop.
        wrong: What was not as promised; empty where all was.
    """

    victim: str
    named_s: float | None
    held: bool
    wrong: str


def run(setup: CheckSetup) -> Figures:
    """Kill one process after the other.

    Returns:
        ``kill_trials``, ``kill_ok``, and the longest time until a cause was named.
    """
    rng = random.Random(setup.seed)
    folder = setup.folder / 'kill'
    files, model = write_light_cell(folder, setup.world, folder / 'audit'), write_random_model(folder)
    rounds = [rng.sample(VICTIMS, 2)] if setup.quick else [
        rng.sample(VICTIMS, len(VICTIMS)) for _ in range(TRIALS // len(VICTIMS))]
    trials = []
    with CellProcesses(folder) as processes, (folder / 'trials.jsonl').open('w', encoding='utf-8') as report:
        bench = Bench(processes, files, folder, rng)
        bench.start(model)
        for victim in (victim for victims in rounds for victim in victims):
            trials.append(bench.trial(victim))
            report.write(json.dumps(trials[-1].__dict__) + '\n')
            report.flush()
    named = [trial.named_s for trial in trials if trial.named_s is not None]
    return {'kill_trials': len(trials), 'kill_ok': sum(not trial.wrong for trial in trials),
            'named_s_max': max(named, default=float('nan'))}


class Bench:
    """A cell at work in auto, of which one process after the other is killed and started again."""

    def __init__(self, processes: CellProcesses, files: CellFiles, folder: Path, rng: random.Random) -> None:
        self._processes, self._files, self._folder, self._rng = processes, files, folder, rng
        self._witness = Witness(processes.node, load_cell(files.cell))

    def start(self, model: str) -> None:
        """Bring everything up and wait until the arm moves."""
        files, start = self._files, self._processes.start
        start('emulator', world=files.world, task='pick', joint_rate_hz=60.0, camera_rate_hz=10.0)
        start('gate', cell=files.cell, mode='auto', evidence_file=str(self._folder / 'evidence.json'),
              stop_cooldown_s=0.1)
        start('audit', cell=files.cell)
        start('agent', cell=files.cell, model=model, temperature=1.0, max_rate_hz=10.0, threads=1, autostart=True,
              max_refusal_wait_s=1.0)  # an agent that waits long would not show that it goes on
        self._at_work()

    def trial(self, victim: str) -> Trial:
        """Kill a process at a random moment, see what follows, and bring the cell back to work."""
        self._processes.spin(self._rng.uniform(0.0, 2.0))
        self._witness.forget()
        self._processes.spin(0.05)
        killed, killed_ns = time.monotonic(), time.time_ns()
        self._processes.kill(victim)
        named_s = self._named(victim, killed)
        if victim in ('agent', 'audit'):  # while the arm comes to rest: the gate is stopped, or does not need them
            self._processes.restart(victim)
        held = self._held(victim, killed)
        log = check_log_after_kill(self._folder / 'audit', killed_ns)
        wrong = [] if named_s and named_s <= NAMED_WITHIN_S else [f'not named within {NAMED_WITHIN_S:g} s']
        wrong += [reason for reason in (held, log) if reason]
        if self._processes.exit_reason(victim):
            self._processes.restart(victim)
        try:
            self._at_work()
        except UserError as error:  # the trials after it shall not be lost with it
            wrong.append(str(error))
            self._begin_anew()
        return Trial(victim, named_s, not held, '; '.join(wrong))

    def _named(self, victim: str, killed: float) -> float | None:
        """Time (s) until the cause was on ``/diagnostics``; waited for a little longer, to tell late from never."""
        def found() -> float | None:
            return next((said.at - killed for name, key, word in _NAMED[victim]
                         for said in self._witness.statuses(name, killed) if word in said.values.get(key, '')), None)
        return self._processes.wait(found, 5 * NAMED_WITHIN_S)

    def _held(self, victim: str, killed: float) -> str:
        """What the arm did that it should not have; empty where there is nothing."""
        witness = self._witness
        if victim == 'audit':  # the log is no reason to stop
            return self._strayed(killed)
        if victim == 'emulator':  # the arm went with it; what matters is that one that comes back stays stopped
            self._processes.restart('emulator')
            self._processes.require(lambda: witness.states and witness.states[-1][0] > killed + 0.3, 'joint states')
            back = time.monotonic()
            self._processes.spin(1.0)
            stopped = any(said.values['active'] == 'true' for said in witness.statuses('gate_node: stop', killed))
            late = [at for at, trajectory in witness.commands if at > back and len(trajectory.times_ns) > 1]
            return 'a motion for a robot that was stopped' if stopped and late else ''
        if not self._processes.wait(lambda: witness.rests(time.monotonic(), _REST_S), _SETTLED_S):
            return f'the arm still moves {_SETTLED_S:g} s later'
        if victim == 'gate':
            if any(at > killed + _IN_FLIGHT_S for at, _ in witness.commands):
                return 'a command without a gate'
            end = witness.commands[-1][1].positions[-1] if witness.commands else None
            if end is not None and np.abs(witness.states[-1][1] - end).max() > _AT_END_RAD:
                return 'the arm is not at the end of the last motion'
        elif moves := [at for at, trajectory in witness.commands if at > killed + NAMED_WITHIN_S
                       and len(trajectory.times_ns) > 1]:
            return f'a motion {moves[0] - killed:.2f} s after the agent was killed'
        return self._strayed(killed)

    def _strayed(self, killed: float) -> str:
        distance = self._witness.stray(killed)
        return '' if distance <= _STRAY_RAD else f'the arm was {distance:.2f} rad off the path'

    def _begin_anew(self) -> None:
        for name in VICTIMS:
            self._processes.kill(name)
        for name in VICTIMS:
            self._processes.restart(name)
        self._at_work()

    def _at_work(self) -> None:
        """Lift the stop, and wait until every process is there and a new motion has been forwarded."""
        started = time.monotonic()
        fresh = {'gate_node: mode', 'gate_node: stop', 'gate_node: inputs', 'audit_node: audit'}
        self._processes.require(
            lambda: all(self._witness.statuses(name, started) for name in fresh) and self._sound(started),
            'that gate and audit log are there')
        ready = time.monotonic()
        while time.monotonic() < ready + START_S:
            if self._processes.wait(lambda: any(at > ready for at, _ in self._witness.commands), _REST_S * 5):
                return
            self._processes.call(Trigger, 'gate_node/reset')
        raise UserError(f'the arm does not move again within {START_S:.0f} s: see the logs in {self._folder}')

    def _sound(self, since: float) -> bool:
        """Nobody is missed any more."""
        newest = {said.name: said.values for said in self._witness.said if said.at >= since}
        missed = any(values['lost'] for name, values in newest.items() if name.endswith(': peers'))
        return not missed and not newest['gate_node: inputs']['faults']
