"""Checkpoints of a running agent: swapped and rolled back without a gap, between episodes, and for a good reason."""

from __future__ import annotations

import json
import re
import shutil
import time
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from training.sft.tiny_vlm import TinyVlmConfig, build_tiny_vlm
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface, releases
from vlm_agent_ros.nodes.decider import Decider, DeciderSettings, find_release
from vlm_agent_ros.nodes.messages import image_message, joint_state_message, outcome_message, to_ns
from vlm_agent_ros.nodes.releases import Releases, ReleaseSettings
from vlm_agent_ros.release.band import Rollback
from vlm_agent_ros.release.export import export_checkpoint
from vlm_agent_ros.release.keeper import Keeper
from vlm_agent_ros.release.keys import load_private_key, make_keys
from vlm_agent_ros.release.ledger import Ledger, Release, RolledBack
from vlm_agent_ros.types import Outcome

AGENT = 'vlm_agent_ros.nodes.agent_node'


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    """A cell that trusts one key and declares a band, and two bundles for it that have learned nothing."""
    folder = tmp_path_factory.mktemp('shop')
    private, public = make_keys(folder / 'line3')
    shipped = load_cell('panda_table')
    content = yaml.safe_load(Path(shipped.path).read_text())
    content['trust'] = {'keys': [public.name]}
    content['rollback'] = {'min_success': 0.8}
    content['robot']['urdf'] = str(shipped.urdf_path)
    (folder / 'cell.yaml').write_text(yaml.safe_dump(content))
    sizes = TinyVlmConfig(image_size=128, patch_size=32, vision_width=32, vision_layers=1, text_width=32, text_layers=1)
    for name, seed in (('a', 0), ('b', 1)):
        build_tiny_vlm(sizes, folder / 'bases' / name, seed=seed)
        (folder / f'{name}.yaml').write_text(
            f'base: {folder / "bases" / name}\nlora: null\nprompt: {{template: "task: {{task}}"}}\n'
            'decoding: {max_thought_chars: 20, max_new_tokens: 120}\n')
        export_checkpoint(folder / name, str(folder / f'{name}.yaml'), load_cell(str(folder / 'cell.yaml')),
                          load_private_key(private))
    return folder


class Bench:
    """What a cell and its gate say, from the test; every proposal is forwarded, and nothing moves."""

    def __init__(self, graph, shop, ledger, model='a'):
        self.graph, self.shop = graph, shop
        self.cell = load_cell(str(shop / 'cell.yaml'))
        node = graph.node
        self.diagnostics = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        self.beats: list[float] = []
        node.create_subscription(Header, interface.HEARTBEAT, lambda _: self.beats.append(time.monotonic()),
                                 interface.SENSOR_QOS)
        self.image = node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
        self.joints = node.create_publisher(JointState, interface.JOINT_STATES, interface.SENSOR_QOS)
        self.gate = node.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        self.line = node.create_publisher(DiagnosticArray, interface.OUTCOME, interface.EVENT_QOS)
        self.task = node.create_publisher(String, interface.TASK, interface.LATCHED_QOS)
        self.task.publish(String(data='pick up the red cube'))
        self.proposals = []
        node.create_subscription(JointTrajectory, interface.PROPOSAL, self.on_proposal, interface.COMMAND_QOS)
        node.create_timer(0.05, self.sense)
        self.process = graph.start(AGENT, cell=shop / 'cell.yaml', model=shop / model, release_file=ledger, threads=1,
                                   temperature=1.0, max_rate_hz=30.0, proposal_timeout_s=0.1, autostart=True)

    def sense(self):
        now, camera, robot = time.time_ns(), self.cell.camera, self.cell.robot
        pixels = np.full((camera.height, camera.width, 3), 128, np.uint8)
        self.image.publish(image_message(pixels, now, camera.frame))
        self.joints.publish(joint_state_message(robot.joints, np.array([*robot.home, robot.gripper_open]), now))

    def on_proposal(self, message):
        self.proposals.append(to_ns(message.header.stamp))
        values = {'verdict': 'forwarded', 'clamped': '', 'image_stamp_ns': str(self.proposals[-1])}
        self.gate.publish(DiagnosticArray(status=[DiagnosticStatus(
            name='gate_node: verdict', values=[KeyValue(key=key, value=value) for key, value in values.items()])]))

    def play(self, success):
        """An episode with at least one motion."""
        count = len(self.proposals)
        self.graph.wait(lambda: len(self.proposals) > count)
        self.graph.spin(0.1)
        self.line.publish(outcome_message(Outcome(0.0, True, False, success, 0, 1, 0), time.time_ns()))
        self.graph.spin(0.1)

    def last(self, name):
        found = [{'message': s.message, **{v.key: v.value for v in s.values}}
                 for m in self.diagnostics for s in m.status if s.name == name]
        return found[-1] if found else {}

    def checkpoint(self):
        return self.last('agent_node: checkpoint')

    def digest(self, name):
        return find_release(str(self.shop / name), self.cell)[0].digest

    def decided_by(self):
        return self.last('agent_node: chain of thought').get('checkpoint_sha256')

    def swap(self, name):
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(self.shop / name))
        request = SetParameters.Request(parameters=[Parameter(name='next_model', value=value)])
        assert self.graph.call(SetParameters, 'agent_node/set_parameters', request).results[0].successful
        return self.graph.call(Trigger, 'agent_node/swap')


def test_a_swap_waits_for_the_episode_and_neither_heartbeat_nor_decisions_wait_for_it(graph, shop, tmp_path):
    bench = Bench(graph, shop, tmp_path / 'releases.json')
    graph.wait(bench.decided_by)
    assert bench.decided_by() == bench.digest('a')
    begun, decided = time.monotonic(), len(bench.proposals)
    response = bench.swap('b')
    loaded = time.monotonic()
    assert response.success, response.message
    assert 'takes over at the end of the episode' in response.message
    beats = [begun, *(beat for beat in bench.beats if begun < beat < loaded), loaded]
    assert max(later - earlier for earlier, later in pairwise(beats)) < bench.cell.autonomy.heartbeat_timeout_s
    graph.wait(lambda: len(bench.proposals) > decided + 3)
    assert bench.decided_by() == bench.digest('a')
    bench.play(True)
    graph.wait(lambda: bench.decided_by() == bench.digest('b'))
    graph.wait(lambda: bench.checkpoint()['state'] == 'deciding')
    assert len(bench.checkpoint()['signed_by']) == 64


def test_what_cannot_be_trusted_or_loaded_is_refused_with_the_reason_and_the_old_one_goes_on(graph, shop, tmp_path):
    bench = Bench(graph, shop, tmp_path / 'releases.json')
    graph.wait(bench.decided_by)
    shutil.copytree(shop / 'b', shop / 'damaged', dirs_exist_ok=True)
    content = bytearray((shop / 'damaged' / 'model.safetensors').read_bytes())
    content[-1] ^= 1
    (shop / 'damaged' / 'model.safetensors').write_bytes(content)
    for name, reason in (('damaged', 'model.safetensors is corrupt'), ('b.yaml', 'is no signed bundle'),
                         ('nowhere', 'does not exist'), ('bases/b', 'is no signed bundle')):
        response = bench.swap(name)
        assert not response.success
        assert reason in response.message
    count = len(bench.proposals)
    bench.play(True)
    graph.wait(lambda: len(bench.proposals) > count + 2)
    assert bench.decided_by() == bench.digest('a')


def test_a_failing_checkpoint_is_rolled_back_by_itself_and_stays_away_after_a_restart(graph, shop, tmp_path):
    ledger = tmp_path / 'state' / 'releases.json'
    bench = Bench(graph, shop, ledger)
    graph.wait(bench.decided_by)
    bench.play(True)
    assert bench.swap('b').success
    bench.play(True)  # the episode that was under way
    graph.wait(lambda: bench.decided_by() == bench.digest('b'))
    for _ in range(10):
        if bench.checkpoint()['checkpoint'] == str(shop / 'b') and bench.checkpoint()['state'] == 'deciding':
            bench.play(False)
    graph.wait(lambda: bench.decided_by() == bench.digest('a'))
    graph.wait(lambda: re.match(rf'rolled back from {shop / "b"}: [01] of [4-7] of the last episodes succeeded, but '
                                r'rollback\.min_success is 0\.8', bench.checkpoint()['message']))
    assert list(json.loads(ledger.read_text())['condemned']) == [bench.digest('b')]
    refused = bench.swap('b')
    assert not refused.success
    assert f'readmit:={bench.digest("b")[:12]}' in refused.message
    graph.interrupt(bench.process)
    bench.diagnostics.clear()
    graph.start(AGENT, cell=shop / 'cell.yaml', model=shop / 'b', release_file=ledger, threads=1, autostart=True)
    graph.wait(bench.decided_by)
    assert bench.decided_by() == bench.digest('a')
    graph.wait(lambda: 'was rolled back on' in bench.checkpoint().get('message', ''))


CONDEMNED, GOOD = Release('/models/b', 'b' * 64), Release('/models/a', 'a' * 64)


def chance(path, release):
    with pytest.raises(RolledBack) as refusal:
        Ledger(path).refuse(release)
    return str(refusal.value).rpartition('readmit:=')[2]


def test_an_agent_that_did_not_start_takes_the_chance_that_it_is_given_meanwhile(graph, shop, tmp_path):
    ledger = tmp_path / 'releases.json'
    release, _ = find_release(str(shop / 'b'), load_cell(str(shop / 'cell.yaml')))
    Ledger(ledger).condemn(release, 'it failed')
    bench = Bench(graph, shop, ledger, model='b')
    graph.wait(lambda: 'was rolled back on' in bench.last('agent_node: state').get('message', ''))
    given = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=chance(ledger, release))
    graph.call(SetParameters, 'agent_node/set_parameters',
               SetParameters.Request(parameters=[Parameter(name='readmit', value=given)]))
    configure = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert graph.call(ChangeState, 'agent_node/change_state', configure).success
    graph.wait(lambda: bench.decided_by() == bench.digest('b'))


def test_another_chance_is_not_spent_where_loading_fails(tmp_path, monkeypatch):
    path = tmp_path / 'releases.json'
    Ledger(path).condemn(CONDEMNED, 'it failed')

    def fails(_, admit):
        admit(CONDEMNED)
        raise UserError('too little memory')
    monkeypatch.setattr(releases, 'Decider', fails)
    with pytest.raises(UserError, match='too little memory'):
        Releases(None, ReleaseSettings(release_file=str(path), readmit=chance(path, CONDEMNED)), None, None)
    with pytest.raises(RolledBack):
        Ledger(path).refuse(CONDEMNED)


def test_what_is_rolled_back_while_another_copy_is_loaded_does_not_take_over(tmp_path):
    ledger = Ledger(tmp_path / 'releases.json')
    keeper = Keeper(SimpleNamespace(release=CONDEMNED), Rollback(min_success=0.8), ledger)
    loading = Future()
    loading.set_result(SimpleNamespace(release=CONDEMNED))
    ledger.condemn(CONDEMNED, 'it failed')
    done, message = Releases._finish(SimpleNamespace(_ledger=ledger, _keeper=keeper), loading)
    assert not done
    assert 'was rolled back' in message
    assert keeper.take() is None


def test_a_start_with_neither_the_model_nor_the_one_to_go_back_to_says_both(tmp_path, monkeypatch):
    path = tmp_path / 'releases.json'
    Ledger(path).prove(GOOD)
    Ledger(path).condemn(CONDEMNED, 'it failed')

    def gone(settings, admit):
        if settings.model == GOOD.model:
            raise UserError(f'{GOOD.model} does not exist')
        admit(CONDEMNED)
    monkeypatch.setattr(releases, 'Decider', gone)
    with pytest.raises(UserError, match=r'/models/b was rolled back .*; nor is .* /models/a does not exist'):
        Releases(None, ReleaseSettings(release_file=str(path), model=CONDEMNED.model), None, None)


def test_the_memory_of_a_checkpoint_that_has_been_replaced_is_free(shop):
    import gc
    import weakref

    decider = Decider(DeciderSettings(cell=str(shop / 'cell.yaml'), model=str(shop / 'a'), threads=1))
    model = weakref.ref(decider._policy.model)
    gc.collect()
    gc.disable()
    try:
        del decider
        assert model() is None  # without the collector, which would stop the heartbeat
    finally:
        gc.enable()
