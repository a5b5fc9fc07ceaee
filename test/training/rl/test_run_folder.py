"""The files of a run: which checkpoints stay, what a full disk leaves, and signals while something is written."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from training.metrics import MetricsLog, PeakMemory, write_atomically
from training.rl.run_folder import RunFolder, claimed, new_run_path, steps_in
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.interrupt import deferred_signals


def write(path: Path) -> None:
    path.mkdir()


def test_the_newest_and_the_best_checkpoints_stay(tmp_path):
    folder = RunFolder(tmp_path / 'run')
    for update in range(1, 7):
        folder.save(update, write, best=update == 2)
        folder.prune(2)
    kept = sorted(path.name for path in folder.checkpoints.iterdir() if not path.is_symlink())
    assert kept == ['step_000002', 'step_000005', 'step_000006']
    assert (folder.checkpoints / 'latest').resolve().name == 'step_000006'
    assert (folder.checkpoints / 'best').resolve().name == 'step_000002'


def test_a_run_that_goes_on_from_an_earlier_update_forgets_the_later_ones(tmp_path):
    folder = RunFolder(tmp_path)
    for update in (1, 2, 3):
        folder.save(update, write, best=True)
    (folder.checkpoints / '.step_000004.tmp').mkdir()
    (tmp_path / '.metrics.jsonl.17.tmp').touch()
    folder.go_back_to(2, best=1)
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == ['best', 'latest', 'step_000001', 'step_000002']
    assert [(folder.checkpoints / link).resolve().name[-1] for link in ('latest', 'best')] == ['2', '1']
    assert list(tmp_path.iterdir()) == [folder.checkpoints]
    folder.go_back_to(1, best=0)
    assert not (folder.checkpoints / 'best').is_symlink()


def test_a_name_that_is_taken_is_refused(tmp_path):
    (tmp_path / 'mine').mkdir()
    assert new_run_path(str(tmp_path), 'mine') == tmp_path / 'mine'
    (tmp_path / 'mine' / 'metrics.jsonl').touch()
    with pytest.raises(UserError, match='--resume'):
        new_run_path(str(tmp_path), 'mine')
    (tmp_path / 'other' / 'checkpoints' / 'step_000005').mkdir(parents=True)
    with pytest.raises(UserError, match='--resume'):
        new_run_path(str(tmp_path), 'other')


def test_a_run_that_another_process_is_at_is_left_alone(tmp_path):
    with claimed(tmp_path / 'run'):
        with pytest.raises(UserError, match='another process is at the run'), claimed(tmp_path / 'run'):
            pass
        (tmp_path / 'run' / 'metrics.jsonl').touch()
    with claimed(tmp_path / 'run'), claimed(tmp_path / 'nothing'):
        pass
    assert [path.name for path in tmp_path.rglob('*')] == ['run', 'metrics.jsonl']


def test_a_copy_of_a_checkpoint_is_none(tmp_path):
    for name in ('step_000002', 'step_000001', 'step_000002_copy', 'step_x'):
        (tmp_path / name).mkdir()
    assert [path.name for path in steps_in(tmp_path)] == ['step_000001', 'step_000002']


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file'):
        RunFolder(tmp_path / 'file' / 'run')


@pytest.fixture()
def interruptible():
    # A shell starts background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_until_a_checkpoint_is_written(interruptible):
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        done.append('written')
    assert done == ['written']
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / 'summary.json'
    write_atomically(path, 'old')

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match=r'summary\.json cannot be written \(No space left on device\)'):
        write_atomically(path, 'new')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def rows(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_resumed_run_continues_its_metrics_where_the_checkpoint_was_made(tmp_path):
    log = MetricsLog(tmp_path)
    for update in (1, 2, 3):
        log.write({'update': update, 'decisions_total': 10 * update, 'success': 0.5})
    log.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"update": 4, "dec')  # killed while it wrote
    resumed = MetricsLog(tmp_path, keep_updates=2)
    resumed.write({'update': 3, 'decisions_total': 31, 'success': 0.6})
    resumed.close()
    assert [row['decisions_total'] for row in rows(tmp_path)] == [10, 20, 31] == [
        row['decisions_total'] for row in resumed.rows]
    assert list(tmp_path.glob('events.out.tfevents.*'))


def test_a_small_figure_is_not_rounded_away(tmp_path):
    log = MetricsLog(tmp_path)
    log.write({'update': 1, 'decisions_total': 1, 'learning_rate': 1.25e-7, 'success': 1 / 3})
    log.close()
    assert (rows(tmp_path)[0]['learning_rate'], rows(tmp_path)[0]['success']) == (1.25e-7, 0.3333333)


def test_memory_is_that_of_the_process_tree():
    memory = PeakMemory()
    memory.sample()
    assert 10.0 < memory.mib < 100_000.0
