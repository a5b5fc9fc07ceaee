"""What was received and is not written yet: bounded, never waited for; what does not fit is dropped, images first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_OVERHEAD = 300  # bytes that an entry costs besides its data


@dataclass(frozen=True)
class Topic:
    """Where an entry belongs.

    Attributes:
        topic: Resolved name.
        kind: Type, such as ``sensor_msgs/msg/JointState``.
        name: Its name in the cell's interface.
        bulky: The first to be dropped.
    """

    topic: str
    kind: str
    name: str
    bulky: bool = False


@dataclass(frozen=True)
class Entry:
    """A received message.

    Attributes:
        topic: Where it belongs.
        data: Serialized (CDR).
        time_ns: Time of reception, of the system's clock.
        stamp_ns: Its own stamp.
        latch: Not empty: the newest entry of this key stands at the beginning of every file.
        prepare: Makes of it the entry that is written; called by the writer, because it takes time.
    """

    topic: Topic
    data: bytes
    time_ns: int
    stamp_ns: int
    latch: str = ''
    prepare: Callable[[Entry], Entry] | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        return len(self.data) + _OVERHEAD

    def prepared(self) -> Entry:
        """The entry that is written."""
        return self if self.prepare is None else self.prepare(self)

    def again(self, time_ns: int) -> Entry:
        """The same entry, as if received at another time."""
        return replace(self, time_ns=time_ns)


class EntryQueue:
    """Entries in the order of reception, but images after all others; ``put`` never waits for room.

    Compressing images may take longer than they take to come. Then they come late to the disk, or not at all, and
    everything else is there in time.

    Args:
        limit: Bytes that may wait.

    Attributes:
        dropped_images: Bulky entries that did not fit.
        dropped_others: Others that did not.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._images: deque[Entry] = deque()
        self._others: deque[Entry] = deque()
        self._filled = threading.Condition()
        self.dropped_images = self.dropped_others = 0

    def __len__(self) -> int:
        return len(self._images) + len(self._others)

    def put(self, entry: Entry) -> None:
        """Add an entry; the oldest image, else the oldest entry, makes room for it."""
        with self._filled:
            self._place(entry).append(entry)
            self._size += entry.size
            self._make_room()
            self._filled.notify()

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Take back what could not be written, in order: it is the oldest."""
        with self._filled:
            for entry in reversed(entries):
                self._place(entry).appendleft(entry)
                self._size += entry.size
            self._make_room()

    def take(self, timeout_s: float) -> Entry | None:
        """The next entry to be written, or None if none has come in time."""
        with self._filled:
            if not self._filled.wait_for(self.__len__, max(0.0, timeout_s)):
                return None
            entry = (self._others or self._images).popleft()
            self._size -= entry.size
            return entry

    def _place(self, entry: Entry) -> deque[Entry]:
        return self._images if entry.topic.bulky else self._others

    def _make_room(self) -> None:
        while self._size > self._limit:
            self._size -= (self._images or self._others)[0].size
            if self._images:
                self._images.popleft()
                self.dropped_images += 1
            else:
                self._others.popleft()
                self.dropped_others += 1
