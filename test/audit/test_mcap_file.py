"""A log whose writer was killed at any byte gives what was whole, and nothing else."""

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer
from mcap_ros2.decoder import DecoderFactory

from test.audit.bench import image_entry, text_entry
from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.audit.log_file import LogFile
from vlm_agent_ros.audit.mcap_file import _whole_records, read_messages
from vlm_agent_ros.errors import UserError


@pytest.fixture(scope='module')
def synced(tmp_path_factory):
    """A closed file of three chunks, and how many messages each of its sizes after a sync holds."""
    path = tmp_path_factory.mktemp('log') / 'audit.mcap'
    file, whole = LogFile(path, 'name: bench'), {}
    for chunk in range(3):
        for i in range(4):
            file.write(text_entry(f'task {chunk} {i}', time_ns=1 + 10 * chunk + i))
        file.write(image_entry(np.full((8, 8, 3), chunk, np.uint8), 1000 + chunk))
        file.sync()
        whole[path.stat().st_size] = 5 * (chunk + 1)
    file.close()
    return path.read_bytes(), whole


def messages_of(path):
    return [(channel.topic, record.log_time, record.data) for _, channel, record in read_messages(path)]


def test_every_cut_gives_exactly_the_chunks_before_it(synced, tmp_path):
    """Byte by byte through heads and ends of records, in strides through what is between."""
    data, whole = synced
    path = tmp_path / 'torn.mcap'
    path.write_bytes(data)
    everything = messages_of(path)
    assert len(everything) == 15
    edges = {0, 8, len(data)}
    position = 8
    for _, content in _whole_records(path):
        position += 9 + len(content)
        edges.add(position)
    cuts = {edge + i for edge in edges for i in range(-12, 13)} | set(range(0, len(data), 97))
    chunk_ends = sorted(cut for cut in edges if cut <= max(whole))
    for cut in sorted(cut for cut in cuts if 0 <= cut <= len(data)):
        path.write_bytes(data[:cut])
        found = messages_of(path)
        assert found == everything[:len(found)]
        # A chunk is whole a little before its sync ends, where its index follows.
        at_least = max((count for size, count in whole.items() if size <= cut), default=0)
        assert at_least <= len(found) <= at_least + 5
    assert len(chunk_ends) > 6


def test_blocks_that_a_power_cut_left_empty_end_the_log(synced, tmp_path):
    data, whole = synced
    path = tmp_path / 'torn.mcap'
    path.write_bytes(data[:max(whole)] + bytes(4096))
    assert len(messages_of(path)) == 15


def test_a_damaged_chunk_is_left_out_and_told_and_the_next_one_read(synced, tmp_path, caplog):
    data, whole = synced
    middle = (min(whole) + sorted(whole)[1]) // 2
    path = tmp_path / 'damaged.mcap'
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 0xff]) + data[middle + 1:])
    times = [time_ns for _, time_ns, _ in messages_of(path)]
    assert 'damaged.mcap: a part of' in caplog.text
    assert times[:5] == [1, 2, 3, 4, 1000]
    assert times[-1] == 1002
    assert len(times) == 10


@pytest.mark.parametrize('closed', [True, False])
def test_a_chunk_that_was_cut_out_is_told_by_the_summary_or_else_by_the_numbers(synced, tmp_path, caplog, closed):
    data, whole = synced
    first, second, third = sorted(whole)
    path = tmp_path / 'cut.mcap'
    path.write_bytes(data[:None if closed else third])
    assert len(messages_of(path)) == 15
    assert not caplog.text
    path.write_bytes(data[:first] + data[second:None if closed else third])
    assert len(messages_of(path)) == 10
    how = 'its summary tells of 15 messages in 3 chunks, but 10 in 2 are there' if closed else \
        '5 messages are missing by their numbers'
    assert f'cut.mcap was changed after it was written ({how})' in caplog.text


def test_a_cut_from_which_the_end_is_not_found_again_is_told(synced, tmp_path, caplog):
    data, whole = synced
    first, second, _ = sorted(whole)
    path = tmp_path / 'cut.mcap'
    path.write_bytes(data[:first - 5] + data[second + 3:])  # within an index, which has no checksum
    messages_of(path)
    assert 'what follows a cut cannot be read' in caplog.text


def test_numbers_that_another_recorder_took_over_from_its_publishers_say_nothing(tmp_path, caplog):
    path = tmp_path / 'bag.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start('ros2', 'another recorder')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channel = writer.register_channel('/task', 'cdr', schema)
        for number in (7, 9):
            writer.add_message(channel, number, b'', number, number)
        writer.finish()
    assert len(messages_of(path)) == 2
    assert not caplog.text


def test_what_is_no_log_is_refused_by_name(tmp_path):
    path = tmp_path / 'notes.mcap'
    path.write_text('hello, this is text')
    with pytest.raises(UserError, match=r'notes\.mcap is no MCAP file'):
        messages_of(path)
    with pytest.raises(UserError, match='nowhere does not exist'):
        AuditLog(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'holds no \*\.mcap'):
        AuditLog(tmp_path / 'empty')


def test_the_library_of_mcap_reads_a_closed_file_by_its_index(synced, tmp_path):
    path = tmp_path / 'closed.mcap'
    path.write_bytes(synced[0])
    with path.open('rb') as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_summary().statistics.message_count == 15
        read = [message.data for _, _, _, message in reader.iter_decoded_messages(topics=['/cell/task'])]
    assert read[:2] == ['task 0 0', 'task 0 1']
