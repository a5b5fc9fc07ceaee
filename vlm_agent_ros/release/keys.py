"""Ed25519 keys and signatures (RFC 8032): who vouches for a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ..errors import UserError

_ALGORITHM = 'ed25519'


def make_keys(out: Path) -> tuple[Path, Path]:
    """Write a new pair: ``<out>.pem``, which only its owner may read, and ``<out>.pub.pem`` for the cells.

    Returns:
        The paths of the private and of the public key.

    Raises:
        UserError: The path does not end in a name, one of them exists already, or the folder cannot be written to.
    """
    if out.name in ('', '..'):
        raise UserError(f'{out} is no name for keys: give a folder and a name, such as {out / "line3"}')
    private, public = out.with_name(f'{out.name}.pem'), out.with_name(f'{out.name}.pub.pem')
    for path in (private, public):
        if path.exists():
            raise UserError(f'{path} exists: a key that is overwritten is lost, choose another name')
    key = Ed25519PrivateKey.generate()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _create(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _create(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except OSError as error:
        raise UserError(f'{out.parent} cannot be written to ({error.strerror}): choose another place') from error
    return private, public


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        UserError: It is missing, others than its owner may read it, or it is no private Ed25519 key.
    """
    remedy = 'give the .pem file of a pair that `vlm-agent keygen` made'
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
        if path.stat().st_mode & 0o077:
            raise UserError(f'{path} can be read by others, who could sign with it: chmod 600 {path}')
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): {remedy}') from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f'{path} holds no private key without a passphrase: {remedy}') from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f'{path} holds a private key of another kind than Ed25519: {remedy}')
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """A key that verifies.

    Raises:
        UserError: It is missing or no public Ed25519 key.
    """
    remedy = 'give the .pub.pem file of a pair that `vlm-agent keygen` made'
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): {remedy}') from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f'{path} holds no public key: {remedy}') from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f'{path} holds a public key of another kind than Ed25519: {remedy}')
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 (hex) of the raw key: its name in signatures and messages."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


@dataclass(frozen=True)
class Signature:
    """What ``sign`` wrote.

    Attributes:
        key: Fingerprint of the key that it claims to be of.
        raw: 64 bytes.
    """

    key: str
    raw: bytes

    def is_of(self, content: bytes, key: Ed25519PublicKey) -> bool:
        """Whether it was made for exactly this content with this key."""
        try:
            key.verify(self.raw, content)
        except InvalidSignature:
            return False
        return True


def sign(content: bytes, key: Ed25519PrivateKey) -> str:
    """A signature as JSON, with the name of the key."""
    return json.dumps({'algorithm': _ALGORITHM, 'key': fingerprint(key.public_key()),
                       'signature': key.sign(content).hex()}, indent=2) + '\n'


def read_signature(path: Path) -> Signature:
    """The signature in a file that ``sign`` gave the content of.

    Raises:
        UserError: It cannot be read or is no signature.
    """
    try:
        fields = json.loads(path.read_text(encoding='utf-8'))
        if fields['algorithm'] == _ALGORITHM:
            return Signature(str(fields['key']), bytes.fromhex(fields['signature']))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UserError(f'{path} is no {_ALGORITHM} signature: use another copy, or sign it with `vlm-agent export --key`')


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a file that did not exist and was never readable by more than ``mode`` says."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), 'wb') as file:
        file.write(content)
