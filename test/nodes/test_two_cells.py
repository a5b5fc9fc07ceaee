"""Two cells on one /diagnostics: names tell them apart, and neither takes for its own what the other says."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.own_files import below_namespace, state_file
from vlm_agent_ros.nodes.status_names import full_name, hardware_id, is_of_another_cell, is_of_this_cell

ANALYZERS = Path(__file__).resolve().parents[2] / 'config' / 'diagnostics' / 'analyzers.yaml'


def node(namespace):
    return SimpleNamespace(get_namespace=lambda: namespace, get_name=lambda: 'gate_node')


@pytest.mark.parametrize(('namespace', 'name', 'told_by'), [
    ('/', 'gate_node', 'vlm_agent_ros'), ('/cell_1', 'cell_1/gate_node', 'vlm_agent_ros/cell_1'),
    ('/hall/cell_1', 'hall/cell_1/gate_node', 'vlm_agent_ros/hall/cell_1')])
def test_a_namespace_shows_in_every_name(namespace, name, told_by):
    assert (full_name(node(namespace)), hardware_id(node(namespace))) == (name, told_by)
    for other in ('/', '/cell_1', '/cell_10', '/hall', '/hall/cell_1'):
        status = DiagnosticStatus(name=f'{full_name(node(other))}: world: a/b', hardware_id=hardware_id(node(other)))
        assert is_of_this_cell(node(namespace), status.name) == (namespace == other)
        assert is_of_another_cell(node(namespace), status) == (namespace != other)
    assert not is_of_another_cell(node(namespace), DiagnosticStatus(name='/camera/driver: on', hardware_id='A17'))


def test_cells_that_share_a_cell_file_share_neither_log_nor_evidence(monkeypatch):
    monkeypatch.setenv('XDG_STATE_HOME', '/state')
    for namespace, own in (('/', ''), ('/cell_1', 'cell_1/'), ('/hall/cell_1', 'hall/cell_1/')):
        assert below_namespace(node(namespace), Path('/log')) == Path(f'/log/{own}')
        assert state_file(node(namespace), '', 'a.json') == Path(f'/state/vlm_agent_ros/{own}a.json')
        assert state_file(node(namespace), '/given.json', 'a.json') == Path('/given.json')


@pytest.mark.parametrize(('namespace', 'own'), [('', ''), ('cell_1', 'cell_1/'), ('/hall/cell_1/', 'hall/cell_1/')])
def test_cells_share_no_key(namespace, own):
    assert interface.enclave('gate_node', namespace) == f'/vlm_agent_ros/{own}gate'
    assert interface.enclave('cell_emulator', namespace) == f'/vlm_agent_ros/{own}cell_emulator'


def test_the_analyzers_fit_a_namespace_by_the_command_that_they_name():
    text = ANALYZERS.read_text(encoding='utf-8')
    assert r's/\(gate\|agent\|audit\)_node\|cell_emulator/cell_1\/&/g' in text
    moved = yaml.safe_load(re.sub(r'(gate|agent|audit)_node|cell_emulator', r'cell_1/\g<0>', text))
    (parameters,) = moved.values()
    gate = parameters['ros__parameters']['gate']
    assert gate['startswith'] == ['cell_1/gate_node']
    assert all(name.startswith('cell_1/gate_node: ') for name in gate['expected'])


def test_a_cell_neither_logs_nor_believes_what_another_one_says(graph, tmp_path):
    told = graph.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    publisher = graph.node.create_publisher(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
    cell_1 = ('-r', '__ns:=/cell_1')
    graph.start('vlm_agent_ros.nodes.audit_node', *cell_1, folder=tmp_path / 'log')
    graph.start('vlm_agent_ros.nodes.gate_node', *cell_1, evidence_file=tmp_path / 'evidence')

    def say():
        publisher.publish(DiagnosticArray(status=[
            DiagnosticStatus(name=f'{cell}agent_node: chain of thought',
                             hardware_id=f'vlm_agent_ros/{cell}'.rstrip('/'),
                             values=[KeyValue(key='checkpoint_sha256', value=f'weights of {cell}')])
            for cell in ('', 'cell_1/', 'cell_2/', 'cell_10/')]))
        publisher.publish(DiagnosticArray(status=[DiagnosticStatus(name='controller_manager: all', hardware_id='fr3')]))

    def checkpoints():
        return {value.value for array in told for status in array.status for value in status.values
                if status.name == 'cell_1/gate_node: mode' and value.key == 'checkpoint_sha256'} - {''}

    def names():
        return {status.name for array in told for status in array.status}

    def logged():
        return {status.name for message in AuditLog(tmp_path / 'log').messages([interface.DIAGNOSTICS])
                for status in message.message.status}

    graph.node.create_timer(0.2, say)
    graph.wait(checkpoints)
    told.clear()
    graph.spin(2.0)
    assert checkpoints() == {'weights of cell_1/'}
    graph.wait(lambda: {'cell_1/gate_node: verdict', 'cell_1/gate_node: stop', 'cell_1/audit_node: audit'} <= names())
    assert not any(name.startswith(('gate_node', 'audit_node')) for name in names())
    graph.wait(lambda: {'cell_1/agent_node: chain of thought', 'cell_1/gate_node: mode', 'controller_manager: all'}
               <= logged())
    assert {name for name in logged() if 'agent_node' in name} == {'cell_1/agent_node: chain of thought'}
