"""Start and end of a node process."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.process import with_sources
from vlm_agent_ros.nodes.ros_env import chosen_domain, free_domain, loopback

pytest.importorskip('rclpy')


@pytest.mark.parametrize(('said', 'domain'), [({}, None), ({'ROS_DOMAIN_ID': ''}, None), ({'ROS_DOMAIN_ID': '0'}, 0),
                                              ({'ROS_DOMAIN_ID': ' 232 '}, 232)])
def test_the_domain_is_the_one_that_the_user_has_chosen(said, domain):
    assert chosen_domain(said) == domain


@pytest.mark.parametrize('said', ['abc', '-1', '1.0', '233', '99999'])
@pytest.mark.parametrize('line', ['worlds', 'pilot'])
def test_a_domain_that_does_not_exist_is_one_sentence(said, line, monkeypatch):
    from training.pilot.cell_line import RosCellLine
    from training.worlds.ros_worlds import RosWorlds

    monkeypatch.setenv('ROS_DOMAIN_ID', said)
    with pytest.raises(UserError, match=f"ROS_DOMAIN_ID is '{said}', but must be a whole number from 0 to 232"):
        RosWorlds(1) if line == 'worlds' else RosCellLine(None)

_NODE = '''
import os, signal, sys
from rclpy.node import Node
from vlm_agent_ros.nodes.ros_env import run_node

class Interrupted(Node):
    """Is interrupted in a callback, where compiled code makes an error of its own of it, and again while it closes."""

    def __init__(self):
        super().__init__('interrupted')
        self.create_timer(0.01, self._tick)

    def _tick(self):
        try:
            signal.raise_signal(signal.SIGINT)
            while True:
                pass
        except KeyboardInterrupt:
            raise RuntimeError('interrupted in compiled code')

    def close(self):
        signal.raise_signal(signal.SIGINT)
        print('closed')

def fail():
    raise RuntimeError('a true error')

sys.exit(run_node('interrupted', {'interrupted': Interrupted, 'fail': fail}[sys.argv[1]], args=[]))
'''


def _run(what: str, domain_id: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    return subprocess.run([sys.executable, '-c', _NODE, what], env=environment, capture_output=True, text=True,
                          timeout=60, check=False)


def test_interrupt_is_no_error_wherever_it_lands_and_the_node_is_closed(domain_id):
    done = _run('interrupted', domain_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith('closed')
    assert 'Traceback' not in done.stderr


def test_error_without_an_interrupt_is_reported(domain_id):
    done = _run('fail', domain_id)
    assert done.returncode == 1
    assert 'a true error' in done.stderr


_IMPORT = """
import signal, sys
from {module} import {node}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            {act}

sys.meta_path.insert(0, Finder())
sys.exit({node}())
"""
NODES = [('vlm_agent_ros.nodes.entry', 'agent_node'), ('vlm_agent_ros.nodes.entry', 'gate_node'),
         ('vlm_agent_ros.nodes.entry', 'cot_viewer'), ('sim_worlds.entry', 'world_node')]


def _import(module, node, name, act):
    """Exit status and words of an entry point when something happens at an import."""
    done = subprocess.run([sys.executable, '-c', _IMPORT.format(module=module, node=node, name=name, act=act)],
                          capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(('module', 'node'), NODES)
def test_interrupt_while_packages_are_imported_is_no_error(module, node):
    assert _import(module, node, 'rclpy', 'signal.raise_signal(signal.SIGINT)') == (0, '')


@pytest.mark.parametrize(('module', 'node'), NODES)
def test_node_without_ros_says_how_to_install_it_in_one_sentence(module, node):
    status, said = _import(module, node, 'rclpy', 'raise ModuleNotFoundError(name, name=name)')
    assert status == 2
    assert said.startswith(f'{node}: rclpy is not installed: source') and said.count('\n') == 1


@pytest.mark.parametrize(('module', 'node', 'name'), [
    ('vlm_agent_ros.nodes.entry', 'agent_node', 'torch'), ('sim_worlds.entry', 'world_node', 'pybullet')])
def test_node_without_one_of_its_packages_names_it_in_one_sentence(module, node, name):
    status, said = _import(module, node, name, 'raise ModuleNotFoundError(name, name=name)')
    assert status == 2
    assert f'{name} is not installed: pip install {name}' in said and said.count('\n') == 1


def test_fault_of_the_package_itself_is_not_taken_for_a_missing_one():
    status, said = _import('sim_worlds.entry', 'world_node', 'sim_worlds.scene',
                           'raise ModuleNotFoundError(name, name=name)')
    assert status == 1
    assert 'Traceback' in said


STARTED = """
import os
from rclpy.node import Node
from vlm_agent_ros.nodes.ros_env import run_node

class Quiet(Node):
    def __init__(self):
        super().__init__('quiet')
        print('pid', os.getpid(), flush=True)

    def close(self):
        pass

raise SystemExit(run_node('quiet', Quiet))
"""
STARTER = f"""
import os, sys, time
from pathlib import Path
from vlm_agent_ros.nodes.process import NodeProcess
NodeProcess([sys.executable, '-c', {STARTED!r}], dict(os.environ), Path(sys.argv[1])).start()
time.sleep(600.0)
"""


def test_a_node_ends_when_the_one_who_started_it_is_killed(tmp_path, domain_id):
    """A test run that was killed left its nodes at work for hours."""
    log = tmp_path / 'node.log'
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'PYTHONPATH': str(root)}
    starter = subprocess.Popen([sys.executable, '-c', STARTER, str(log)], env=environment)

    def wait(condition):
        deadline = time.monotonic() + 60.0
        while not (result := condition()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return result
    try:
        wait(lambda: log.exists() and log.read_text().endswith('\n') and log.read_text().startswith('pid'))
        node = Path('/proc') / log.read_text().split()[1]
        assert node.exists()
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    wait(lambda: not node.exists() or node.joinpath('stat').read_text().rpartition(')')[2].split()[0] == 'Z')


@pytest.mark.parametrize('other', ['loopback', 'localhost'])
def test_a_process_without_shared_memory_hears_others_and_has_nothing_there(tmp_path, other):
    """Two processes find each other by the shipped profile, also where only one has it, like an operator's tools."""
    script = tmp_path / 'say.py'
    script.write_text(textwrap.dedent("""
        import os, sys, time
        from vlm_agent_ros.nodes.ros_env import loopback
        if sys.argv[3] == 'loopback':
            os.environ.update(loopback(os.environ))
        import rclpy
        from std_msgs.msg import String
        rclpy.init()
        node, heard = rclpy.create_node('node_' + sys.argv[1]), []
        node.create_subscription(String, 'from_' + sys.argv[2], heard.append, 10)
        publisher, deadline = node.create_publisher(String, 'from_' + sys.argv[1], 10), time.monotonic() + 20.0
        said = 0
        while (not heard or said < 10) and time.monotonic() < deadline:
            publisher.publish(String(data=sys.argv[1]))
            said += bool(heard)
            rclpy.spin_once(node, timeout_sec=0.05)
        mine = [line.split()[-1] for line in open('/proc/self/maps') if '/dev/shm/fastrtps' in line]
        print(heard[0].data if heard else 'nothing', mine)
    """))
    environment = {name: value for name, value in with_sources(os.environ).items()
                   if name not in ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'FASTRTPS_DEFAULT_PROFILES_FILE')}
    environment |= {'ROS_DOMAIN_ID': str(free_domain()), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    processes = [subprocess.Popen([sys.executable, str(script), *names], env=environment, text=True,
                                  stdout=subprocess.PIPE) for names in (('a', 'b', 'loopback'), ('b', 'a', other))]
    first, second = (process.communicate(timeout=60)[0].strip() for process in processes)
    assert first == 'b []'
    assert second == 'a []' if other == 'loopback' else second.startswith('a [') and second != 'a []'


@pytest.mark.parametrize(('given', 'ours'), [
    ({}, True), ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, True),
    ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, False), ({'FASTRTPS_DEFAULT_PROFILES_FILE': 'mine.xml'}, False)])
def test_what_the_user_decided_of_transports_stands(given, ours):
    found = loopback(given)
    assert found == {} if not ours else Path(found['FASTRTPS_DEFAULT_PROFILES_FILE']).is_file()
