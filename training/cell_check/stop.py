"""How long commands still come after a stop was asked for, while the agent goes on proposing as fast as it may."""

from __future__ import annotations

import time

import numpy as np
from std_srvs.srv import Trigger

from vlm_agent_ros.errors import UserError

from .bench import Bench
from .check_setup import CheckSetup, Figures

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
        stream = _Stream(bench)
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
            moving = [then for then, message in bench.commands if bench.points(message) > 1]
            holding = [then for then, message in bench.commands if bench.points(message) == 1]
            if not holding:
                raise UserError('the gate commanded no hold after a stop')
            halted_ms.append((max(moving) - asked) * 1e3 if moving else 0.0)
            held_ms.append((holding[0] - asked) * 1e3)
            stream.rest()
            lifted = clients['reset'].call_async(Trigger.Request())
            bench.processes.require(lifted.done, 'an answer of ~/reset', _ANSWER_S)
            if not lifted.result().success:
                raise UserError(f'~/reset was refused: {lifted.result().message}')
    return {'stop_ms_p99': float(np.percentile(halted_ms, 99)), 'hold_ms_p99': float(np.percentile(held_ms, 99)),
            'stop_trials': trials}


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
