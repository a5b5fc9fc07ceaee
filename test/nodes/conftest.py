"""A ROS graph of its own for every test, with real node processes in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vlm_agent_ros.nodes.ros_env import free_domain
from vlm_agent_ros.nodes.shared_memory import remove_stale_segments

ROOT = Path(__file__).resolve().parents[2]


class Graph:
    """Node processes in one ROS domain, and a node of the test that talks to them."""

    def __init__(self, domain_id: int, logs: Path) -> None:
        self.domain_id, self._logs = domain_id, logs
        self._processes: list[subprocess.Popen[bytes]] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node('tester', context=self.context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def start(self, module: str, *arguments: str, **parameters: Any) -> subprocess.Popen[bytes]:
        """``python -m module --ros-args arguments -p parameters``; a double underscore stands for a dot."""
        command = [sys.executable, '-m', module, '--ros-args', *arguments]
        for name, value in parameters.items():
            command += ['-p', f'{name.replace("__", ".")}:={value}']
        environment = {**os.environ, 'ROS_DOMAIN_ID': str(self.domain_id), 'PYTHONPATH': str(ROOT),
                       'XDG_STATE_HOME': str(self._logs)}
        with self.log(module).open('ab') as stream:
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, cwd=self._logs)
        self._processes.append(process)
        return process

    def log(self, module: str) -> Path:
        return self._logs / f'{module}.log'

    def collect(self, kind: type, topic: str, qos: Any = 10) -> list[Any]:
        """A list that fills with the messages of a topic."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def wait(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """Spin until the condition is true and return what it gave; fail with the nodes' output otherwise."""
        deadline = time.monotonic() + timeout_s
        while not (result := condition()):
            if time.monotonic() > deadline:
                output = '\n'.join(path.read_text() for path in sorted(self._logs.glob('*.log')))
                raise AssertionError(f'waited {timeout_s:.0f} s in vain; the nodes wrote:\n{output}')
            self._executor.spin_once(timeout_sec=0.05)
        return result

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > until, seconds + 5.0)

    def call(self, kind: type, service: str, request: Any = None, timeout_s: float = 60.0) -> Any:
        client = self.node.create_client(kind, service)
        self.wait(client.service_is_ready, timeout_s)
        future = client.call_async(kind.Request() if request is None else request)  # type: ignore[attr-defined]
        self.wait(future.done, timeout_s)
        return future.result()

    def interrupt(self, process: subprocess.Popen[bytes]) -> tuple[int, float]:
        """Exit status after SIGINT, and the seconds it took."""
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        return process.wait(10.0), time.monotonic() - started

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self.context.try_shutdown()
        remove_stale_segments()


@pytest.fixture
def domain_id() -> int:
    """A ROS domain of this test alone: pytest's workers choose from ranges that do not overlap."""
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')) % 4
    return free_domain(range(1 + 25 * worker, 26 + 25 * worker))


@pytest.fixture
def graph(domain_id: int, tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(domain_id, tmp_path)
    yield graph
    graph.close()
