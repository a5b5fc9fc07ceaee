"""Small files that are whole or not there, whatever ends the process or the power."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Write a file under a temporary name, then give it its own; its folder is made if it is missing.

    Raises:
        OSError: The disk is full or the place cannot be written to.
    """
    temporary = path.with_suffix('.tmp')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open('w', encoding='utf-8') as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the name is there after a loss of power, too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
