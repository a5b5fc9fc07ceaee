"""N worlds through ROS 2: the very topics and services that a cell is deployed on, one process per world.

A world is commanded by trajectories stamped with the image that they rest on; its answer is the outcome and the image
and joint states of the same stamp. Nothing here waits by sleeping: ``collect`` drives a single-threaded executor.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from sim_worlds.world_file import load_world
from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.cot import REPEAT_S, CotPublisher
from vlm_agent_ros.nodes.process import NodeProcess, with_sources
from vlm_agent_ros.nodes.ros_env import chosen_domain, free_domain, keep_local
from vlm_agent_ros.nodes.shared_memory import remove_stale_segments
from vlm_agent_ros.types import EpisodeRequest, Trajectory

from .pool import Answer, WorldError
from .world_link import WorldLink, WorldSilent

MAX_FAILURES = 3
_POLL_S = 0.1  # how soon a dead process is noticed
_END_S = 2.0


class RosWorlds:
    """A WorldPool of ``world_node`` processes, started here or elsewhere.

    Args:
        count: Number of worlds; ignored where ``attach`` names them.
        world: Name or path of the world file used where a request names none.
        logs: Folder for ``world_<i>.log``; a temporary one by default.
        attach: Namespaces of worlds that already run in lock step, e.g. by a launch file; none are started then.
        start_timeout_s: Longest wait for a world to come up, s.
        turn_timeout_s: Longest wait for the answer to a reset or a command, s; then the world is held to hang.

    Raises:
        UserError: The world file or a task does not exist, or no world comes up.
    """

    transport = 'ros'

    def __init__(self, count: int, world: str = 'panda_table', *, logs: Path | None = None,
                 attach: Sequence[str] = (), start_timeout_s: float = 90.0, turn_timeout_s: float = 60.0) -> None:
        load_world(world)  # a wrong name is told here, not by a dead process
        self.size = len(attach) or count
        self._start_timeout_s, self._turn_timeout_s = start_timeout_s, turn_timeout_s
        self._failures = [0] * self.size
        namespaces = [name.strip('/') for name in attach] or [f'world_{i}' for i in range(count)]
        keep_local()
        domain = chosen_domain(os.environ)
        self.domain_id = domain if domain is not None else 0 if attach else free_domain()
        self._processes = [] if attach else self._make_processes(namespaces, world, logs)
        self._context = Context()
        rclpy.init(context=self._context, domain_id=self.domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('trainer', context=self._context, use_global_arguments=False,
                          start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._links = [WorldLink(self._node, name, world) for name in namespaces]
        self._sources = [f'trainer: {name}' for name in namespaces]
        self._cot = CotPublisher(self._node, dict(zip(
            self._sources, (f'/{name}/trainer/chain_of_thought' for name in namespaces))))
        self._closing = threading.Event()
        self._repeater = threading.Thread(target=self._repeat_cot, name='cot repeat', daemon=True)
        self._repeater.start()
        for process in self._processes:
            process.start()

    def reset(self, requests: dict[int, EpisodeRequest]) -> None:
        """See WorldPool; a world that is still coming up is reset as soon as it is there."""
        for index, request in requests.items():
            self._links[index].reset(request, self._start_timeout_s, self._turn_timeout_s)

    def execute(self, commands: dict[int, Trajectory | None]) -> None:
        """See WorldPool."""
        for index, trajectory in commands.items():
            self._links[index].execute(trajectory, self._turn_timeout_s)

    def collect(self, indices: Sequence[int]) -> dict[int, Answer]:
        """See WorldPool."""
        for index in indices:
            self._links[index].wait()
        while True:
            for index in indices:
                self._advance(index)
            if all(self._links[index].answer is not None for index in indices):
                break
            self._executor.spin_once(timeout_sec=_POLL_S)
        answers = {index: self._links[index].take_answer() for index in indices}
        for index, (_, outcome) in answers.items():
            if outcome is not None:  # a world that comes up and breaks down in every turn is no good one
                self._failures[index] = 0
        return answers

    def report(self, index: int, cot: CotReport) -> None:
        """Publish a decision on ``/diagnostics`` and ``/<world>/trainer/chain_of_thought``."""
        self._cot.publish(cot, self._sources[index])

    def close(self) -> None:
        """End all worlds that were started here, within some 2 s."""
        if self._closing.is_set():
            return
        self._closing.set()
        for process in self._processes:
            process.signal(15)
        self._repeater.join()
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()
        deadline = time.monotonic() + _END_S
        for process in self._processes:
            process.end(max(0.0, deadline - time.monotonic()))
        remove_stale_segments()

    def _advance(self, index: int) -> None:
        link = self._links[index]
        reason = self._processes[index].exit_reason() if self._processes else None
        if link.answer is None and reason is None:
            try:
                link.advance()
            except WorldSilent as error:
                reason = str(error)
        if link.answer is None and reason is not None:
            self._fail(index, f'{link.name} {reason}')

    def _fail(self, index: int, reason: str) -> None:
        """Restart a world that died or hangs, and tell the caller that its episode is lost."""
        self._failures[index] += 1
        if self._failures[index] >= MAX_FAILURES:
            log = f'; see {self._processes[index].log}' if self._processes else ''
            raise UserError(f'{reason}, the {MAX_FAILURES}. time in a row{log}')
        self._links[index].drop()
        if self._processes:
            process = self._processes[index]
            process.signal(9)
            process.end(_END_S)
            remove_stale_segments()
            process.start()
            raise WorldError(index, f'{reason}; it is being restarted')
        raise WorldError(index, f'{reason}; it was started elsewhere and has to be restarted there')

    def _make_processes(self, namespaces: list[str], world: str, logs: Path | None) -> list[NodeProcess]:
        folder = logs or Path(tempfile.mkdtemp(prefix='vlm_agent_ros_logs_'))
        environment = {**with_sources(os.environ), 'ROS_DOMAIN_ID': str(self.domain_id), 'OMP_NUM_THREADS': '1'}
        return [NodeProcess(
            [sys.executable, '-m', 'sim_worlds.world_node', '--ros-args', '-r', f'__ns:=/{name}', '-p',
             f'world:={json.dumps(world)}', '-p', 'lock_step:=true', '-p', f'parent_pid:={os.getpid()}'],
            environment, folder / f'{name}.log') for name in namespaces]

    def _repeat_cot(self) -> None:
        while not self._closing.wait(REPEAT_S):
            self._cot.repeat()
