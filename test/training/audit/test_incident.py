"""The page of an incident shows what happened around a time, in one file, and no text of a log can act in it."""

import re
from datetime import datetime, timezone

import numpy as np
import pytest

from test.audit.bench import image_entry, status_entry, text_entry, thought_entries, trajectory_entry, write_log
from training.audit.incident import time_of
from training.cli import main
from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.config import find_config
from vlm_agent_ros.cot import escape
from vlm_agent_ros.topic_names import ARM_COMMAND, CORRECTION, PROPOSAL

S = 10**9
START = 1_700_000_000 * S
EVIL = '<script>alert("x")</script> & <img src=http://evil/x.png>'


@pytest.fixture(scope='module')
def log(tmp_path_factory):
    stamp = START + 30 * S
    entries = [
        text_entry(EVIL, START), text_entry('long before', START + S), text_entry(EVIL, START + 20 * S),
        image_entry(np.full((12, 16, 3), 200, np.uint8), stamp, stamp),
        *thought_entries(stamp, stamp + S, task=EVIL, thought='see ' + EVIL.replace('"', '')),
        trajectory_entry(PROPOSAL, stamp, stamp + S),
        status_entry('gate_node: verdict', escape(EVIL), {'verdict': 'refused', 'rule': 'workspace', 'mode': 'auto',
                                                          'image_stamp_ns': str(stamp)}, stamp + S + 1),
        status_entry('gate_node: mode', 'approve: because', {'mode': 'approve', 'reason': 'because'}, stamp + 2 * S),
        trajectory_entry(ARM_COMMAND, stamp + 3 * S, stamp + 3 * S),
        text_entry(f'{{"image_stamp_ns": {stamp}, "action": "pick 09 09", "operator": "{"<b>ann</b>"}"}}',
                   stamp + 4 * S, CORRECTION),
        *thought_entries(START + 90 * S, START + 91 * S, thought='long after'), text_entry('end', START + 100 * S),
    ]
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    return write_log(tmp_path_factory.mktemp('log') / 'audit_000001.mcap', entries, text)


def incident(log, folder, *arguments):
    status = main(['incident', str(log), '--out', str(folder / 'page.html'), *arguments])
    return (folder / 'page.html').read_text(encoding='utf-8') if status == 0 else status


def test_the_page_shows_images_thoughts_verdicts_modes_commands_and_corrections(log, tmp_path):
    page = incident(log, tmp_path, '--at', '32', '--window', '5')
    for shown in ('data:image/png;base64,', 'pick 01 02', 'refused', 'workspace', 'approve: because', '/proposal',
                  '/joint_trajectory_controller/joint_trajectory', 'pick 09 09', '1 points in 1.00 s', 'see '):
        assert shown in page, shown
    assert 'long after' not in page
    assert 'long before' not in page


def test_nothing_in_a_log_can_act_in_the_page_and_the_page_asks_for_nothing(log, tmp_path):
    page = incident(log, tmp_path, '--at', '32', '--window', '60')
    assert '<script' not in page
    assert '<b>ann' not in page
    assert escape('<script>') in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert '&amp;lt;' not in page  # escaped once, not twice


def test_a_time_may_be_seconds_iso_or_nanoseconds(log):
    opened = AuditLog(log)
    moment = START + 32 * S
    iso = datetime.fromtimestamp(moment / S, timezone.utc).isoformat()
    assert time_of('32', opened) == time_of(str(moment), opened) == time_of(iso, opened) == moment
    assert time_of(iso.replace('+00:00', 'Z'), opened) == moment


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--at', '500'], 'outside the log'), (['--at', '-1'], 'outside the log'),
    (['--at', 'noon'], 'but must be seconds'), (['--at', 'nan'], 'but must be seconds'), (['--at', '5', '--window', '0'], '--window is 0'),
])
def test_a_time_that_is_not_in_the_log_is_one_sentence(log, tmp_path, capsys, arguments, told):
    assert incident(log, tmp_path, *arguments) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / 'page.html').exists()
