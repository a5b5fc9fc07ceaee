"""One MCAP file that is whole up to its last sync, however its writer ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from pathlib import Path

from mcap.well_known import MessageEncoding, Profile, SchemaEncoding
from mcap.writer import Writer

from .. import __version__
from .definitions import message_definition
from .entry_queue import Entry, Topic
from .log import CELL_KEY, NAME_KEY

_SUMMARY_BYTES = 512  # of the index at the end, for each chunk


class LogFile:
    """A new file that grows.

    Chunks are compressed with zstd; a sync ends the one that is being filled, because a reader needs it whole.

    Args:
        path: Must not exist.
        cell: Text of the cell file.

    Attributes:
        messages: Written so far.
        opened: ``time.monotonic`` of its beginning.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path, cell: str = '') -> None:
        self.path, self.messages, self.opened = path, 0, time.monotonic()
        self._stream = path.open('xb')
        self._writer = Writer(self._stream)
        self._schemas: dict[str, int] = {}
        self._channels: dict[Topic, int] = {}
        self._counts: Counter[int] = Counter()
        self._synced, self._synced_messages, self._pending, self._summary = 0, 0, 0, _SUMMARY_BYTES
        try:
            self._writer.start(Profile.ROS2, f'vlm_agent_ros {__version__}')
            self._writer.add_metadata(CELL_KEY, {CELL_KEY: cell})
            self.sync()
        except OSError:
            self.abandon()
            raise

    @property
    def size(self) -> int:
        """Bytes that it will have at most if it is closed now."""
        return self._synced + self._pending + self._summary

    def write(self, entry: Entry) -> None:
        """Append an entry.

        Raises:
            OSError: It cannot be written.
        """
        topic = entry.topic
        if topic not in self._channels:
            if topic.kind not in self._schemas:
                definition = message_definition(topic.kind).encode()
                self._schemas[topic.kind] = self._writer.register_schema(topic.kind, SchemaEncoding.ROS2, definition)
                self._summary += len(definition) + _SUMMARY_BYTES
            self._channels[topic] = self._writer.register_channel(
                topic.topic, MessageEncoding.CDR, self._schemas[topic.kind], {NAME_KEY: topic.name})
        self.messages += 1
        self._pending += entry.size
        # Times of a file are not negative; what a message says of itself stands in its data as it is.
        channel = self._channels[topic]
        self._counts[channel] += 1
        self._writer.add_message(channel, max(0, entry.time_ns), entry.data, max(0, entry.stamp_ns),
                                 self._counts[channel])

    def sync(self) -> None:
        """Have everything on the disk.

        Raises:
            OSError: It cannot be written.
        """
        self._writer.flush()
        os.fsync(self._stream.fileno())
        self._summary += _SUMMARY_BYTES if self._pending else 0
        self._synced, self._synced_messages, self._pending = self._stream.tell(), self.messages, 0

    def close(self) -> None:
        """Add the index that lets a reader begin anywhere.

        Raises:
            OSError: It cannot be written.
        """
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def abandon(self) -> None:
        """End it where it was last synced, after it could not be written to; without a message it goes."""
        with contextlib.suppress(OSError):  # closing writes what is still buffered, in vain or not
            self._stream.close()
        with contextlib.suppress(OSError):
            if self._synced_messages:
                os.truncate(self.path, self._synced)
            else:
                self.path.unlink()
