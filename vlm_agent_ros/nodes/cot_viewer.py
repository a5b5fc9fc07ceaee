"""Prints the chain of thought from ``/diagnostics`` to a terminal, for machines without rqt."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from ..config import bounded
from ..cot import unescape
from .interface import DIAGNOSTICS, EVENT_QOS
from .parameters import declare_parameters
from .ros_env import run_node


@dataclass(frozen=True)
class Parameters:
    """Parameters of cot_viewer."""

    period_s: float = bounded(1.0, low=0.0, high=3600.0, help='shortest time between two decisions that are shown, s')
    source: str = bounded('', help='show only what decides in this world or node, e.g. world_0; empty for all')


class CotViewer(Node):
    """Shows decisions as they come, each once, and skips those that come faster than one can read.

    The decision that stands when the viewer starts is shown too: a publisher repeats it with its age.
    """

    def __init__(self) -> None:
        super().__init__('cot_viewer')
        self._settings = declare_parameters(self, Parameters)
        self._shown_at = -float('inf')
        self._seen: set[str] = set()
        self.create_subscription(DiagnosticArray, DIAGNOSTICS, self._on_diagnostics, EVENT_QOS)

    def close(self) -> None:
        """Nothing is left to do."""

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            values = {pair.key: unescape(pair.value) for pair in status.values}
            if 'cot_age_s' not in values or self._settings.source not in status.name:
                continue
            repeated = values['cot_age_s'].strip('0.') != '' and status.name in self._seen
            self._seen.add(status.name)
            if not repeated and time.monotonic() - self._shown_at >= self._settings.period_s:
                self._shown_at = time.monotonic()
                print(_render(status, values), flush=True)


def _render(status: DiagnosticStatus, values: dict[str, str]) -> str:
    thought = ' '.join(value for key, value in values.items() if key.startswith('thought.'))
    numbers = ', '.join(f'{key} {values[key]}' for key in ('logprob', 'value', 'latency_ms') if key in values)
    lines = [f'── {status.name.removesuffix(": chain of thought")} ({numbers})', f'   task    {values.get("task", "")}',
             f'   thought {thought}', f'   action  {values.get("action", "")}']
    lines += [f'   refused {values["refusal"]}'] if 'refusal' in values else []
    # A thought may hold what a terminal takes for a command.
    return '\n'.join(''.join(c if c.isprintable() else ' ' for c in line) for line in lines)


def main(args: list[str] | None = None) -> int:
    """Run the node; ``python -m`` and, by way of ``entry``, ``ros2 run vlm_agent_ros cot_viewer``."""
    return run_node('cot_viewer', CotViewer, args)


if __name__ == '__main__':
    sys.exit(main())
