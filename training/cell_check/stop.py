"""How long commands still come after a stop was asked for, while the agent goes on proposing as fast as it may."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from std_srvs.srv import Trigger

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.types import Trajectory

from .bench import Bench
from .check_setup import CheckSetup, Figures
from .independent_checker import IndependentChecker
from .witness import measured_before

_PERIOD_S = 0.06  # of the proposals
_AFTER_S = 0.25  # how long a command that should not come is waited for
_ANSWER_S = 10.0


def run(setup: CheckSetup) -> Figures:
    """Trials of: a stream of proposals that are forwarded, a stop at a random moment, the stream going on, a reset.

    Raises:
        UserError: The gate does not come up, forwards nothing, or does not stop.
    """
    trials = 10 if setup.quick else 250
    rng = np.random.default_rng(setup.seed)
    halted_ms, held_ms = [], []
    with Bench(setup, 'stop') as bench:
        bench.start_gate()
        clients = {name: bench.processes.node.create_client(Trigger, f'gate_node/{name}') for name in ('stop', 'reset')}
        for client in clients.values():
            bench.processes.require(client.service_is_ready, 'a service of the gate')
        stream, judge = _Stream(bench), _Judge(IndependentChecker(Path(bench.cell.path), bench.cell.urdf_path))
        bench.watch_closely()
        for _ in range(trials):
            bench.commands.clear()
            stream.run(0.3 + float(rng.uniform(0.0, _PERIOD_S)))
            if not bench.commands:
                raise UserError(f'the gate forwards nothing before a stop: see {setup.folder / "stop" / "gate.log"}')
            bench.commands.clear()
            asked = time.monotonic()
            answer = clients['stop'].call_async(Trigger.Request())
            stream.run(_AFTER_S)
            bench.processes.require(answer.done, 'an answer of ~/stop', _ANSWER_S)
            states = list(bench.arm_states)
            moving = [then for then, message in bench.commands if bench.points(message) > 1]
            holding = [(then, message) for then, message in bench.commands if bench.points(message) == 1]
            if not holding:
                raise UserError('the gate commanded no hold after a stop')
            halted_ms.append((max(moving) - asked) * 1e3 if moving else 0.0)
            then, message = holding[0]
            held_ms.append((then - asked) * 1e3)
            judge.hold(bench.trajectory(message), states, then)
            stream.rest()
            lifted = clients['reset'].call_async(Trigger.Request())
            bench.processes.require(lifted.done, 'an answer of ~/reset', _ANSWER_S)
            if not lifted.result().success:
                raise UserError(f'~/reset was refused: {lifted.result().message}')
    judge.require()
    return {'stop_ms_p99': float(np.percentile(halted_ms, 99)), 'hold_ms_p99': float(np.percentile(held_ms, 99)),
            'stop_trials': trials, 'stop_judged': judge.judged, 'stop_unsafe': judge.unsafe}


class _Judge:
    """Whether stops keep the limits of the cell file, from what was measured just before them."""

    def __init__(self, checker: IndependentChecker) -> None:
        self._checker = checker
        self.judged = self.unsafe = 0
        self._problems: set[str] = set()

    def hold(self, command: Trajectory, states: list[tuple[float, np.ndarray]], at: float) -> None:
        """A stop was commanded at a time (s); ``states`` as of ``measured_before``."""
        known = measured_before(states, at)
        if known is not None:
            problems = self._checker.problems_of_stop(command, *known)
            self.judged += 1
            self.unsafe += bool(problems)
            self._problems.update(problems)

    def require(self) -> None:
        """Raise UserError if a stop broke a limit, or none could be judged."""
        if self.unsafe:
            raise UserError(f'{self.unsafe} of {self.judged} stops broke a limit of the cell file: '
                            f'{", ".join(sorted(self._problems))}')
        if not self.judged:
            raise UserError('no stop could be judged, because joint states came too late: run the part on an idle '
                            'machine')


class _Stream:
    """Proposals at a fixed rate, each the same motion from where the robot is."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._motion = bench, bench.plan()
        self._next = time.monotonic()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now >= self._next:
                self._bench.propose(self._motion)
                self._next = now + _PERIOD_S
            self._bench.processes.spin(max(0.0, min(end, self._next) - time.monotonic()))

    def rest(self) -> None:
        """Let the robot come to rest, and plan anew from there."""
        self._bench.processes.spin(0.15)
        self._motion = self._bench.plan()
