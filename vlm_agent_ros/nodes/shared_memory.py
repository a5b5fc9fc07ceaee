"""Removes what killed processes left of Fast DDS' shared memory transport.

A participant that ends normally removes its own files; one that is killed cannot, and the middleware reclaims them
only by chance. Discovery on LOCALHOST always uses that transport.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_FOLDER = Path('/dev/shm')
_MIN_AGE_S = 1.0  # a process that is starting creates a file a moment before it locks or maps it


def remove_stale_segments() -> list[str]:
    """Delete this user's Fast DDS files that belong to no living process.

    Returns:
        Names of the deleted files.
    """
    newest = time.time() - _MIN_AGE_S
    # Locks after what they lock, and a port's mutex after the port: each is judged by the one before.
    paths = [*_FOLDER.glob('fastrtps_*'), *_FOLDER.glob('sem.fastrtps_port*_mutex')]
    paths.sort(key=lambda path: (path.name.startswith('sem.'), path.name.endswith(('_el', '_sl'))))
    mapped = _mapped_files() if paths else set()
    removed = []
    for path in paths:
        try:
            status = path.stat()
            if status.st_uid == os.getuid() and status.st_mtime < newest and not _in_use(path, mapped):
                path.unlink()
                removed.append(path.name)
        except OSError:  # removed by its owner in the meantime
            continue
    return removed


def _in_use(path: Path, mapped: set[str]) -> bool:
    if path.name.startswith('sem.'):  # mapped only while it is used, but lives as long as the port
        return path.with_name(path.name.removeprefix('sem.').removesuffix('_mutex')).exists()
    base = path.with_name(path.name.removesuffix('_el').removesuffix('_sl'))
    locked = any(_is_locked(base.with_name(base.name + suffix)) for suffix in ('_el', '_sl'))
    # A port may be mapped without a lock; a segment is its owner's alone, whoever else still has it mapped.
    return locked or ('port' in base.name and str(base) in mapped)


def _mapped_files() -> set[str]:
    """Paths in shared memory that some process of this user has mapped."""
    mapped: set[str] = set()
    for maps in Path('/proc').glob('[0-9]*/maps'):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # ended in the meantime, or another user's
            continue
        mapped.update(line.split(maxsplit=5)[5] for line in lines if str(_FOLDER) in line)
    return mapped


def _is_locked(path: Path) -> bool:
    try:
        with path.open('rb') as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
