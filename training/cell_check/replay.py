"""Part ``replay``: what a cell that ran freely has logged is decided again, every decision the same."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray

from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.nodes import interface

from ..audit.replay import repeat_all, summary
from .check_setup import CheckSetup, Figures
from .processes import CellProcesses

_DECISIONS, _QUICK_DECISIONS = 40, 3
_EACH_S = 8.0
_TOLERANCE = 1e-3  # nats; a log holds four decimals


def run(setup: CheckSetup) -> Figures:
    """Let emulated cell, gate, agent and audit work, then repeat what they have logged.

    Raises:
        UserError: A process does not come up.
    """
    folder = setup.folder / 'replay'
    wanted = _QUICK_DECISIONS if setup.quick else _DECISIONS
    with CellProcesses(folder) as cell:
        decided: set[str] = set()
        cell.node.create_subscription(DiagnosticArray, interface.DIAGNOSTICS, lambda m: decided.update(_images(m)), 100)
        cell.start('audit', cell=setup.cell, folder=str(folder / 'log'))
        cell.start('emulator', world=setup.world, seed=setup.seed, inspection=True)
        cell.start('gate', cell=setup.cell, mode='auto', evidence_file=str(folder / 'evidence.json'))
        # Sampled at temperature 1, so that the seeds matter.
        cell.start('agent', cell=setup.cell, model=setup.checkpoint, temperature=1.0, seed=setup.seed, autostart=True)
        cell.require(lambda: decided, 'a decision')
        cell.wait(lambda: len(decided) >= wanted, wanted * _EACH_S)
        cell.spin(1.0)  # for the last one to reach the log
    found = summary(repeat_all(AuditLog(folder / 'log'), setup.checkpoint, _TOLERANCE))
    return {'replay_identical': found['identical_share'] or 0.0, 'replayed': found['decisions']}


def _images(message: DiagnosticArray) -> set[str]:
    """Stamps of the images on which the statuses of a message decide."""
    return {pair.value for status in message.status if status.name.endswith(': chain of thought')
            for pair in status.values if pair.key == 'image_stamp_ns'}
