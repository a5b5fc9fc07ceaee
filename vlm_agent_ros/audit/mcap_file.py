"""The messages of one MCAP file, also of one whose writer was killed: up to the last record that is whole."""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Header, Message, Metadata, Schema, Statistics
from mcap.stream_reader import breakup_chunk
from mcap.writer import MCAP0_MAGIC

from ..errors import UserError

_LOG = logging.getLogger(__name__)
_HEAD = struct.Struct('<BQ')
_CHUNK_SPAN = struct.Struct('<QQ')  # times of its first and its last message, with which it begins
_MESSAGE_TIME = struct.Struct('<6xQ')  # behind channel and sequence number
_DAMAGED = (McapError, ValueError, struct.error, RuntimeError, zstandard.ZstdError)
"""What the MCAP library and its decompressors raise at bytes that are not what they should be."""


def read_messages(path: Path) -> Iterator[tuple[Schema, Channel, Message]]:
    """Messages in the order in which they were written.

    A file that was cut anywhere gives what its whole chunks hold; a chunk whose checksum does not fit is left out. A
    warning in the log of Python tells that, and what is missing by the file's own count.

    Raises:
        UserError: It cannot be read, or is no MCAP file.
    """
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    for record in _records(path):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        else:
            channel = channels.get(record.channel_id)
            if channel is not None and channel.schema_id in schemas:  # else they were in a chunk that is damaged
                yield schemas[channel.schema_id], channel, record


def time_span(path: Path) -> tuple[int, int] | None:
    """Times (ns) of the earliest and the latest message, as the heads of the chunks say; None where there is none.

    Raises:
        UserError: It cannot be read, or is no MCAP file.
    """
    spans = []
    for opcode, head in _whole_records(path, at_most=_CHUNK_SPAN.size):  # of a log that may be larger than memory
        if opcode == Opcode.CHUNK and len(head) == _CHUNK_SPAN.size:
            spans.append(_CHUNK_SPAN.unpack(head))
        elif opcode == Opcode.MESSAGE and len(head) >= _MESSAGE_TIME.size:
            spans.append(2 * _MESSAGE_TIME.unpack_from(head))
    filled = [span for span in spans if span[1]]  # a chunk may hold nothing but schemas
    return (min(first for first, _ in filled), max(last for _, last in filled)) if filled else None


def read_metadata(path: Path, name: str) -> dict[str, str]:
    """Key-values that the writer noted under a name; empty where it did not.

    Raises:
        UserError: It cannot be read, or is no MCAP file.
    """
    for opcode, content in _whole_records(path):
        if opcode == Opcode.METADATA:
            metadata = Metadata.read(ReadDataStream(BytesIO(content)))
            if metadata.name == name:
                return metadata.metadata
        elif opcode == Opcode.CHUNK:  # what belongs to the whole file comes before what it holds
            break
    return {}


def _records(path: Path) -> Iterator[Schema | Channel | Message]:
    count, opcode = _Count(), 0
    for opcode, content in _whole_records(path):
        count.chunks += opcode == Opcode.CHUNK
        reader = _READERS.get(opcode)
        if reader is None:
            continue
        try:
            records = reader(content)
        except _DAMAGED as error:
            _LOG.warning('%s: a part of %d bytes is damaged and left out (%s)', path, len(content), error)
            count.damaged = True
            continue
        for record in records:
            if not count.take(record):
                yield record
    cut = count.cut(_is_closed(path) and opcode != Opcode.FOOTER)
    if cut:
        _LOG.warning('%s was changed after it was written (%s): use another copy', path, cut)


class _Count:
    """What was read of a file, against what the file says of itself.

    Attributes:
        chunks: Damaged ones included.
        damaged: Something was left out, and told.
    """

    def __init__(self) -> None:
        self.chunks, self.damaged = 0, False
        self._messages = self._missing = 0
        self._told: Statistics | None = None
        self._numbered = False
        self._last: Counter[int] = Counter()

    def take(self, record: Any) -> bool:
        """Count a record; whether it is of no other use."""
        if isinstance(record, Header):
            # Others number as their publishers do, or not at all.
            self._numbered = record.library.startswith('vlm_agent_ros')
        elif isinstance(record, Statistics):
            self._told = record
        elif isinstance(record, Message):
            self._messages += 1
            if self._numbered and record.sequence:
                self._missing += max(0, record.sequence - self._last[record.channel_id] - 1)
                self._last[record.channel_id] = record.sequence
        return isinstance(record, (Header, Statistics))

    def cut(self, torn: bool) -> str:
        """What is missing, in a clause; empty where nothing shows.

        Args:
            torn: Its records do not lead to its end.
        """
        told = self._told
        if told is not None and (self.chunks != told.chunk_count
                                 or (self._messages != told.message_count and not self.damaged)):
            return (f'its summary tells of {told.message_count} messages in {told.chunk_count} chunks, but '
                    f'{self._messages} in {self.chunks} are there')
        if self._missing and not self.damaged:
            return f'{self._missing} messages are missing by their numbers'
        return 'what follows a cut cannot be read' if torn and not self.damaged else ''


def _is_closed(path: Path) -> bool:
    """Whether a file ends as one that its writer has closed."""
    with path.open('rb') as stream:
        return stream.seek(0, os.SEEK_END) > 2 * len(MCAP0_MAGIC) and \
            stream.seek(-len(MCAP0_MAGIC), os.SEEK_END) > 0 and stream.read() == MCAP0_MAGIC


def _whole_records(path: Path, at_most: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of every top-level record that lies wholly within the file, those of its summary included.

    Args:
        path: The file.
        at_most: So many bytes of each content are read, and the others passed over; None for all.
    """
    try:
        with path.open('rb') as stream:
            size = os.fstat(stream.fileno()).st_size
            magic = stream.read(len(MCAP0_MAGIC))
            if magic != MCAP0_MAGIC[:len(magic)]:
                raise UserError(f'{path} is no MCAP file: give an audit log, or the folder of one')
            while (record := _next(stream, size, at_most)) is not None:
                yield record
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): check the path and its permissions') from error


def _next(stream: IO[bytes], size: int, at_most: int | None) -> tuple[int, bytes] | None:
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    opcode, length = _HEAD.unpack(head)
    # Opcode 0 does not exist: blocks that were allocated but not written before a power cut read as zeros.
    if opcode == 0 or stream.tell() + length > size:
        return None
    end = stream.tell() + length
    content = stream.read(length if at_most is None else min(length, at_most))
    stream.seek(end)
    return opcode, content


def _chunk(content: bytes) -> list[Any]:
    return breakup_chunk(Chunk.read(ReadDataStream(BytesIO(content))), validate_crc=True)


_READERS: dict[int, Callable[[bytes], list[Any]]] = {
    Opcode.HEADER: lambda content: [Header.read(ReadDataStream(BytesIO(content)))],
    Opcode.CHUNK: _chunk,
    Opcode.SCHEMA: lambda content: [Schema.read(ReadDataStream(BytesIO(content)))],
    Opcode.CHANNEL: lambda content: [Channel.read(ReadDataStream(BytesIO(content)))],
    Opcode.MESSAGE: lambda content: [Message.read(ReadDataStream(BytesIO(content)), len(content))],
    Opcode.STATISTICS: lambda content: [Statistics.read(ReadDataStream(BytesIO(content)))],
}
