"""The messages of one MCAP file, also of one whose writer was killed: up to the last record that is whole."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Metadata, Schema
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

    A file that was cut anywhere gives what its whole chunks hold; a chunk whose checksum does not fit is left out, with
    a warning in the log of Python.

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
    for opcode, content in _whole_records(path):
        reader = _READERS.get(opcode)
        if reader is None:
            continue
        try:
            records = reader(content)
        except _DAMAGED as error:
            _LOG.warning('%s: a part of %d bytes is damaged and left out (%s)', path, len(content), error)
            continue
        yield from records


def _whole_records(path: Path, at_most: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of every top-level record that lies wholly within the file, before its summary.

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
    if opcode in (0, Opcode.DATA_END) or stream.tell() + length > size:
        return None
    end = stream.tell() + length
    content = stream.read(length if at_most is None else min(length, at_most))
    stream.seek(end)
    return opcode, content


def _chunk(content: bytes) -> list[Any]:
    return breakup_chunk(Chunk.read(ReadDataStream(BytesIO(content))), validate_crc=True)


_READERS: dict[int, Callable[[bytes], list[Any]]] = {
    Opcode.CHUNK: _chunk,
    Opcode.SCHEMA: lambda content: [Schema.read(ReadDataStream(BytesIO(content)))],
    Opcode.CHANNEL: lambda content: [Channel.read(ReadDataStream(BytesIO(content)))],
    Opcode.MESSAGE: lambda content: [Message.read(ReadDataStream(BytesIO(content)), len(content))],
}
