"""A log that misses more than its last second does not pass for one that survived a kill."""

from test.audit.bench import text_entry, write_log
from training.cell_check.log_check import check_log_after_kill

S = 10**9


def test_a_log_may_miss_the_last_second_and_no_more(tmp_path):
    write_log(tmp_path / 'audit_000001.mcap', [text_entry('x', i * S // 10) for i in range(1, 101)])
    write_log(tmp_path / 'audit_000002.mcap', [text_entry('after', 14 * S)])  # of the restarted writer
    assert check_log_after_kill(tmp_path, 10 * S + S // 2) is None
    assert 'misses the last 2.00 s' in check_log_after_kill(tmp_path, 12 * S)
    assert 'holds nothing from before' in check_log_after_kill(tmp_path, S // 20)
    assert 'does not exist' in check_log_after_kill(tmp_path / 'nowhere', S)


def test_a_torn_file_is_judged_by_what_is_whole_in_it(tmp_path):
    path = write_log(tmp_path / 'audit_000001.mcap', [text_entry('x', 10 * S)])
    path.write_bytes(path.read_bytes()[:300])
    assert 'holds nothing' in check_log_after_kill(tmp_path, 10 * S + 1)
