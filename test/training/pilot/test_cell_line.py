"""The pilot at a cell: it swaps by the agent's contract, and counts what the topics say."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from training.pilot.cell_events import EpisodeWatch
from training.pilot.cell_line import RosCellLine
from training.pilot.pilot_command import play
from training.pilot.plan import CellLine, Plan
from training.pilot.results import PilotEpisode, PilotResults
from training.progress import Progress
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import outcome_message
from vlm_agent_ros.nodes.ros_env import free_domain
from vlm_agent_ros.types import Outcome

BLANK = PilotEpisode(0, 'A', '', 'place', 0.0)
END = Outcome(1.0, True, False, True, 0, 1, 0, {'cost': 1.0})


def test_repeats_count_once_and_those_of_the_episode_before_not_at_all():
    watch = EpisodeWatch()
    refused = {'verdict': 'refused', 'rule': 'workspace', 'image_stamp_ns': '1', 'mode': 'auto'}
    watch.on_verdict(refused)
    watch.begin()
    for _ in range(3):
        watch.on_verdict({**refused, 'age_s': '1.0'})
        watch.on_stop(False)
    assert watch.episode(BLANK, 1.0).gate_hits == 0
    for stamp in ('2', '3', '3'):
        watch.on_verdict({**refused, 'image_stamp_ns': stamp})
    watch.on_verdict({**refused, 'rule': 'approval', 'image_stamp_ns': '4'})
    watch.on_verdict({**refused, 'rule': 'inactive', 'image_stamp_ns': '4'})  # that is the gate's own
    watch.on_verdict({'verdict': 'pending', 'image_stamp_ns': '5', 'mode': 'approve'})
    watch.on_verdict({'verdict': 'forwarded', 'image_stamp_ns': '5', 'mode': 'approve', 'clamped': 'True'})
    watch.on_verdict({'verdict': 'forwarded', 'image_stamp_ns': '6', 'mode': 'auto', 'clamped': ''})
    for active in (True, True, False, True):
        watch.on_stop(active)
    watch.on_correction('{}')
    watch.on_decision('')
    watch.on_outcome(END)
    watch.on_outcome(END)  # what follows the end belongs to nobody
    episode = watch.episode(BLANK, 2.0)
    assert (episode.gate_hits, episode.rejections, episode.approvals, episode.stops, episode.corrections) == (
        3, 1, 1, 2, 1)
    assert episode.reached and episode.turns == 1 and episode.kpi == {'cost': 1.0} and episode.interventions == 4


def test_a_rejection_and_the_correction_that_comes_with_it_are_one_intervention():
    watch = EpisodeWatch()
    for stamp in ('7', '8'):
        watch.on_verdict({'verdict': 'refused', 'rule': 'approval', 'image_stamp_ns': stamp, 'mode': 'approve'})
    watch.on_correction('{"image_stamp_ns": 8, "action": "pick 10 20"}')  # operator reject --correction
    watch.on_correction('{"image_stamp_ns": 5, "action": "pick 10 20"}')  # of one that no operator had rejected
    watch.on_correction('no json')
    episode = watch.episode(BLANK, 1.0)
    assert (episode.rejections, episode.corrections, episode.interventions) == (2, 3, 4)


def test_an_episode_in_which_two_checkpoints_decided_is_lost():
    watch = EpisodeWatch()
    watch.on_decision('abc')
    watch.on_decision('')
    assert watch.episode(BLANK, 1.0).checkpoint == 'abc'
    watch.on_decision('def')
    assert watch.episode(BLANK, 1.0).lost == 'more than one checkpoint decided in it'


def test_an_outcome_before_any_decision_is_of_the_episode_before():
    watch = EpisodeWatch()
    watch.on_decision('abc')
    watch.begin()
    watch.on_outcome(END)
    assert 'before any decision' in watch.episode(BLANK, 1.0).lost


class FakeCell:
    """Agent and gate of a cell on which ``good`` succeeds and ``bad`` fails after a rejection by the operator."""

    def __init__(self, domain_id: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self.agent, self.gate = (Node(name, context=self.context, use_global_arguments=False)
                                 for name in ('agent_node', 'gate_node'))
        self.agent.declare_parameter('next_model', '')
        self.agent.create_service(Trigger, '~/swap', self._on_swap)
        self.agent.create_subscription(String, interface.TASK, self._on_task, interface.LATCHED_QOS)
        self._outcomes = self.agent.create_publisher(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        self._diagnostics = self.gate.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        self.model, self.stamp, self.silent = '', 0, False
        self._executor = SingleThreadedExecutor(context=self.context)
        for node in (self.agent, self.gate):
            self._executor.add_node(node)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self._executor.shutdown()
        self.context.try_shutdown()

    def _spin(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=0.05)

    def _on_swap(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        asked = self.agent.get_parameter('next_model').value
        response.success = asked != 'unsigned'
        response.message = '' if response.success else 'unsigned bears no signature: sign it'
        self.model = asked if response.success else self.model
        return response

    def lay_out_parts(self) -> None:
        """From now on the line gives tasks itself."""
        tasks = self.gate.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
        self.gate.create_timer(0.8, lambda: tasks.publish(String(data=f'part {self.stamp}')))

    def _on_task(self, _: String) -> None:
        if self.silent:
            return
        self.stamp += 1
        self._say('agent_node: chain of thought', checkpoint_sha256=f'weights of {self.model}', cot_age_s='0.000')
        if self.model == 'bad':
            self._say('gate_node: verdict', verdict='refused', rule='approval', image_stamp_ns=str(self.stamp))
        else:
            self._say('gate_node: verdict', verdict='forwarded', mode='approve', image_stamp_ns=str(self.stamp))
        good = self.model == 'good'
        self._outcomes.publish(outcome_message(Outcome(float(good), True, False, good, 0, 1, 0, {}), self.stamp))

    def _say(self, name: str, **values: str) -> None:
        self._diagnostics.publish(DiagnosticArray(status=[DiagnosticStatus(
            name=name, values=[KeyValue(key=key, value=value) for key, value in values.items()])]))


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCell]:
    domain = free_domain()
    monkeypatch.setitem(os.environ, 'ROS_DOMAIN_ID', str(domain))
    fake = FakeCell(domain)
    yield fake
    fake.close()


def test_a_pilot_at_a_cell_swaps_plays_and_decides(cell, tmp_path):
    plan = Plan('bad', 'good', ('put the red cube on the blue pad',), line='cell', max_episodes=40,
                cell=CellLine(episode_timeout_s=20.0))
    results, line = PilotResults(tmp_path, plan), RosCellLine(plan)
    try:
        play(plan, results, line, Progress().phase('pilot', 40))
    finally:
        line.close()
    played = [e for e in results.finished if e.label == 'B']
    assert all(e.reached and e.approvals == 1 and e.checkpoint == 'weights of good' for e in played)
    assert all(not e.reached and e.rejections == 1 for e in results.finished if e.label == 'A')
    assert 10 <= len(results.finished) < 20


def test_a_line_that_gives_the_tasks_itself_is_followed(cell):
    cell.lay_out_parts()
    line = RosCellLine(Plan('good', 'bad', ('go',), line='cell', cell=CellLine(publish_task=False)))
    try:
        episodes = [line.play(number) for number in range(2)]
    finally:
        line.close()
    assert sorted(e.reached for e in episodes) == [False, True] and not any(e.lost for e in episodes)
    assert all(e.task.startswith('part ') and e.turns == 1 for e in episodes)
    assert {e.label: e.checkpoint for e in episodes} == {'A': 'weights of good', 'B': 'weights of bad'}


def test_a_checkpoint_that_the_agent_refuses_ends_the_pilot_with_its_reason(cell):
    line = RosCellLine(Plan('unsigned', 'unsigned2', ('go',), line='cell'))
    try:
        with pytest.raises(UserError, match=r'/agent_node refuses . \(unsigned2?\): unsigned'):
            for number in range(2):
                line.play(number)
    finally:
        line.close()


def test_an_episode_without_an_end_is_lost_and_a_cell_that_is_not_there_is_named(cell):
    cell.silent = True
    line = RosCellLine(Plan('good', 'bad', ('go',), line='cell', cell=CellLine(episode_timeout_s=1.0)))
    try:
        assert line.play(0).lost == 'no outcome ended it within 1 s'
    finally:
        line.close()
    with pytest.raises(UserError, match=r'/other offers no ~/swap: start the cell, or correct cell\.agent'):
        RosCellLine(Plan('good', 'bad', ('go',), line='cell', cell=CellLine(agent='/other')), discovery_s=0.5)
