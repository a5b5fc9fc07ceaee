"""Reads audit logs: messages in order, and decisions with everything that belongs to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from mcap.records import Channel
from mcap_ros2.decoder import DecoderFactory

from .. import topic_names
from ..errors import UserError
from .join import join
from .mcap_file import read_messages
from .types import Correction, Logged, LoggedDecision

__all__ = ['NAME_KEY', 'AuditLog', 'Correction', 'Logged', 'LoggedDecision']

NAME_KEY = 'interface'
"""Key of a channel's metadata: the topic's name in the cell's interface."""


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

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Logged]:
        """Messages in the order of reception.

        Args:
            topics: Names of the interface (``topic_names.py``) or resolved ones; None for all.

        Raises:
            UserError: A file cannot be read.
        """
        for file in self.files:
            decoders = DecoderFactory()
            for schema, channel, record in read_messages(file):
                name = _interface_name(channel)
                if topics is None or name in topics or channel.topic in topics:
                    decode = decoders.decoder_for(channel.message_encoding, schema)
                    if decode is not None:
                        yield Logged(channel.topic, record.log_time, decode(record.data), record.publish_time, name)

    def decisions(self) -> Iterator[LoggedDecision]:
        """Every decision in order, joined by the stamp of its image.

        Raises:
            UserError: A file cannot be read.
        """
        return join(self.messages)


def _interface_name(channel: Channel) -> str:
    """As the audit node noted it; of a bag that something else recorded, by the end of the topic's name."""
    known = (name for name in topic_names.ALL if f'/{channel.topic}'.endswith('/' + name.lstrip('~/')))
    return channel.metadata.get(NAME_KEY) or next(known, channel.topic)
