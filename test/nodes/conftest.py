"""A ROS graph of its own for every test, with real node processes in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.motion.cubic import positions_at
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import camera_info_message, joint_state_message, trajectory_from, trajectory_message
from vlm_agent_ros.nodes.process import with_starter
from vlm_agent_ros.nodes.ros_env import free_domain
from vlm_agent_ros.nodes.shared_memory import remove_stale_segments

ROOT = Path(__file__).resolve().parents[2]
GATE = 'vlm_agent_ros.nodes.gate_node'


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
            process = subprocess.Popen(command, env=with_starter(environment), stdout=stream, stderr=stream,
                                       cwd=self._logs)
        self._processes.append(process)
        return process

    def log(self, module: str) -> Path:
        return self._logs / f'{module}.log'

    def collect(self, kind: type, topic: str, qos: Any = 10) -> list[Any]:
        """A list that fills with the messages of a topic."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def wait(self, condition: Callable[[], Any], timeout_s: float = 120.0) -> Any:
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

    def call(self, kind: type, service: str, request: Any = None, timeout_s: float = 120, pause_s: float = 0.0) -> Any:
        """The response of a service, called a pause after it was discovered.

        A server that has not discovered this end within 100 ms drops its answer, which happens on a busy machine.
        """
        client = self.node.create_client(kind, service)
        self.wait(client.service_is_ready, timeout_s)
        self.spin(pause_s)
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


@pytest.fixture
def gate(graph, cell, planner, at_home):
    """A cell that follows its commands, played by the test, and the gate of a given mode in front of it."""
    node = graph.node
    bench = SimpleNamespace(
        camera=node.create_publisher(CameraInfo, interface.CAMERA_INFO, interface.SENSOR_QOS),
        joints=node.create_publisher(JointState, interface.JOINT_STATES, interface.SENSOR_QOS),
        proposals=node.create_publisher(JointTrajectory, interface.PROPOSAL, interface.COMMAND_QOS),
        task=node.create_publisher(String, interface.TASK, interface.LATCHED_QOS),
        arm=graph.collect(JointTrajectory, interface.ARM_COMMAND, interface.COMMAND_QOS),
        gripper=graph.collect(JointTrajectory, interface.GRIPPER_COMMAND, interface.COMMAND_QOS),
        diagnostics=graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS),
        positions=at_home.joint_positions, stamp_ns=0, motion=None, follows=True, silent='',
        plan=planner.plan(Pick(24, 24), at_home.joint_names, at_home.joint_positions))

    def statuses(about, since=0):
        """Every status of the gate about a thing, repeats included."""
        return [{'level': s.level, 'message': s.message, **{v.key: v.value for v in s.values}}
                for a in bench.diagnostics[since:] for s in a.status if s.name == f'gate_node: {about}']

    def carry_out(message):
        bench.motion = trajectory_from(message, ''), time.monotonic()

    def sense():
        if bench.motion and bench.follows:
            trajectory, started = bench.motion
            bench.positions = bench.positions.copy()
            bench.positions[:7] = positions_at(trajectory, np.array([time.monotonic() - started]))[0]
        bench.stamp_ns = time.time_ns()
        if bench.silent != 'camera':
            bench.camera.publish(camera_info_message(cell.camera, bench.stamp_ns))
        if bench.silent != 'joints':
            bench.joints.publish(joint_state_message(cell.robot.joints, bench.positions, bench.stamp_ns))

    def start(**parameters):
        bench.process = graph.start(GATE, **parameters)
        node.create_timer(0.05, sense)
        bench.task.publish(String(data='pick the red cube'))
        graph.wait(lambda: bench.shown('state') == 'active' and bench.proposals.get_subscription_count()
                   and bench.task.get_subscription_count())
        graph.spin(0.3)

    def propose(trajectory, stamp_ns=None):
        """The verdict on a proposal, by default one that rests on the newest image."""
        rests_on = bench.stamp_ns if stamp_ns is None else stamp_ns
        graph.spin(0.3)  # a decision takes time: the gate knows the image before it gets the proposal
        seen = len(bench.diagnostics)
        bench.proposals.publish(trajectory_message(trajectory, rests_on))
        return graph.wait(lambda: next((v for v in bench.statuses('verdict', seen) if 'age_s' not in v),
                                       None))

    node.create_subscription(JointTrajectory, interface.ARM_COMMAND, carry_out, interface.COMMAND_QOS)
    thoughts = node.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)

    def decide(checkpoint, about='chain of thought'):
        """The agent tells which checkpoint it decides with."""
        thoughts.publish(DiagnosticArray(status=[DiagnosticStatus(
            name=f'agent_node: {about}', values=[KeyValue(key='checkpoint_sha256', value=checkpoint)])]))

    bench.start, bench.propose, bench.decide = start, propose, decide
    bench.statuses = statuses
    bench.newest = lambda about: (statuses(about) or [{}])[-1]
    bench.shown = lambda about: bench.newest(about).get(about)
    return bench
