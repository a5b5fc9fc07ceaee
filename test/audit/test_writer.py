"""The log is whole up to a moment ago, stays within its budget, and outlives full disks and kills."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from test.audit.bench import image_entry, text_entry, until
from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.audit.log_file import LogFile

ROOT = Path(__file__).resolve().parents[2]
NOISE = np.random.default_rng(0)


def noisy_image(i):
    """24 kB that cannot be compressed."""
    return image_entry(NOISE.integers(0, 256, (90, 90, 3), dtype=np.uint8), 10**9 + i)


def texts(folder):
    return [m.message.data for m in AuditLog(folder).messages(['task'])]


def test_what_was_put_is_on_the_disk_a_moment_later_without_closing(writer, tmp_path):
    started = writer()
    started.put(text_entry('first'))
    until(lambda: started.state().messages == 1)
    assert texts(tmp_path / 'log') == ['first']
    assert started.state().unsynced_s < 5.0
    assert AuditLog(tmp_path / 'log').files[0].name == started.state().file


def test_files_change_at_their_size_and_the_oldest_go_but_not_what_is_not_ours(writer, tmp_path):
    folder = tmp_path / 'log'
    folder.mkdir()
    (folder / 'notes.mcap').write_text('mine')
    started = writer(max_file_mb=0.2, disk_budget_mb=0.5)
    started.put(text_entry('the task', latch='task'))
    for i in range(60):
        started.put(noisy_image(i))
        if i % 10 == 9:
            until(lambda i=i: started.state().messages == i + 2)
    started.close()
    (folder / 'notes.mcap').unlink()
    files = AuditLog(folder).files
    sizes = [file.stat().st_size for file in files]
    assert all(size <= 200_000 for size in sizes)
    assert sum(sizes) <= 500_000
    assert len(files) >= 2
    assert files[0].name > 'audit_000004'  # the first ones were deleted
    newest = [m.stamp_ns - 10**9 for m in AuditLog(folder).messages(['camera/image_raw/compressed'])]
    assert newest == list(range(newest[0], 60))
    # Each file stands alone: the latched task is at the beginning of all of them.
    assert all(texts(file) == ['the task'] for file in files)
    assert started.state().dropped_images == 0


def test_files_change_with_time(writer, tmp_path):
    started = writer(max_file_minutes=0.01)
    for i in range(3):
        started.put(text_entry(str(i)))
        time.sleep(0.7)
    started.close()
    assert len(AuditLog(tmp_path / 'log').files) >= 2
    assert texts(tmp_path / 'log') == ['0', '1', '2']


def test_a_full_disk_is_told_and_survived_and_what_came_meanwhile_is_written_later(writer, tmp_path):
    """RLIMIT_FSIZE fails a write halfway, as a full disk does."""
    started = writer()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    started.put(text_entry('before'))
    until(lambda: started.state().messages == 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
        for i in range(4):
            started.put(noisy_image(i))
        started.put(text_entry('meanwhile'))
        problem = until(lambda: started.state().problem)
        assert str(tmp_path / 'log') in problem
        assert 'free space' in problem
        time.sleep(1.5)  # tries again, in vain
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    until(lambda: started.state().messages == 6 and not started.state().problem)
    started.close()
    assert texts(tmp_path / 'log') == ['before', 'meanwhile']
    images = list(AuditLog(tmp_path / 'log').messages(['camera/image_raw/compressed']))
    assert [m.stamp_ns - 10**9 for m in images] == [0, 1, 2, 3]
    assert all(file.stat().st_size for file in AuditLog(tmp_path / 'log').files)


def test_a_slow_disk_costs_images_and_nothing_else(writer, tmp_path):
    started = writer(queue_bytes=200_000)
    until(lambda: started.state().file)


    def slowly(entry):
        time.sleep(0.02)
        return dataclasses.replace(entry, prepare=None)

    for i in range(100):
        started.put(dataclasses.replace(noisy_image(i), prepare=slowly))
        started.put(text_entry(str(i)))
    started.close()
    state = started.state()
    assert state.dropped_images > 0
    assert state.dropped_messages == 0
    assert texts(tmp_path / 'log') == [str(i) for i in range(100)]
    assert state.messages + state.dropped_images == 200


def test_two_writers_of_one_folder_are_one_too_many(writer, tmp_path):
    first = writer()
    until(lambda: first.state().file)
    second = writer()
    assert 'another audit node' in until(lambda: second.state().problem)
    first.close()
    until(lambda: second.state().file and not second.state().problem)  # takes over when it may
    assert len(AuditLog(tmp_path / 'log').files) == 2


def test_a_folder_that_was_deleted_is_made_again(writer, tmp_path):
    started = writer()
    until(lambda: started.state().file)
    for file in (tmp_path / 'log').iterdir():
        file.unlink()
    (tmp_path / 'log').rmdir()
    until(lambda: (tmp_path / 'log').is_dir() and started.state().file)
    started.put(text_entry('after'))
    started.close()
    assert texts(tmp_path / 'log') == ['after']


def test_a_killed_writer_leaves_all_but_the_last_moment(tmp_path):
    code = ('import sys, time\nfrom test.audit.bench import text_entry\n'
            'from vlm_agent_ros.audit.settings import Audit\n'
            'from vlm_agent_ros.audit.writer import AuditWriter\n'
            'writer = AuditWriter(Audit(folder=sys.argv[1], fsync_s=0.1))\n'
            'while True:\n    writer.put(text_entry("x")); time.sleep(0.01)\n')
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for _ in range(2):
        process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], env=environment, cwd=ROOT)
        count = len(list(tmp_path.glob('*.mcap')))
        until(lambda count=count: len(list(tmp_path.glob('*.mcap'))) > count, 60.0)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        killed_ns = time.time_ns()
        process.wait()
        times = [m.time_ns for m in AuditLog(tmp_path).messages()]
        assert killed_ns - max(times) < 1_000_000_000
    assert len(AuditLog(tmp_path).files) == 2  # the torn one stays as it is


def test_no_message_ends_the_log(writer, tmp_path, monkeypatch):
    def fails(entry):
        raise ValueError('no picture')
    started = writer()
    started.put(dataclasses.replace(text_entry('before time'), stamp_ns=-10**9, time_ns=-1))
    started.put(dataclasses.replace(text_entry('no picture'), prepare=fails))
    until(lambda: started.state().messages == 2)
    write = LogFile.write

    def refuses(file, entry):
        if b'poison' in entry.data:
            raise KeyError('poison')
        write(file, entry)
    monkeypatch.setattr(LogFile, 'write', refuses)
    for text in ('one', 'poison', 'two'):
        started.put(text_entry(text))
    until(lambda: started.state().messages == 4)
    assert texts(tmp_path / 'log') == ['before time', 'no picture', 'one', 'two']
    assert not started.state().problem and len(AuditLog(tmp_path / 'log').files) == 1
    assert started.state().dropped_messages == 1
