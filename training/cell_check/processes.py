"""The processes of a cell under test, on a ROS domain of their own, and a node in this process that talks to them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.process import NodeProcess, with_sources
from vlm_agent_ros.nodes.ros_env import free_domain, keep_local
from vlm_agent_ros.nodes.shared_memory import remove_stale_segments

MODULES = {
    'emulator': 'sim_worlds.cell_emulator.emulator_node',
    'gate': 'vlm_agent_ros.nodes.gate_node',
    'agent': 'vlm_agent_ros.nodes.agent_node',
    'audit': 'vlm_agent_ros.nodes.audit_node',
}
START_S = 90.0  # importing PyTorch takes long on a busy machine
_END_S = 3.0

T = TypeVar('T')


class CellProcesses:
    """Processes by name, one each of ``MODULES``, and what a check needs to watch and command them.

    Args:
        folder: Made if missing; gets ``<name>.log`` of each process.

    Attributes:
        domain_id: ROS domain in which nobody else is.
        node: A node of this process in the same domain.
    """

    def __init__(self, folder: Path) -> None:
        keep_local()
        self.domain_id = free_domain()
        self._folder = folder
        self._processes: dict[str, NodeProcess] = {}
        self._context = Context()
        rclpy.init(context=self._context, domain_id=self.domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node('cell_check', context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def __enter__(self) -> CellProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()

    # --- processes ----------------------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str, **parameters: Any) -> None:
        """Start a process of ``MODULES``.

        Args:
            name: Key of ``MODULES``; the process must not run.
            arguments: ROS arguments, e.g. ``-r``, ``a:=b``.
            parameters: Parameters of the node; two underscores stand for a dot.
        """
        command = [sys.executable, '-m', MODULES[name], '--ros-args', *arguments]
        for key, value in parameters.items():
            command += ['-p', f'{key.replace("__", ".")}:={json.dumps(value)}']
        environment = {**with_sources(os.environ), 'ROS_DOMAIN_ID': str(self.domain_id), 'OMP_NUM_THREADS': '1'}
        self._processes[name] = NodeProcess(command, environment, self._folder / f'{name}.log')
        self._processes[name].start()

    def kill(self, name: str) -> None:
        """Kill a process as the kernel would for lack of memory: at once, with no chance to say anything."""
        self._processes[name].signal(signal.SIGKILL)
        self._processes[name].end(_END_S)

    def restart(self, name: str) -> None:
        """Start a process that has ended once more, as it was started before."""
        remove_stale_segments()
        self._processes[name].start()

    def exit_reason(self, name: str) -> str | None:
        """How a process ended, with its last words; None while it runs."""
        return self._processes[name].exit_reason()

    # --- talking to them ----------------------------------------------------------------------------------------

    def collect(self, kind: type, topic: str, qos: Any = 10) -> list[Any]:
        """A list that fills with the messages of a topic while this class waits."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def spin(self, seconds: float) -> None:
        """Let messages come in for some time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=min(left, 0.05))

    def wait(self, condition: Callable[[], T], timeout_s: float) -> T:
        """Let messages come in until a condition is true; the last it gave, false where time ran out."""
        deadline = time.monotonic() + timeout_s
        while not (result := condition()) and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        return result

    def require(self, condition: Callable[[], T], what: str, timeout_s: float = START_S) -> T:
        """As ``wait``, for what the check cannot go on without.

        Raises:
            UserError: It did not happen; the message says which process has ended, if any, and where the logs are.
        """
        result = self.wait(condition, timeout_s)
        if not result:
            ended = [f'{name} {reason}' for name in self._processes if (reason := self.exit_reason(name))]
            raise UserError(f'{what} did not happen within {timeout_s:.0f} s' + ''.join(f'; {e}' for e in ended)
                            + f': see the logs in {self._folder}')
        return result

    def call(self, kind: Any, service: str, request: Any = None, timeout_s: float = START_S) -> Any:
        """The response of a service.

        Raises:
            UserError: There is none in time.
        """
        client = self.node.create_client(kind, service)
        try:
            self.require(client.service_is_ready, f'that {service} is there', timeout_s)
            future = client.call_async(kind.Request() if request is None else request)
            self.require(future.done, f'an answer of {service}', timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        """End every process, within some 3 s."""
        for process in self._processes.values():
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + _END_S
        for process in self._processes.values():
            process.end(max(0.0, deadline - time.monotonic()))
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()
        remove_stale_segments()
