"""Every task can be recorded, spoilt turns included."""

import re

from sim_worlds.tasks import TASKS
from training.cli import main


def test_every_task_is_recorded_with_its_mistakes(tmp_path, capsys):
    count = len(TASKS)
    assert main(['record', '--tasks', *TASKS, '--scenes', str(count), '--episodes', str(count), '--mistakes', '0.6',
                 '--workers', '1', '--out', str(tmp_path / 'demonstrations.npz')]) == 0
    decisions = int(re.findall(r'(\d+) decisions\n', capsys.readouterr().out)[-1])
    assert decisions > 2 * count and list(tmp_path.iterdir())
