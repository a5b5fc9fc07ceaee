"""Whose checkpoints a cell trusts: the section ``trust`` of the cell file, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..bundle import SIGNATURE, Bundle
from ..config import bounded
from ..errors import UserError
from .keys import fingerprint, load_public_key, read_signature

_REMEDY = 'release it with `vlm-agent export --key`, with a key whose public half the cell file names'


@dataclass(frozen=True)
class Trust:
    """Whose checkpoints may decide. A cell with a robot in it names a key; a simulated one need not."""

    keys: tuple[str, ...] = bounded((), help='public keys, one of which must have signed a checkpoint: PEM files or '
                                    'folders of them, relative to the cell file; without any, unsigned ones decide too')


class TrustedKeys:
    """The public keys of a cell file.

    Args:
        trust: Its section ``trust``.
        cell_path: The cell file, to which the paths are relative.

    Attributes:
        required: Whether a checkpoint has to be signed.

    Raises:
        UserError: A key is missing or none.
    """

    def __init__(self, trust: Trust, cell_path: str) -> None:
        self._cell_path, self.required = cell_path, bool(trust.keys)
        self._keys: dict[str, Ed25519PublicKey] = {}
        for name in trust.keys:
            for file in self._files(name):
                key = load_public_key(file)
                self._keys[fingerprint(key)] = key

    def _files(self, name: str) -> list[Path]:
        place = Path(self._cell_path).parent / Path(name).expanduser()
        files = sorted(place.glob('*.pub.pem')) if place.is_dir() else [place]
        if not files or not files[0].exists():
            what = 'holds no *.pub.pem' if place.is_dir() else 'does not exist'
            raise UserError(f'{self._cell_path}: trust.keys names {place}, which {what}: make a pair with `vlm-agent '
                            'keygen` and put the public key there')
        return files

    def signer(self, bundle: Bundle) -> str | None:
        """Fingerprint of the trusted key that signed a bundle; None where the cell file names no keys.

        Raises:
            UserError: It is not signed, by none of the trusted keys, or the signature is of something else.
        """
        if not self.required:
            return None
        file = bundle.path / SIGNATURE
        if not file.is_file():
            raise UserError(f'{bundle.path} is not signed, but {self._cell_path} names trust.keys: {_REMEDY}')
        signature = read_signature(file)
        key = self._keys.get(signature.key)
        if key is None:
            raise UserError(f'{bundle.path} is signed with the key {signature.key[:16]}…, which is not among '
                            f'trust.keys of {self._cell_path}: {_REMEDY}')
        if not signature.is_of(bundle.manifest, key):
            raise UserError(f'{file} is not the signature of this manifest: use another copy of the bundle')
        return signature.key

    def refuse_unsigned(self, name: str) -> None:
        """Refuse what no signature can vouch for, such as a models file.

        Raises:
            UserError: The cell file names keys.
        """
        if self.required:
            raise UserError(f'{name} is no signed bundle, but {self._cell_path} names trust.keys: {_REMEDY}')
