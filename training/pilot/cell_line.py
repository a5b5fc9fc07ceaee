"""A running cell as the line of a pilot: checkpoints are swapped between episodes, and the topics say what happened."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vlm_agent_ros.cot import unescape
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import outcome_from
from vlm_agent_ros.nodes.ros_env import chosen_domain, keep_local

from .cell_events import EpisodeWatch
from .plan import Plan
from .results import PilotEpisode

_POLL_S = 0.1
_LATE_S = 0.3  # what other topics say of an episode may come after the outcome that ended it


class RosCellLine:
    """A cell with agent and gate in this ROS domain.

    Args:
        plan: Names, checkpoints and instructions.
        discovery_s: Longest wait for a node that runs, s.

    Raises:
        UserError: Agent or gate are not there.
    """

    def __init__(self, plan: Plan, discovery_s: float = 15.0) -> None:
        self._plan, self._deciding = plan, ''
        domain = chosen_domain(os.environ) or 0
        keep_local()
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('pilot', namespace=plan.cell.namespace, context=self._context, use_global_arguments=False,
                          start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._watch = EpisodeWatch()
        self._task = ''
        self._connect()
        outcome = self._node.resolve_topic_name(interface.OUTCOME)
        try:
            self._await(lambda: self._swap.service_is_ready() and self._next_model.service_is_ready(), discovery_s,
                        f'{plan.cell.agent} offers no ~/swap: start the cell, or correct cell.agent of the plan')
            self._await(lambda: all(self._node.count_publishers(topic) for topic in (
                            interface.DIAGNOSTICS, interface.OUTCOME)), discovery_s,
                        f'nobody publishes {interface.DIAGNOSTICS} or {outcome}: start {plan.cell.gate} and the '
                        'inspection of the line')
        except BaseException:
            self.close()
            raise

    def play(self, number: int) -> PilotEpisode:
        """See Line."""
        plan = self._plan
        label, task = plan.label(number), plan.task(number)
        if self._deciding != label:
            self._deciding = ''
            self._change_checkpoint(label)
            self._deciding = label
        started = self._begin(task)
        blank = PilotEpisode(number, label, '', self._task, time.time())
        timeout_s = plan.cell.episode_timeout_s
        try:
            self._await(lambda: self._watch.ended, timeout_s, f'no outcome ended it within {timeout_s:g} s')
        except UserError as error:
            blank = replace(blank, lost=str(error))
        cycle_s = time.monotonic() - started
        self._linger(_LATE_S)
        return self._watch.episode(blank, cycle_s)

    def close(self) -> None:
        """See Line."""
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _connect(self) -> None:
        node, cell = self._node, self._plan.cell
        self._next_model = node.create_client(SetParameters, f'{cell.agent}/set_parameters')
        self._swap = node.create_client(Trigger, f'{cell.agent}/swap')
        if cell.publish_task:
            self._tasks = node.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
        else:
            node.create_subscription(String, interface.TASK, self._on_task, interface.LATCHED_QOS)
        node.create_subscription(DiagnosticArray, interface.OUTCOME, self._on_outcome, interface.EVENT_QOS)
        node.create_subscription(DiagnosticArray, interface.DIAGNOSTICS, self._on_diagnostics, interface.EVENT_QOS)
        node.create_subscription(String, f'{cell.gate}/correction', lambda said: self._watch.on_correction(said.data),
                                 interface.EVENT_QOS)
        gate, agent = (name.lstrip('/') for name in (cell.gate, cell.agent))
        self._statuses: dict[str, Callable[[DiagnosticStatus, dict[str, str]], None]] = {
            f'{gate}: verdict': lambda _, values: self._watch.on_verdict(values),
            f'{gate}: stop': lambda status, _: self._watch.on_stop(status.level == DiagnosticStatus.ERROR),
            f'{agent}: chain of thought':
                lambda _, values: self._watch.on_decision(values.get('checkpoint_sha256', ''))
                if _is_new(values) else None}

    # --- what the cell says -----------------------------------------------------------------------------------------

    def _on_task(self, message: String) -> None:
        self._task = message.data
        self._begun = time.monotonic()

    def _on_outcome(self, message: DiagnosticArray) -> None:
        self._watch.on_outcome(outcome_from(message, self._node.resolve_topic_name(interface.OUTCOME)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if take := self._statuses.get(status.name):
                take(status, {item.key: unescape(item.value) for item in status.values})

    # --- what the pilot does ----------------------------------------------------------------------------------------

    def _begin(self, task: str) -> float:
        """Start an episode, or wait until the line does; returns when (monotonic, s)."""
        if self._plan.cell.publish_task:
            self._watch.begin()
            self._task = task
            self._tasks.publish(String(data=task))
            return time.monotonic()
        self._begun = 0.0
        timeout_s = self._plan.cell.episode_timeout_s
        self._await(lambda: self._begun > 0.0, timeout_s,
                    f'{self._node.resolve_topic_name(interface.TASK)}: the line has given no task within '
                    f'{timeout_s:g} s: start it, or set cell.publish_task')
        self._watch.begin()  # not earlier: what the line began while a checkpoint was loaded is nobody's episode
        return self._begun

    def _change_checkpoint(self, label: str) -> None:
        """Swap to the checkpoint of a label.

        Raises:
            UserError: The agent refuses it.
        """
        source, timeout_s = self._plan.source(label), self._plan.cell.swap_timeout_s
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=source)
        request = SetParameters.Request(parameters=[Parameter(name='next_model', value=value)])
        result = self._call(self._next_model, request, timeout_s).results[0]
        reason = '' if result.successful else result.reason
        if not reason:
            answer = self._call(self._swap, Trigger.Request(), timeout_s)
            reason = '' if answer.success else answer.message
        if reason:
            raise UserError(f'{self._plan.cell.agent} refuses {label} ({source}): {reason}')

    def _call(self, client: Any, request: Any, timeout_s: float) -> Any:
        future = client.call_async(request)
        self._await(future.done, timeout_s, f'{client.srv_name} gives no answer within {timeout_s:g} s: see the log of '
                                            f'{self._plan.cell.agent}')
        return future.result()

    def _linger(self, seconds: float) -> None:
        """Take messages for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def _await(self, reached: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """Take messages until something is reached."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > deadline:
                raise UserError(otherwise)
            self._executor.spin_once(timeout_sec=_POLL_S)


def _is_new(values: dict[str, str]) -> bool:
    """Whether a chain of thought is shown for the first time; later it is repeated with its age."""
    return float(values.get('cot_age_s', '0') or 0) == 0.0
