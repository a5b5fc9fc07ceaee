"""What a cell remembers of its checkpoints from one start to the next: the good one, and what was rolled back."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import bounded, parse
from ..durable import write_durably
from ..errors import UserError

_SHORT = 12  # characters of a digest by which people tell checkpoints apart


class RolledBack(UserError):
    """What was asked for has been rolled back before."""


@dataclass(frozen=True)
class Release:
    """A checkpoint as it was loaded.

    Attributes:
        model: What was asked for, as an absolute path where it is one.
        weights_sha256: Digest of its weights, by which state files from before ``policy_sha256`` know it.
        signed_by: Fingerprint of the trusted key that signed it; empty where the cell trusts anyone.
        policy_sha256: Digest of all that decides how it acts; empty in a state file from before it.
    """

    model: str = bounded(help='checkpoint, model directory or models file')
    weights_sha256: str = bounded(help='digest of the weights')
    signed_by: str = bounded('', help='fingerprint of the key that signed it')
    policy_sha256: str = bounded('', help='digest of all that decides how it acts')

    @property
    def digest(self) -> str:
        """Its identity."""
        return self.policy_sha256 or self.weights_sha256

    def is_known_as(self, digest: str) -> bool:
        """Whether a digest, perhaps one that an earlier version told, is this release's."""
        return digest in (self.digest, self.weights_sha256)


@dataclass(frozen=True)
class Condemned:
    """Why and when a checkpoint was rolled back."""

    model: str = bounded(help='as of a release')
    reason: str = bounded(help='what left the band')
    when: str = bounded(help='local time')

    def chance(self, digest: str) -> str:
        """What an operator names to give the checkpoint of a digest another chance.

        It tells this condemnation from the next one, so that a parameter which stays set gives no third chance.
        """
        return f'{digest[:_SHORT]}-{re.sub("[^0-9]", "", self.when)}'


@dataclass
class _Record:
    good: Release | None = bounded(None, help='the checkpoint to go back to')
    condemned: dict[str, Condemned] = bounded({}, help='what was rolled back, by digest')


class Ledger:
    """A JSON file that survives restarts.

    Args:
        path: Made with its folder when there is something to remember.

    Raises:
        UserError: The file cannot be read or is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = _Record()
        if not path.exists():
            return
        try:
            self._record = parse(_Record, json.loads(path.read_text(encoding='utf-8')), str(path))
        except (OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read ({error}): delete it, and with it what was rolled back') from error

    @property
    def good(self) -> Release | None:
        """The checkpoint to go back to."""
        return self._record.good

    def prove(self, release: Release) -> None:
        """A checkpoint has shown that it can be gone back to.

        Raises:
            UserError: The file cannot be written.
        """
        before = self._record.good
        if before != release:
            self._record.good = release
            try:
                self._save()
            except UserError:  # it is tried again
                self._record.good = before
                raise

    def condemn(self, release: Release, reason: str) -> None:
        """A checkpoint is not to decide here any more.

        Raises:
            UserError: The file cannot be written; it is remembered until the process ends all the same.
        """
        self._record.condemned[release.digest] = Condemned(release.model, reason, time.strftime('%F %T'))
        if self._record.good is not None and release.is_known_as(self._record.good.digest):
            self._record.good = None
        self._save()

    def refuse(self, release: Release, readmitted: str = '') -> None:
        """Refuse a checkpoint that was rolled back, unless the operator names it.

        Args:
            release: What shall decide.
            readmitted: ``Condemned.chance`` of a checkpoint that the operator lets try again.

        Raises:
            RolledBack: It was, and is not named.
        """
        for digest, condemned in self._record.condemned.items():
            if release.is_known_as(digest) and readmitted != (chance := condemned.chance(digest)):
                raise RolledBack(f'{release.model} was rolled back on {condemned.when} ({condemned.reason}): choose '
                                 f'another, or decide that it may try again by the parameter readmit:={chance}')

    def admit(self, release: Release, readmitted: str = '') -> None:
        """Let a checkpoint in that is loaded; one that the operator names is no longer rolled back.

        Args:
            release: What is about to decide.
            readmitted: As of ``refuse``.

        Raises:
            RolledBack: As of ``refuse``.
            UserError: The file cannot be written, and nothing has changed.
        """
        self.refuse(release, readmitted)
        before = self._record.condemned
        self._record.condemned = {digest: why for digest, why in before.items() if not release.is_known_as(digest)}
        if self._record.condemned != before:
            try:
                self._save()
            except UserError:
                self._record.condemned = before
                raise

    def _save(self) -> None:
        """Write the file: half of one is never there."""
        try:
            write_durably(self._path, json.dumps(asdict(self._record), indent=1))
        except OSError as error:
            raise UserError(f'{self._path} cannot be written ({error.strerror}): free space or set release_file') \
                from error
