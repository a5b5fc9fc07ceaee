"""What surrounds a cell: who may publish what, how diagnostics are grouped, and what rqt shows."""

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from vlm_agent_ros import topic_names

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / 'config' / 'sros2' / 'policy.xml'
INCLUDE = '{http://www.w3.org/2001/XInclude}include'
COMMANDS = {topic_names.ARM_COMMAND, topic_names.GRIPPER_COMMAND}


def profiles():
    """Enclave and profile of every role, with the rules of the included files in it."""
    found = {}
    for enclave in ElementTree.parse(POLICY).getroot().iter('enclave'):
        (profile,) = enclave.iter('profile')
        rules = [rule for rule in profile if rule.tag != INCLUDE]
        for include in profile.iter(INCLUDE):
            rules += ElementTree.parse(POLICY.parent / include.attrib['href']).getroot()
        found[enclave.attrib['path']] = profile.attrib['node'], rules
    return found


def allowed(rules, kind, access):
    """Names that some rules allow, without the slash of a namespace."""
    return {name.text.strip().lstrip('/') for rule in rules if rule.tag == kind and rule.attrib.get(access) == 'ALLOW'
            for name in rule}


def test_only_the_gate_may_publish_robot_commands():
    may = {role: COMMANDS & allowed(rules, 'topics', 'publish') for role, (_, rules) in profiles().items()}
    assert may.pop('/vlm_agent_ros/gate') == COMMANDS
    assert may and not any(may.values())


def test_no_rule_allows_more_than_it_names():
    """A wildcard would let a role publish commands without naming them."""
    for _, rules in profiles().values():
        for rule in rules:
            for name in rule:
                assert not re.search(r'[*?\[]', name.text), name.text


@pytest.mark.parametrize(('role', 'published'), [
    ('agent', {topic_names.PROPOSAL, topic_names.HEARTBEAT, topic_names.CHAIN_OF_THOUGHT}),
    ('audit', {topic_names.AUDIT_HEARTBEAT}), ('gate', COMMANDS | {topic_names.GATE_HEARTBEAT}),
    ('cell_emulator', {topic_names.IMAGE, topic_names.CAMERA_INFO, topic_names.JOINT_STATES, topic_names.TASK,
                       topic_names.OUTCOME}),
])
def test_a_role_may_publish_what_its_node_publishes(role, published):
    _, rules = profiles()[f'/vlm_agent_ros/{role}']
    assert published <= allowed(rules, 'topics', 'publish')


def test_the_audit_may_read_all_that_is_worth_keeping():
    _, rules = profiles()['/vlm_agent_ros/audit']
    heard = {name.rpartition('/')[2] for name in allowed(rules, 'topics', 'subscribe')}
    assert {name.rpartition('/')[2] for name in topic_names.ALL} <= heard


@pytest.mark.parametrize(('role', 'heard'), [
    ('agent', {topic_names.IMAGE, topic_names.TASK, topic_names.OUTCOME, topic_names.DIAGNOSTICS}),
    ('gate', {topic_names.PROPOSAL, topic_names.JOINT_STATES, topic_names.HEARTBEAT, topic_names.DIAGNOSTICS}),
    ('operator', {topic_names.DIAGNOSTICS, topic_names.JOINT_STATES}),
])
def test_a_role_may_hear_what_its_node_lives_on(role, heard):
    _, rules = profiles()[f'/vlm_agent_ros/{role}']
    assert {name.lstrip('/') for name in heard} <= allowed(rules, 'topics', 'subscribe')


def test_the_operator_may_ask_the_gate_for_its_cell():
    _, rules = profiles()['/vlm_agent_ros/operator']
    assert 'gate_node/get_parameters' in allowed(rules, 'services', 'request')


def test_every_process_that_the_launch_file_starts_has_an_enclave():
    tree = ast.parse((ROOT / 'launch' / 'cell.launch.py').read_text())
    started = {call.args[0].value for call in ast.walk(tree)
               if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'node'}
    enclaves = {f'/vlm_agent_ros/{name.removesuffix("_node")}' for name in started}
    assert enclaves | {'/vlm_agent_ros/operator'} == set(profiles())
    assert {node for node, _ in profiles().values()} == started | {'operator'}


def test_each_node_of_the_cell_has_an_analyzer_that_misses_it_when_it_is_gone():
    (parameters,) = yaml.safe_load((ROOT / 'config' / 'diagnostics' / 'analyzers.yaml').read_text()).values()
    analyzers = {key: value for key, value in parameters['ros__parameters'].items() if isinstance(value, dict)}
    prefixes = [prefix for analyzer in analyzers.values() for prefix in analyzer['startswith']]
    assert {'gate_node', 'agent_node', 'audit_node', 'cell_emulator'} <= set(prefixes)
    for analyzer in analyzers.values():
        assert all(name.startswith(tuple(analyzer['startswith'])) for name in analyzer.get('expected', ()))
    assert all(analyzers[name]['expected'] for name in ('gate', 'agent', 'audit'))


def test_the_perspective_shows_diagnostics_images_and_the_stop_service():
    perspective = json.loads((ROOT / 'config' / 'rqt' / 'cell.perspective').read_text())
    manager = perspective['groups']['pluginmanager']
    running = ast.literal_eval(manager['keys']['running-plugins']['repr'])
    assert {'rqt_robot_monitor/RobotMonitor', 'rqt_image_view/ImageView', 'rqt_service_caller/ServiceCaller'
            } <= set(running)
    assert {f'plugin__{name.replace("/", "__")}__1' for name in running} == set(manager['groups'])
    text = json.dumps(manager)
    assert topic_names.IMAGE in text and 'gate_node/stop' in text
