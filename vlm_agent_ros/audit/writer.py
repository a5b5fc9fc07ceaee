"""Writes an audit log in a thread of its own: whoever has a message to log never waits for the disk."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .entry_queue import Entry, EntryQueue
from .log_file import LogFile
from .log_folder import LogFolder
from .settings import Audit

QUEUE_BYTES = 64_000_000
_RETRY_S = 1.0
_CLOSE_S = 3.0  # a node that is told to end is not waited for much longer
_MB = 1_000_000


@dataclass(frozen=True)
class WriterState:
    """How the log is doing.

    Attributes:
        file: That is being written; empty while none can be.
        file_bytes: Its size.
        folder_bytes: Of all files.
        messages: Written since the start.
        dropped_images: Not logged because there was no room in the queue, images.
        dropped_messages: The same, others.
        queued: Waiting to be written.
        unsynced_s: How long it is since everything that had come was on the disk.
        disk_free_bytes: Left to any program on this disk.
        problem: Why nothing can be written, in one sentence; empty if it can.
    """

    file: str
    file_bytes: int
    folder_bytes: int
    messages: int
    dropped_images: int
    dropped_messages: int
    queued: int
    unsynced_s: float
    disk_free_bytes: int
    problem: str


class AuditWriter:
    """A log that grows in a folder, until ``close``.

    What cannot be written, because the disk is full or has gone, waits in the queue and is tried again; ``state``
    says so. Nothing here raises for reasons of the disk.

    Args:
        settings: Where, how much, how often.
        cell: Text of the cell file; stands in every file.
        queue_bytes: What may wait to be written.
    """

    def __init__(self, settings: Audit, cell: str = '', queue_bytes: int = QUEUE_BYTES) -> None:
        self._settings, self._cell = settings, cell
        self._queue = EntryQueue(queue_bytes)
        self._folder = LogFolder(Path(settings.folder).expanduser(), settings.disk_budget_mb)
        self._file: LogFile | None = None
        self._latched: dict[str, Entry] = {}
        self._unsynced: list[Entry] = []
        self._messages = self._folder_bytes = 0
        self._problem = ''
        self._synced = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='audit writer', daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Log a message; returns at once."""
        self._queue.put(entry)

    def state(self) -> WriterState:
        """How the log is doing; may be called from any thread."""
        file = self._file
        try:
            free = shutil.disk_usage(self._folder.path).free
        except OSError:  # there is no folder yet
            free = 0
        return WriterState(
            file.path.name if file else '', file.size if file else 0, self._folder_bytes, self._messages,
            self._queue.dropped_images, self._queue.dropped_others, len(self._queue),
            time.monotonic() - self._synced, free, self._problem)

    def close(self) -> None:
        """Write what waits, as far as that is possible soon, and end the file."""
        self._closing.set()
        self._thread.join(_CLOSE_S)

    # --- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            try:
                self._write_until_sync()
                if closing and not len(self._queue):
                    self._end_file()
                    break
            except Exception as error:  # whatever it is, the log goes on
                self._give_up(error)
                if closing:
                    break
                self._closing.wait(_RETRY_S)
        self._folder.close()

    def _write_until_sync(self) -> None:
        """Write what comes until it is time for a sync, and do that."""
        due = time.monotonic() + self._settings.fsync_s
        while time.monotonic() < due and not (self._closing.is_set() and not len(self._queue)):
            entry = self._queue.take(min(due - time.monotonic(), 0.1))
            if entry is not None:
                self._write(_prepared(entry))
        self._file_for(0).sync()
        self._note_synced()
        self._problem = ''
        self._folder_bytes = self._folder.keep_budget()

    def _write(self, entry: Entry) -> None:
        try:
            file = self._file_for(entry.size)
        finally:
            self._unsynced.append(entry)  # also where there is no file that takes it
        try:
            file.write(entry)
        except OSError:
            raise
        except Exception:  # of a type that nobody knows: it would come back again and again
            self._unsynced.pop()
            self._queue.dropped_others += 1
            return
        if entry.latch:
            self._latched[entry.latch] = entry

    def _file_for(self, size: int) -> LogFile:
        """The file that takes the next ``size`` bytes."""
        file, limits = self._file, self._settings
        if file is not None and file.messages and (
                file.size + size > limits.max_file_mb * _MB
                or time.monotonic() - file.opened > 60.0 * limits.max_file_minutes):
            self._end_file()
        if self._file is None:
            self._file = LogFile(self._folder.new_path(), self._cell)
            now_ns = time.time_ns()
            for entry in self._latched.values():
                self._file.write(entry.again(now_ns))
        return self._file

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._note_synced()

    def _note_synced(self) -> None:
        self._messages += len(self._unsynced)
        self._unsynced.clear()
        self._synced = time.monotonic()

    def _give_up(self, error: Exception) -> None:
        """Leave the file whole up to its last sync, and what came since for the next one."""
        why = error.strerror if isinstance(error, OSError) else f'{type(error).__name__}: {error}'
        self._problem = f'{self._folder.path} cannot be written ({why}): free space, or correct audit.folder'
        if self._file is not None:
            self._file.abandon()
            self._file = None
        self._queue.put_back(self._unsynced)
        self._unsynced.clear()


def _prepared(entry: Entry) -> Entry:
    """What is written of an entry: where that cannot be made of it, itself."""
    try:
        return entry.prepared()
    except Exception:  # a message may hold anything
        return entry
