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
        profile = next(enclave.iter('profile'))
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
    own = re.compile(r'/(_ros2cli|rqt_gui_(cpp|py)_node)_\*')  # nodes of tools bear the number of their process
    for path in POLICY.parent.rglob('*.xml'):
        for rule in ElementTree.parse(path).getroot().iter():
            for name in rule.findall('topic') + rule.findall('service'):
                wild = rule.tag == 'services' and rule.attrib == {'reply': 'ALLOW'} and own.fullmatch(name.text)
                assert wild or not re.search(r'[*?\[]', name.text), name.text


def test_names_follow_the_namespace_unless_all_cells_share_them():
    shared = re.compile(r'/(diagnostics(_agg|_toplevel_state)?|rosout|parameter_events|clock|\w+_\*)')
    for path in POLICY.parent.rglob('*.xml'):
        for element in ElementTree.parse(path).getroot().iter():
            if element.tag in ('topic', 'service'):
                assert bool(shared.fullmatch(element.text)) == element.text.startswith('/'), element.text


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


def test_the_operator_may_ask_for_all_that_the_console_asks_for():
    _, rules = profiles()['/vlm_agent_ros/operator']
    tree = ast.parse((ROOT / 'vlm_agent_ros' / 'nodes' / 'operator.py').read_text())
    asked = {call.args[1].value for call in ast.walk(tree) if isinstance(call, ast.Call)
             and getattr(call.func, 'attr', '') in ('_act', '_call') and isinstance(call.args[1], ast.Constant)}
    assert {'stop', 'get_parameters'} < asked
    assert {f'gate_node/{name}' for name in asked} <= allowed(rules, 'services', 'request')


def test_the_tools_of_ros2_may_do_what_the_guides_tell_to_do_with_them():
    """A tool makes clients of all services of its kind, and a single one that is denied ends it."""
    _, rules = profiles()['/vlm_agent_ros/operator']
    parameters = ('describe_parameters', 'get_parameter_types', 'get_parameters', 'list_parameters', 'set_parameters',
                  'set_parameters_atomically')
    states = ('change_state', 'get_available_states', 'get_available_transitions', 'get_state', 'get_transition_graph')
    asked = {f'{node}/{name}' for node in ('gate_node', 'agent_node', 'audit_node') for name in (*parameters, *states)}
    asked |= {f'cell_emulator/{name}' for name in parameters} | {'agent_node/swap'}
    assert asked <= allowed(rules, 'services', 'request')
    heard = {name.rpartition('/')[2] for name in allowed(rules, 'topics', 'subscribe')}
    assert {name.rpartition('/')[2] for name in topic_names.ALL} <= heard


def test_every_process_that_the_launch_file_starts_has_an_enclave():
    tree = ast.parse((ROOT / 'launch' / 'cell.launch.py').read_text())
    started = {call.args[0].value for call in ast.walk(tree)
               if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'node'}
    enclaves = {f'/vlm_agent_ros/{name.removesuffix("_node")}' for name in started}
    assert enclaves | {'/vlm_agent_ros/operator'} == set(profiles())
    assert {node for node, _ in profiles().values()} == started | {'operator'}  # of the operator's, the first


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


def test_the_perspective_has_the_form_that_rqt_imports():
    """Every value is the repr of a literal with its type, every group is groups and keys: anything else ends rqt."""
    def visit(group):
        assert set(group) == {'keys', 'groups'}
        for value in group['keys'].values():
            assert set(value) == {'type', 'repr'} and value['type'] == 'repr'
            ast.literal_eval(value['repr'])
        for inner in group['groups'].values():
            visit(inner)
    visit(json.loads((ROOT / 'config' / 'rqt' / 'cell.perspective').read_text()))


def test_the_perspective_fits_a_namespace_by_the_command_of_the_guide():
    text = (ROOT / 'config' / 'rqt' / 'cell.perspective').read_text()
    assert """sed "s|'/|'/cell_1/|" cell.perspective""" in (ROOT / 'docs' / 'bring_up.md').read_text()
    moved = re.sub("'/", "'/cell_1/", text)
    names = set(re.findall(r"'(/[^']*)'", moved))
    assert names == {f'/cell_1/{topic_names.IMAGE}', '/cell_1/gate_node/stop'}
