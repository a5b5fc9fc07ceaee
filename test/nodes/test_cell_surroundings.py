"""What the nodes of a cell really open, say and write fits the SROS2 policy, the analyzers and the folders of the cell.

A topic that the policy does not name would end a node of a secured cell, and a status that no analyzer catches would
stand among all that is unknown.
"""

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import Header

from training.cell_check.cell_files import write_cell, write_random_model
from vlm_agent_ros.nodes import interface

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / 'config' / 'sros2' / 'policy.xml'
ANALYZERS = ROOT / 'config' / 'diagnostics' / 'analyzers.yaml'
NODES = ('gate_node', 'agent_node', 'audit_node', 'cell_emulator')
INCLUDE = '{http://www.w3.org/2001/XInclude}include'
HEARTBEATS = (interface.HEARTBEAT, interface.GATE_HEARTBEAT, interface.AUDIT_HEARTBEAT)


def for_namespace(path, namespace):
    """Text of a file, changed for a namespace by the command that stands at its head."""
    text = path.read_text(encoding='utf-8')
    if not namespace:
        return text
    expression = re.search(r"sed '(.*)' " + path.name, text)[1]
    return subprocess.run(['sed', expression.replace('cell_1', namespace.replace('/', r'\/') if '\\/' in expression
                                                     else namespace)],
                          input=text, capture_output=True, text=True, check=True).stdout


def permissions(namespace):
    """What each enclave may do, as sros2 reads a policy: pairs of a kind of access and a resolved name."""
    found = {}
    for enclave in ElementTree.fromstring(for_namespace(POLICY, namespace)).iter('enclave'):
        may = found.setdefault(enclave.attrib['path'], set())
        for profile in enclave.iter('profile'):
            here, node = f'{profile.attrib["ns"].rstrip("/")}/', profile.attrib['node']
            rules = [rule for rule in profile if rule.tag != INCLUDE]
            for include in profile.iter(INCLUDE):
                rules += ElementTree.parse(POLICY.parent / include.attrib['href']).getroot()
            for rule in rules:
                for name in (element.text for element in rule):
                    resolved = name if name[0] == '/' else here + (node + name[1:] if name[0] == '~' else name)
                    may |= {(access, resolved) for access, qualifier in rule.attrib.items() if qualifier == 'ALLOW'}
    return found


def opened(node, name, namespace):
    """What a running node has opened, in the words of a policy."""
    kinds = {'publish': node.get_publisher_names_and_types_by_node,
             'subscribe': node.get_subscriber_names_and_types_by_node,
             'reply': node.get_service_names_and_types_by_node, 'request': node.get_client_names_and_types_by_node}
    return {(access, topic) for access, of in kinds.items() for topic, _ in of(name, f'/{namespace}')}


def caught(name, analyzers):
    return any(name.startswith(tuple(analyzer['startswith'])) for analyzer in analyzers)


@pytest.fixture
def files(tmp_path):
    return write_cell(tmp_path / 'cell', 'panda_table', {
        'camera': {'width': 64, 'height': 64}, 'audit': {'folder': str(tmp_path / 'log')},
        'topics': {'protective_stop': {'topic': 'protective_stop'}}})


@pytest.mark.parametrize('namespace', ['', 'hall/cell_2'])
def test_policy_analyzers_and_folders_fit_what_the_nodes_open_say_and_write(graph, files, tmp_path, namespace):
    told = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    pulses = {topic: graph.collect(Header, f'/{namespace}/{topic}'.replace('//', '/'), interface.SENSOR_QOS)
              for topic in HEARTBEATS}
    here = ('-r', f'__ns:=/{namespace}')
    graph.start('sim_worlds.cell_emulator.emulator_node', *here, world=files.world, inspection=True)
    graph.start('vlm_agent_ros.nodes.gate_node', *here, cell=files.cell)
    graph.start('vlm_agent_ros.nodes.agent_node', *here, cell=files.cell, model=write_random_model(tmp_path / 'model'),
                autostart=True, threads=1)
    audit = graph.start('vlm_agent_ros.nodes.audit_node', *here, cell=files.cell)

    def names():
        return {status.name for array in told for status in array.status}

    prefix = f'{namespace}/'.lstrip('/')
    thought = f'{prefix}agent_node: chain of thought'
    graph.wait(lambda: all(pulses.values()) and thought in names())  # then everything has been opened
    allowed = permissions(namespace)
    for name in NODES:
        found = opened(graph.node, name, namespace)
        assert {access for access, _ in found} == {'publish', 'subscribe', 'reply'}
        assert found <= allowed[interface.enclave(name, namespace)], name
    commands = {('publish', f'/{prefix}{topic}') for topic in (interface.ARM_COMMAND, interface.GRIPPER_COMMAND)}
    assert {role for role, may in allowed.items() if may & commands} == {interface.enclave('gate_node', namespace)}

    graph.wait(lambda: list((tmp_path / 'log' / namespace).glob('*.mcap')))
    audit.kill()
    graph.wait(lambda: {f'{prefix}gate_node: peers', f'{prefix}agent_node: peers'} <= names())
    (parameters,) = yaml.safe_load(for_namespace(ANALYZERS, namespace)).values()
    analyzers = [value for value in parameters['ros__parameters'].values() if isinstance(value, dict)]
    assert not [name for name in names() if not caught(name, analyzers)]
    expected = {name for analyzer in analyzers for name in analyzer.get('expected', ())}
    assert expected and expected <= names()


def test_the_analyzers_are_of_types_that_the_aggregator_reads():
    """It takes a parameter by the type it expects, and ends where it finds another: 2 is no 2.0."""
    text = ANALYZERS.read_text(encoding='utf-8')
    (parameters,) = yaml.safe_load(text).values()
    analyzers = parameters['ros__parameters']
    assert isinstance(analyzers.pop('pub_rate'), float) and isinstance(analyzers.pop('path'), str)
    kinds = {'type': str, 'path': str, 'timeout': float, 'startswith': list, 'expected': list}
    for analyzer in analyzers.values():
        assert analyzer['type'] == 'diagnostic_aggregator/GenericAnalyzer'
        for key, value in analyzer.items():
            assert isinstance(value, kinds[key])
            assert not isinstance(value, list) or all(isinstance(text, str) for text in value)
    # Two analyzers that take the same status would both show it.
    prefixes = [prefix for analyzer in analyzers.values() for prefix in analyzer['startswith']]
    assert not [(a, b) for a in prefixes for b in prefixes if a is not b and a.startswith(b)]
