"""The files of a log: their names, their order, and how many of them are kept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

_NAME = re.compile(r'^audit_(\d{6,})_\d{8}T\d{6}Z\.mcap$')
_MB = 1_000_000


class LogFolder:
    """A folder in which one writer adds files and deletes the oldest; anything else in it is left alone.

    Args:
        path: Made when it is first needed.
        budget_mb: Size of all files together, in MB.
    """

    def __init__(self, path: Path, budget_mb: float) -> None:
        self.path, self._budget = path, int(budget_mb * _MB)
        self._lock: int | None = None

    def new_path(self) -> Path:
        """Path of the next file; names sort in the order of writing, whatever becomes of the clock.

        Raises:
            OSError: The folder cannot be made, or another process writes to it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            lock = os.open(self.path / '.lock', os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it, however this process ends
            except BlockingIOError as error:
                os.close(lock)
                raise OSError(error.errno, 'another audit node writes to it: give each its own folder') from error
            self._lock = lock
        number = 1 + max(map(number_of, self.path.iterdir()), default=0)
        return self.path / f'audit_{number:06d}_{time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())}.mcap'

    def keep_budget(self) -> int:
        """Delete the oldest files that are too much, never the newest.

        Returns:
            Bytes of all files that are left; more than the budget if one cannot be deleted.

        Raises:
            OSError: The folder has gone.
        """
        files = sorted((path for path in self.path.iterdir() if _NAME.match(path.name)), key=number_of)
        sizes = {path: path.stat().st_size for path in files}
        total = sum(sizes.values())
        for path in files[:-1]:
            if total <= self._budget:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= sizes[path]
        return total

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def number_of(path: Path) -> int:
    """Number of a log's file, from 1 on without a gap; 0 for any other file."""
    match = _NAME.match(path.name)
    return int(match[1]) if match else 0
