"""Threads of PyTorch that wait shall not hold cores that others want; what a user has set comes first."""

import os
import subprocess
import sys

import pytest

OWN = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')


@pytest.mark.parametrize(('given', 'count'), [
    ({}, '10000'), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'active'}, 'None'),
], ids=['default', 'own count', 'own policy'])
def test_the_package_sets_how_long_waiting_threads_spin_unless_the_user_has(given, count):
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    said = subprocess.run([sys.executable, '-c', 'import os, vlm_agent_ros; print(os.environ.get("GOMP_SPINCOUNT"))'],
                          env={**environment, **given}, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == count
