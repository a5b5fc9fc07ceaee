"""Reads audit logs: messages in order, and decisions with everything that belongs to them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import yaml
from mcap.records import Channel
from mcap_ros2.decoder import DecoderFactory

from .. import topic_names
from ..autonomy import Autonomy
from ..cell import Cell
from ..config import parse
from ..errors import UserError
from .join import join
from .log_folder import number_of
from .mcap_file import read_messages, read_metadata, time_span
from .types import Correction, Logged, LoggedDecision

__all__ = ['CELL_KEY', 'NAME_KEY', 'AuditLog', 'Correction', 'Logged', 'LoggedDecision']

_LOG = logging.getLogger(__name__)
NAME_KEY = 'interface'
"""Key of a channel's metadata: the topic's name in the cell's interface."""
CELL_KEY = 'cell'
"""Name and key of a file's metadata: the text of the cell file."""


class AuditLog:
    """One file of a log, or the folder of all of them; a file that a killed writer left behind is as good as any.

    Args:
        path: ``*.mcap``, or a folder that holds some.

    Raises:
        UserError: There is no log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise UserError(f'{path} does not exist: give an audit log (*.mcap), or the folder of one')
        self.files = sorted(path.glob('*.mcap')) if path.is_dir() else [path]
        if not self.files:
            raise UserError(f'{path} holds no *.mcap file: give the folder of an audit log')
        numbered = [file for file in self.files if number_of(file)]
        for before, after in pairwise(sorted(numbered, key=number_of)):
            if (gone := number_of(after) - number_of(before) - 1) > 0:
                _LOG.warning('%s: %d files are missing between %s and %s', path, gone, before.name, after.name)

    def messages(self, topics: Collection[str] | None = None, span_ns: tuple[int, int] | None = None
                 ) -> Iterator[Logged]:
        """Messages in the order of reception, but images after what came while they waited to be compressed.

        Args:
            topics: Names of the interface (``topic_names.py``) or resolved ones; None for all.
            span_ns: Received from the first to the last of these times; None for all.

        Raises:
            UserError: A file cannot be read.
        """
        for file in self._files_of(span_ns):
            decoders = DecoderFactory()
            for schema, channel, record in read_messages(file):
                name = _interface_name(channel)
                wanted = topics is None or name in topics or channel.topic in topics
                if not wanted or (span_ns is not None and not span_ns[0] <= record.log_time <= span_ns[1]):
                    continue
                decode = decoders.decoder_for(channel.message_encoding, schema)
                if decode is None:
                    continue
                try:
                    message = decode(record.data)
                except Exception as error:  # the recorder keeps whatever bytes came
                    _LOG.warning('%s: a message of %s is left out (%s)', file, channel.topic, error)
                    continue
                yield Logged(channel.topic, record.log_time, message, record.publish_time, name)

    def cell(self) -> Cell:
        """The cell as it was when the last file was begun.

        Raises:
            UserError: A file cannot be read, or does not say.
        """
        file = self.files[-1]
        text = read_metadata(file, CELL_KEY).get(CELL_KEY, '')
        if not text:
            raise UserError(f'{file} does not say of which cell it is: give a log of audit_node')
        return parse(Cell, {**yaml.safe_load(text), 'path': str(file)}, f'the cell file in {file}')

    def decisions(self) -> Iterator[LoggedDecision]:
        """Every decision in order, joined by the stamp of its image.

        Raises:
            UserError: A file cannot be read.
        """
        try:
            autonomy = self.cell().autonomy
        except UserError:  # a bag that something else recorded
            autonomy = Autonomy()
        return join(self.messages, autonomy)

    def span_ns(self) -> tuple[int, int]:
        """Reception of the first and the last message.

        Raises:
            UserError: A file cannot be read, or there is no message.
        """
        filled = [span for span in self._spans.values() if span is not None]
        if not filled:
            raise UserError(f'{self.path} holds no message: give another log')
        return min(first for first, _ in filled), max(last for _, last in filled)

    @cached_property
    def _spans(self) -> dict[Path, tuple[int, int] | None]:
        return {file: time_span(file) for file in self.files}

    def _files_of(self, span_ns: tuple[int, int] | None) -> list[Path]:
        """The files that may hold messages of a span: a log may be much larger than what is asked of it."""
        if span_ns is None:
            return self.files
        return [file for file, span in self._spans.items()
                if span is not None and span[0] <= span_ns[1] and span_ns[0] <= span[1]]


def _interface_name(channel: Channel) -> str:
    """As the audit node noted it; of a bag that something else recorded, by the end of the topic's name."""
    known = (name for name in topic_names.ALL if f'/{channel.topic}'.endswith('/' + name.lstrip('~/')))
    return channel.metadata.get(NAME_KEY) or next(known, channel.topic)
