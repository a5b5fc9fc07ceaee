"""A decision is found with all that belongs to it, in whatever order and however incomplete it was logged."""

import io
import json
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image as PillowImage

from test.audit.bench import (
    image_entry,
    status_entry,
    text_entry,
    thought_entries,
    trajectory_entry,
    write_log,
)
from vlm_agent_ros.audit import log
from vlm_agent_ros.audit.log import AuditLog, Correction
from vlm_agent_ros.audit.mcap_file import read_messages
from vlm_agent_ros.config import find_config, load_yaml
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.message_content import pixels
from vlm_agent_ros.topic_names import ARM_COMMAND, CORRECTION, OUTCOME, PROPOSAL

S = 10**9
TASK = 'pick <it>'


def image_of(i):
    return np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def verdict(image_stamp_ns, time_ns, word='forwarded', **values):
    return status_entry('gate_node: verdict', 'said', {'verdict': word, 'mode': 'auto', 'rule': '',
                                                       'image_stamp_ns': str(image_stamp_ns), **values}, time_ns)


def outcome(stamp_ns, time_ns, reward=0.25):
    values = {'reward': repr(reward), 'terminated': 'True', 'truncated': 'False', 'success': 'True', 'episode': '3',
              'turn': '1', 'seed': '9', 'kpi.success': '1.0'}
    return status_entry('world: outcome', 'success', values, time_ns, OUTCOME, stamp_ns)


def correction(image_stamp_ns, time_ns, action='pick 03 04'):
    said = {'image_stamp_ns': image_stamp_ns, 'action': action, 'thought': 'no', 'operator': 'ann'}
    return text_entry(json.dumps(said), time_ns, CORRECTION)


def one_decision(at_s, image=None):
    """A decision on an image exposed at ``at_s`` seconds, and everything that follows from it."""
    stamp = at_s * S
    return [image_entry(image_of(at_s) if image is None else image, stamp),
            *thought_entries(stamp, stamp + 1), trajectory_entry(PROPOSAL, stamp, stamp + 2),
            verdict(stamp, stamp + 3, command_stamp_ns=str(stamp + 4)),
            trajectory_entry(ARM_COMMAND, stamp + 4, stamp + 4), image_entry(image_of(99), stamp + S),
            outcome(stamp + S, stamp + S + 1), correction(stamp, stamp + S + 2)]


def decisions(path, entries):
    return list(AuditLog(write_log(path / 'a.mcap', entries)).decisions())


def test_a_decision_has_image_task_thought_verdict_command_correction_and_outcome(tmp_path):
    (found,) = decisions(tmp_path, [text_entry(TASK, 1), *one_decision(5)])
    assert np.array_equal(found.image, image_of(5))
    assert (found.task, found.state, found.thought, found.action) == (TASK, 'open', 'cube & pad', 'pick 01 02')
    assert json.loads(found.text)['action'] == 'pick 01 02'
    assert (found.logprob, found.value, found.temperature, found.seed, found.threads) == (-1.25, 0.5, 1.0,
                                                                                          (3 << 32) + 7, 2)
    assert (found.checkpoint, found.checkpoint_sha256, found.prompt_sha256) == ('tiny', 'e' * 64, 'f' * 64)
    assert (found.verdict, found.mode) == ('forwarded', 'auto')
    assert found.corrections == (Correction('pick 03 04', 'no', 'ann', False),)
    assert (found.outcome.reward, found.outcome.success, found.outcome.kpi) == (0.25, True, {'success': 1.0})
    assert found.proposal.positions.tolist() == [[0.5]]
    assert [command.joint_names for command in found.commands] == [('a',)]


@pytest.mark.parametrize('seed', range(5))
def test_the_order_of_arrival_does_not_matter(tmp_path, seed):
    entries = [text_entry(TASK, 1), *one_decision(5), *one_decision(8)]
    expected = decisions(tmp_path, entries)
    (tmp_path / 'a.mcap').unlink()
    shuffled = [entries[i] for i in np.random.default_rng(seed).permutation(len(entries))]
    found = decisions(tmp_path, shuffled)
    assert len(found) == 2
    for left, right in zip(expected, found):
        assert np.array_equal(left.image, right.image)
        assert (left.text, left.task, left.verdict, left.outcome, left.corrections, len(left.commands)) == \
            (right.text, right.task, right.verdict, right.outcome, right.corrections, len(right.commands))


def test_each_piece_may_be_missing(tmp_path):
    whole = [text_entry(TASK, 1), *one_decision(5)]
    told = [entry for entry in whole if b'agent_node: chain of thought' in entry.data]
    for i, left_out in enumerate(whole):
        if left_out is not told[0]:
            folder = tmp_path / str(i)
            folder.mkdir()
            (found,) = decisions(folder, [entry for entry in whole if entry is not left_out])
            assert (found.task, found.thought, found.action) == (TASK, 'cube & pad', 'pick 01 02')
            assert found.image.shape in ((6, 8, 3), (0, 0, 3))
    assert not decisions(tmp_path, [entry for entry in whole if entry is not told[0]])


def test_a_long_instruction_is_given_verbatim_although_operators_see_it_cut(tmp_path):
    task = 'put the red cube ' * 20 + '\nnow'
    entries = [text_entry('another', 1), text_entry(task, 2), image_entry(image_of(1), 5 * S),
               *thought_entries(5 * S, 5 * S + 1, task=task), text_entry('the next', 5 * S + 2)]
    assert decisions(tmp_path, entries)[0].task == task


def test_a_repeat_is_the_same_decision_and_serves_where_the_first_is_missing(tmp_path):
    image = image_entry(image_of(1), 5 * S)
    repeats = [thought_entries(5 * S, (6 + i) * S, age_s=1.0 + i)[1] for i in range(3)]
    assert len(decisions(tmp_path, [image, *thought_entries(5 * S, 5 * S), *repeats])) == 1
    (tmp_path / 'a.mcap').unlink()
    assert len(decisions(tmp_path, [image, *repeats])) == 1


def test_what_was_refused_moved_nothing_and_gets_no_outcome(tmp_path):
    refused = [image_entry(image_of(1), 5 * S), *thought_entries(5 * S, 5 * S + 1),
               trajectory_entry(PROPOSAL, 5 * S, 5 * S + 2), verdict(5 * S, 5 * S + 3, 'refused', rule='age')]
    first, second = decisions(tmp_path, [*refused, *one_decision(8)])
    assert (first.verdict, first.rule, first.outcome) == ('refused', 'age', None)
    assert second.outcome is not None


@pytest.mark.parametrize(('late_s', 'counts'), [(599, True), (601, False)])
def test_an_outcome_long_after_the_last_motion_is_of_something_else(tmp_path, late_s, counts):
    entries = [*one_decision(5)[:6], outcome((5 + late_s) * S, (5 + late_s) * S)]
    (found,) = decisions(tmp_path, entries)
    assert (found.verdict, found.outcome is not None) == ('forwarded', counts)


def test_the_cell_file_in_the_log_says_how_late_an_outcome_may_come(tmp_path):
    content = load_yaml(find_config('cells', 'panda_table'))
    content['autonomy'] = {**content['autonomy'], 'outcome_within_s': 10.0}
    entries = [*one_decision(5)[:6], outcome(20 * S, 20 * S)]
    (found,) = AuditLog(write_log(tmp_path / 'a.mcap', entries, yaml.safe_dump(content))).decisions()
    assert found.outcome is None


def test_the_same_text_given_again_is_another_instruction_and_its_copy_in_the_next_file_is_not(tmp_path):
    given = text_entry(TASK, 4 * S)
    write_log(tmp_path / 'audit_000001.mcap', [given, *one_decision(5)])
    write_log(tmp_path / 'audit_000002.mcap', [given.again(7 * S), *one_decision(8), text_entry(TASK, 10 * S),
                                               *one_decision(11)])
    found = list(AuditLog(tmp_path).decisions())
    assert [(d.task, d.task_stamp_ns) for d in found] == [(TASK, 4 * S), (TASK, 4 * S), (TASK, 10 * S)]


def test_an_outcome_on_an_instruction_that_moved_nothing_is_not_that_of_the_motion_before(tmp_path):
    entries = [text_entry(TASK, 4 * S), *one_decision(5)[:6], text_entry(TASK, 7 * S),
               image_entry(image_of(8), 8 * S), *thought_entries(8 * S, 8 * S + 1),
               verdict(8 * S, 8 * S + 3, 'refused', rule='workspace'), outcome(9 * S, 9 * S + 1)]
    assert [d.outcome for d in decisions(tmp_path, entries)] == [None, None]


def test_a_stop_during_the_motion_does_not_undo_that_it_was_forwarded(tmp_path):
    found = decisions(tmp_path, [*one_decision(5), verdict(5 * S, 5 * S + 5, 'stopped', rule='stop')])
    assert found[0].verdict == 'forwarded'


def test_simulated_time_may_begin_anew_within_a_log(tmp_path):
    """Another simulator, the same stamps: neither images nor outcomes are mixed up, nor are decisions lost."""
    again = [entry.again(entry.time_ns + 100 * S) for entry in one_decision(5, image_of(6))]
    late = image_entry(image_of(0), 60 * S)
    found = decisions(tmp_path, [*one_decision(5), late, *again])
    assert [np.array_equal(d.image, image_of(i)) for d, i in zip(found, (5, 6))] == [True, True]
    assert all(decision.outcome for decision in found)


def test_a_decision_may_reach_over_the_border_of_files(tmp_path):
    entries = [text_entry(TASK, 1), *one_decision(5)]
    for cut in range(1, len(entries)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        write_log(folder / 'audit_000001.mcap', entries[:cut])
        write_log(folder / 'audit_000002.mcap', entries[cut:])
        (found,) = AuditLog(folder).decisions()
        assert (found.image.shape, found.verdict, found.outcome.reward) == ((6, 8, 3), 'forwarded', 0.25)


def test_what_is_not_as_its_topic_promises_is_left_out(tmp_path):
    broken = [text_entry('no json', 7 * S, CORRECTION), text_entry('{"action": 1}', 7 * S, CORRECTION),
              text_entry('{"action": "done", "image_stamp_ns": Infinity}', 7 * S, CORRECTION),
              text_entry('[' * 100_000, 7 * S, CORRECTION), verdict(7 * S, 7 * S, command_stamp_ns='9' * 5000),
              status_entry('world: outcome', '', {'reward': 'much'}, 7 * S, OUTCOME),
              status_entry('gate_node: verdict', '', {'image_stamp_ns': 'now'}, 7 * S)]
    assert len(decisions(tmp_path, [*broken, *one_decision(5)])) == 1


def test_a_log_says_of_which_cell_it_is(tmp_path):
    text = find_config('cells', 'panda_table').read_text(encoding='utf-8')
    assert AuditLog(write_log(tmp_path / 'a.mcap', [], text)).cell().grid == 48
    with pytest.raises(UserError, match=r'b\.mcap does not say'):
        AuditLog(write_log(tmp_path / 'b.mcap', [])).cell()


def test_what_is_asked_of_a_time_reads_the_files_of_that_time(tmp_path, monkeypatch):
    for hour in range(4):
        write_log(tmp_path / f'audit_{hour:06d}.mcap', [
            text_entry(f'{hour} {minute}', (60 * hour + minute) * 60 * S + 1) for minute in range(60)])
    (tmp_path / 'audit_000009.mcap').write_bytes(b'')
    opened = AuditLog(tmp_path)
    assert opened.span_ns() == (1, (3 * 60 + 59) * 60 * S + 1)
    read = []
    monkeypatch.setattr(log, 'read_messages', lambda path: read.append(path.name) or read_messages(path))
    found = [m.message.data for m in opened.messages(None, (119 * 60 * S, 121 * 60 * S))]
    assert found == ['1 59', '2 0']
    assert read == ['audit_000001.mcap', 'audit_000002.mcap']
    read.clear()
    assert [m.message.data for m in opened.messages(None, (90 * 60 * S, 91 * 60 * S))] == ['1 30']
    assert read == ['audit_000001.mcap']
    assert len(list(opened.messages())) == 240


def test_what_was_logged_before_the_clock_was_set_back_is_found(tmp_path):
    write_log(tmp_path / 'audit_000001.mcap', [text_entry(f'a {minute}', minute * 60 * S) for minute in (600, 654)])
    write_log(tmp_path / 'audit_000002.mcap', [text_entry(f'b {minute}', minute * 60 * S) for minute in (570, 650)])
    opened = AuditLog(tmp_path)
    assert [m.message.data for m in opened.messages(None, (653 * 60 * S, 655 * 60 * S))] == ['a 654']
    assert opened.span_ns() == (570 * 60 * S, 654 * 60 * S)


def test_what_cannot_be_decoded_or_joined_is_left_out_and_told(tmp_path, caplog):
    latin = text_entry('x', 2 * S)
    entries = [replace(latin, data=latin.data.replace(b'x', b'\xe9')), *one_decision(5)]
    broken = status_entry('agent_node: chain of thought', '', {
        'image_stamp_ns': str(7 * S), 'text_sha256': 'x', 'cot_age_s': '0.0'}, 7 * S)
    odd = status_entry('gate_node: verdict', '', {'image_stamp_ns': str(8 * S), 'command_stamp_ns': 'abc'}, 8 * S)
    assert len(decisions(tmp_path, [*entries, broken, odd])) == 1
    assert 'a message of /cell/task is left out' in caplog.text and 'what was told of a decision' in caplog.text


def test_files_that_have_gone_between_others_are_told(tmp_path, caplog):
    names = [f'audit_{number:06d}_20310101T000000Z.mcap' for number in (3, 4, 7)]  # older ones were too much
    for name in names[:2]:
        write_log(tmp_path / name, one_decision(5))
    AuditLog(tmp_path)
    assert not caplog.text
    write_log(tmp_path / names[2], one_decision(8))
    AuditLog(tmp_path)
    assert f'2 files are missing between {names[1]} and {names[2]}' in caplog.text


def test_an_image_that_is_damaged_is_no_end_of_the_log(tmp_path):
    content = io.BytesIO()
    PillowImage.fromarray(image_of(5)).save(content, 'PNG')
    whole = content.getvalue()
    short = whole.replace(whole[33:41], b'\0\0\0\x0aIDAT')  # so that what follows is no part of a PNG
    header = b'IHDR' + 2 * (60_000).to_bytes(4, 'big') + whole[24:29]
    huge = whole[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + whole[33:]
    for damaged in (short, huge, b''):
        with pytest.raises(UserError, match='no readable JPEG or PNG'):
            pixels(SimpleNamespace(format='png', data=damaged), 'camera')
