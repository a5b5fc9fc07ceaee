"""The launch files describe every argument, start the nodes of the package, and end them all on Ctrl-C.

``launch`` and ``launch_ros`` have no wheels, so that the tests that load or start the files need a ROS 2 installation
and are skipped elsewhere; what can be read from the files alone is tested everywhere.
"""

import ast
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from mcap.reader import make_reader

from training.cell_check.cell_files import write_cell
from vlm_agent_ros.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
# The folder launch/ of the source tree is no launch system: only launch_ros tells.
needs_launch = pytest.mark.skipif(find_spec('launch_ros') is None, reason='launch_ros comes with ROS 2 only')


def calls(path, name):
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == name]


def keywords(call):
    return {k.arg: k.value.value if isinstance(k.value, ast.Constant) else ast.unparse(k.value) for k in call.keywords}


def enclaves(output):
    """Keys that the processes which launch tells of were started with."""
    lines = [Path(f'/proc/{pid}/cmdline').read_text().split('\0')
             for pid in re.findall(r'process started with pid \[(\d+)\]', output)]
    return {line[line.index('--enclave') + 1] for line in lines if '--enclave' in line}


def test_the_launch_files_are_there():
    assert [path.name for path in FILES] == ['cell.launch.py', 'sim_agent.launch.py', 'sim_train.launch.py']


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_argument_has_a_description_and_a_default(path):
    declared = calls(path, 'DeclareLaunchArgument')
    assert declared
    for call in declared:
        assert keywords(call)['description']
        assert isinstance(keywords(call)['default_value'], str)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_discovery_stays_on_the_machine_unless_the_user_decided_otherwise(path):
    (variable,) = calls(path, 'EnvironmentVariable')
    assert variable.args[0].value == 'ROS_AUTOMATIC_DISCOVERY_RANGE'
    assert keywords(variable)['default_value'] == 'LOCALHOST'
    assert calls(path, 'SetEnvironmentVariable')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_node_that_is_started_is_installed(path):
    installed = set(re.findall(r"'([a-z_]+) = ", (ROOT / 'setup.py').read_text()))
    started = set(re.findall(r"(?:executable=|\bnode\(|(?=.\w+_node.:))'(\w+)'", path.read_text()))
    assert len(started) >= 3
    assert started <= installed


def test_train_options_that_the_launch_file_passes_exist():
    from training.config import TrainConfig
    fields = set(TrainConfig.__dataclass_fields__) | {'resume'}
    declared = {call.args[0].value for call in calls(ROOT / 'launch' / 'sim_train.launch.py', 'DeclareLaunchArgument')}
    assert declared - {'args', 'show_cot'} <= fields


@pytest.fixture
def cell_launch(monkeypatch):
    """The functions of cell.launch.py, with stand-ins for what comes with ROS 2 only."""
    for name in ('launch', 'launch.actions', 'launch.substitutions', 'launch_ros', 'launch_ros.actions',
                 'launch_ros.parameter_descriptions'):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    return SimpleNamespace(**runpy.run_path(str(ROOT / 'launch' / 'cell.launch.py')))


def test_one_cell_file_is_the_same_by_name_and_by_a_relative_path(cell_launch, tmp_path, monkeypatch):
    files = write_cell(tmp_path / 'mine', 'panda_table', {})
    monkeypatch.chdir(tmp_path)
    cell_launch.check_emulated('mine/world.yaml', 'mine/cell.yaml')
    with pytest.raises(UserError, match='give the same to both'):
        cell_launch.check_emulated('shifted', files.cell)


def started_by(cell_launch, **given):
    """Parameters by node that cell.launch.py starts, from arguments that are given as launch gives them."""
    arguments = {call.args[0].value: keywords(call)['default_value']
                 for call in calls(ROOT / 'launch' / 'cell.launch.py', 'DeclareLaunchArgument')} | given
    started = {}
    cell_launch.start.__globals__.update(
        ARGUMENTS=[SimpleNamespace(name=name) for name in arguments],
        LaunchConfiguration=lambda name: SimpleNamespace(perform=lambda _: arguments[name]),
        node=lambda name, parameters, *_, **__: started.update({name: parameters}))
    cell_launch.start(SimpleNamespace(environment={}))
    return started


def test_agent_and_audit_log_hear_a_camera_that_sends_compressed_images(cell_launch):
    started = started_by(cell_launch, image_transport='compressed')
    assert started['agent_node']['image_transport'] == started['audit_node']['image_transport'] == 'compressed'
    assert started_by(cell_launch)['agent_node']['image_transport'] == 'raw'
    with pytest.raises(UserError, match='the emulated camera sends raw images: leave it out'):
        started_by(cell_launch, image_transport='compressed', emulator='panda_table')


def test_a_checkpoint_named_by_a_number_is_still_a_name(cell_launch):
    typed = cell_launch.as_given({'model': '7', 'proposal_timeout_s': 35.0})
    cell_launch.as_given.__globals__['ParameterValue'].assert_called_once_with('7', value_type=str)
    assert typed['proposal_timeout_s'] == 35.0


def test_a_time_that_is_no_number_is_refused_by_the_name_of_its_argument(cell_launch):
    assert cell_launch.seconds('approve_timeout_s', '30') == 30.0
    with pytest.raises(UserError, match=r'approve_timeout_s is .x., which is no number: give seconds'):
        cell_launch.seconds('approve_timeout_s', 'x')


@needs_launch
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_launch_file_loads_and_documents_its_arguments(path):
    shown = subprocess.run(['ros2', 'launch', str(path), '--show-args'], capture_output=True, text=True, check=True,
                           timeout=60)
    for call in calls(path, 'DeclareLaunchArgument'):
        assert f"'{call.args[0].value}':" in shown.stdout


def test_ctrl_c_leaves_the_trainer_the_time_to_write_its_checkpoint():
    (trainer,) = [keywords(call) for call in calls(ROOT / 'launch' / 'sim_train.launch.py', 'Node')
                  if keywords(call)['executable'] == 'trainer']
    assert float(trainer.get('sigterm_timeout', '5')) >= 30.0


def test_a_gate_that_has_ended_is_not_started_again_at_a_cell():
    started = {call.args[0].value: keywords(call).get('respawn', False)
               for call in calls(ROOT / 'launch' / 'cell.launch.py', 'node')}
    assert started == {'gate_node': False, 'agent_node': True, 'audit_node': True, 'cell_emulator': False}


@needs_launch
@pytest.mark.parametrize(('arguments', 'nodes'), [
    (('sim_agent.launch.py', 'mode:=shadow'), ('world_node', 'gate_node', 'agent_node', 'cot_viewer')),
    (('cell.launch.py', 'emulator:=panda_table', 'namespace:=cell_1'),
     ('cell_emulator', 'gate_node', 'agent_node', 'audit_node')),
])
def test_launch_starts_its_processes_and_ctrl_c_ends_them_within_5_s(tmp_path, arguments, nodes):
    command = ['ros2', 'launch', str(ROOT / 'launch' / arguments[0]), *arguments[1:]]
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')) % 4
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(96 + worker), 'ROS_LOG_DIR': str(tmp_path),
                   'HOME': str(tmp_path), 'XDG_STATE_HOME': str(tmp_path)}
    with (tmp_path / 'output').open('w+') as output:
        launch = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + 90.0
            while ' loaded in ' not in (tmp_path / 'output').read_text():
                assert launch.poll() is None, (tmp_path / 'output').read_text()
                assert time.monotonic() < deadline, (tmp_path / 'output').read_text()
                time.sleep(0.2)
            keys = enclaves((tmp_path / 'output').read_text())
            started = time.monotonic()
            os.killpg(launch.pid, signal.SIGINT)
            launch.wait(20.0)
            assert time.monotonic() - started < 5.0
        finally:
            if launch.poll() is None:
                os.killpg(launch.pid, signal.SIGKILL)
    words = (tmp_path / 'output').read_text()
    for node in nodes:
        assert re.search(rf'{node}-\d\]: process started', words)
        assert re.search(rf'{node}-\d\]: process has finished cleanly', words), words
    if 'audit_node' in nodes:  # what it got is there to be read, and not only for the tools of this package
        (file,) = (tmp_path / '.ros' / 'vlm_agent_audit' / 'cell_1').glob('*.mcap')
        with file.open('rb') as stream:
            assert make_reader(stream).get_summary().statistics.message_count > 100
        assert keys == {f'/vlm_agent_ros/cell_1/{node.removesuffix("_node")}' for node in nodes}
