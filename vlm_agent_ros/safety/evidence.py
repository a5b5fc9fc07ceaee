"""What checkpoints have shown at a cell, kept in a file that survives restarts."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import bounded, parse
from ..durable import write_durably
from ..errors import UserError


@dataclass
class Evidence:
    """Of one checkpoint."""

    approved: int = bounded(0, low=0, help='approved episodes with success and no gate hit')
    alone: int = bounded(0, low=0, help='successful episodes in auto since its speed was the lowest')


@dataclass
class _Record:
    checkpoint: str = bounded('', help='digest of the checkpoint that decided last')
    checkpoints: dict[str, Evidence] = bounded({}, help='evidence by digest')
    cell: str = bounded('', help='digest of what the cell was when it was gathered')


class EvidenceFile:
    """Evidence by checkpoint digest.

    Args:
        path: JSON file, made with its folder when there is something to keep; None keeps everything in memory.
        cell: Digest of what the cell is. Evidence of another does not count, and is gone with the next that is kept.

    Attributes:
        lapsed: Why what was in the file does not count, in a sentence; empty where it does.
        failure: Why the file could not be written last time; empty where it could.

    Raises:
        UserError: The file cannot be read or is none of ours.
    """

    def __init__(self, path: Path | None = None, cell: str = '') -> None:
        self._path, self.failure, self.lapsed = path, '', ''
        self._record = _Record(cell=cell)
        if path is None or not path.exists():
            return
        try:
            self._record = parse(_Record, json.loads(path.read_text(encoding='utf-8')), str(path))
        except (OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read ({error}): delete it, and the evidence for auto starts anew') \
                from error
        if self._record.cell not in ('', cell):
            self.lapsed = 'what there was is of a cell file with another robot, workspace, camera, motion or safety'
            self._record.checkpoints = {}
        self._record.cell = cell

    @property
    def checkpoint(self) -> str:
        """Digest of the checkpoint that decided last; empty where none has."""
        return self._record.checkpoint

    @property
    def current(self) -> Evidence:
        """That of the checkpoint that decided last; to be changed in place, then saved."""
        return self._record.checkpoints.setdefault(self.checkpoint, Evidence())

    def select(self, checkpoint: str) -> None:
        """Another checkpoint decides from now on."""
        self._record.checkpoint = checkpoint
        self.save()

    def save(self, *, less: bool = False) -> None:
        """Write the file: half of one is never there.

        Args:
            less: Something was taken back. Where that cannot be written the whole file goes: after a restart nothing
                may count that does not any more.
        """
        if self._path is None:
            return
        try:
            write_durably(self._path, json.dumps(asdict(self._record), indent=1))
            self.failure = ''
        except OSError as error:  # a full disk is no reason to leave the robot without its gate
            self.failure = f'{self._path} cannot be written ({error.strerror}): free space or choose another ' \
                           'evidence_file'
            if less:
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)
