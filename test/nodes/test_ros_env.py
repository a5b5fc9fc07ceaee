"""Start and end of a node process."""

import os
import subprocess
import sys

import pytest

pytest.importorskip('rclpy')

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
