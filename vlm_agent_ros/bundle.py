"""Bundles: directories of named tensors and JSON documents that are whole and verified, or not there at all.

A bundle holds ``<name>.safetensors``, ``<name>.json`` and ``manifest.json`` with the SHA-256 of each of them, perhaps
``manifest.sig`` with a signature of the manifest, and nothing else. It is written under a temporary name, synced and
renamed, so that neither a crash nor a full disk leaves half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from .errors import UserError

if TYPE_CHECKING:  # the gate and the worlds read manifests, and PyTorch costs each of them seconds and 150 MB
    import torch

MANIFEST = 'manifest.json'
SIGNATURE = 'manifest.sig'
SCHEMA = 1
"""Version of the layout; a reader refuses others."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and verified.

    Attributes:
        path: Its directory.
        fields: What its writer put into the manifest.
        files: SHA-256 (hex) by file name.
        manifest: The verbatim manifest, which is what a signature vouches for.
    """

    path: Path
    fields: dict[str, Any]
    files: dict[str, str]
    manifest: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the manifest, and by the checksums in it of every file."""
        return hashlib.sha256(self.manifest).hexdigest()

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of ``<name>.safetensors``, on the CPU.

        Raises:
            UserError: The bundle has no such file, or it has changed since it was verified.
        """
        from safetensors.torch import load

        try:
            return load(self._content(f'{name}.safetensors'))  # not mapped into memory, where it could still change
        except (OSError, SafetensorError) as error:
            raise UserError(f'{self.path / name}.safetensors cannot be read ({error}): use another copy') from error

    def document(self, name: str) -> Any:
        """The content of ``<name>.json``.

        Raises:
            UserError: The bundle has no such file, or it has changed since it was verified.
        """
        try:
            return json.loads(self._content(f'{name}.json'))
        except (OSError, ValueError) as error:
            raise UserError(f'{self.path / name}.json cannot be read ({error}): use another copy') from error

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A folder with the files as they were verified, which nobody else can change, for a library that reads one.

        Raises:
            UserError: A file has changed since it was verified, or there is no room.
        """
        with private_copy(self.path, self.files) as folder:
            for name in self.files:
                self._check(name, sha256_of(folder / name))
            yield folder

    def _content(self, name: str) -> bytes:
        if name not in self.files:
            raise UserError(f'{self.path} holds no {name}: it was written for another purpose, choose another')
        content = (self.path / name).read_bytes()
        self._check(name, hashlib.sha256(content).hexdigest())
        return content

    def _check(self, name: str, digest: str) -> None:
        if digest != self.files[name]:
            raise UserError(f'{self.path / name} has changed since it was verified: leave the folder alone while it is '
                            'loaded, and try again')


def write_bundle(path: Path, kind: str, fields: Mapping[str, Any], *,
                 tensors: Mapping[str, Mapping[str, torch.Tensor]], documents: Mapping[str, Any],
                 fill: Callable[[Path], None] = lambda folder: None,
                 sign: Callable[[bytes], str] | None = None) -> None:
    """Write a bundle at once or not at all; an old one at ``path`` stays until the new one is complete.

    Args:
        path: The directory.
        kind: What it is, e.g. ``checkpoint``; its reader asks for the same.
        fields: JSON for the manifest.
        tensors: Named tensors by file name without suffix; of any device.
        documents: JSON by file name without suffix.
        fill: Writes further files into the folder that it is given.
        sign: Gives the content of ``manifest.sig`` for the bytes of the manifest.

    Raises:
        UserError: The disk is full or the place cannot be written to.
    """
    from safetensors.torch import save_file

    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        _recover(path)
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
        temporary.mkdir(parents=True)
        for name, values in tensors.items():
            save_file({key: value.detach().cpu().contiguous() for key, value in values.items()},
                      temporary / f'{name}.safetensors')
        for name, content in documents.items():
            (temporary / f'{name}.json').write_text(json.dumps(content) + '\n', encoding='utf-8')
        fill(temporary)
        files = {file.name: sha256_of(file) for file in sorted(temporary.iterdir())}
        manifest = _render({'schema': SCHEMA, 'kind': kind, **fields, 'files': files}).encode()
        (temporary / MANIFEST).write_bytes(manifest)
        if sign is not None:
            (temporary / SIGNATURE).write_text(sign(manifest), encoding='utf-8')
        for file in (*temporary.iterdir(), temporary):
            sync(file)
        _replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f'{path} cannot be written ({reason}): free space or choose another place') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_bundle(path: Path, kind: str) -> Bundle:
    """Read a bundle and verify every file of it.

    Raises:
        UserError: It is missing, of another kind or schema, a file is missing, corrupt or not the bundle's; the message
            names it.
    """
    folder = path if path.exists() else _backup(path)
    if not folder.is_dir():
        what = 'is no directory' if path.exists() else 'does not exist'
        raise UserError(f'{path} {what}: give the directory of a {kind}')
    content, manifest = _read_manifest(folder / MANIFEST, kind)
    files = content.pop('files')
    _check_names(folder, kind, files)
    for name, digest in files.items():
        if sha256_of(folder / name) != digest:
            raise UserError(f'{folder / name} is corrupt (its SHA-256 is not the one in {MANIFEST}): use another copy')
    fields = {key: value for key, value in content.items() if key not in ('schema', 'kind')}
    return Bundle(folder, fields, files, manifest)


def _check_names(folder: Path, kind: str, files: Mapping[str, str]) -> None:
    """Refuse a file that is missing, lies elsewhere, or that the manifest does not vouch for.

    A library that is given the directory would read a file in it by its name, whoever put it there.
    """
    for name in files:
        if name in ('', '.', '..', MANIFEST, SIGNATURE) or Path(name).name != name:
            raise UserError(f'{folder / MANIFEST} names the file {name!r}, which lies elsewhere: use another copy')
    entries = {entry.name: entry for entry in folder.iterdir()}
    for name, entry in sorted(entries.items()):
        if entry.is_symlink() or not entry.is_file():
            raise UserError(f'{entry} is no plain file, and nothing else belongs into a {kind}: use another copy')
        if name not in (*files, MANIFEST, SIGNATURE):
            raise UserError(f'{entry} is not in {MANIFEST}: move it out of the {kind}, or use another copy')
    for name in files:
        if name not in entries:
            raise UserError(f'{folder / name} is missing: the {kind} is incomplete, use another copy')


@contextmanager
def private_copy(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A copy of some files of a folder that only this user can change, while it is needed.

    Raises:
        UserError: A file has gone, or there is no room.
    """
    with tempfile.TemporaryDirectory(prefix='vlm_agent_ros_') as place:
        copy = Path(place) / folder.name
        try:
            copy.mkdir()
            for name in names:
                shutil.copyfile(folder / name, copy / name)
        except OSError as error:
            raise UserError(f'{folder} cannot be copied to {place}, to be loaded from there ({error.strerror}): free '
                            'space, or set TMPDIR to a folder with room') from error
        yield copy


def is_bundle(path: Path, kind: str) -> bool:
    """Whether a directory claims to be a bundle of this kind, whole or not."""
    try:
        found = path if path.exists() else _backup(path)
        content = json.loads((found / MANIFEST).read_text(encoding='utf-8'))
    except OSError:
        return False
    except ValueError:
        return True  # for ``read_bundle`` to say what is wrong with it
    return isinstance(content, dict) and content.get('kind') == kind


def sha256_of(*files: Path) -> str:
    """SHA-256 (hex) over the content of files."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _render(manifest: dict[str, Any]) -> str:
    """The manifest's text, with a checksum of its own."""
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, 'checksum': checksum}, indent=2, sort_keys=True) + '\n'


def _read_manifest(path: Path, kind: str) -> tuple[dict[str, Any], bytes]:
    """Content and bytes of a manifest."""
    try:
        read = path.read_bytes()
        content = json.loads(read.decode())
    except FileNotFoundError as error:
        raise UserError(f'{path} is missing: {path.parent} is no {kind}') from error
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): check its permissions') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is corrupt ({error}): use another copy') from error
    if not isinstance(content, dict) or content.get('kind') != kind or not isinstance(content.get('files'), dict):
        raise UserError(f'{path} is not the manifest of a {kind}, or corrupt: use another copy')
    if content.get('schema') != SCHEMA:
        raise UserError(f'{path} has schema {content.get("schema")}, but this version reads {SCHEMA}: '
                        f'use the version of vlm_agent_ros that wrote it')
    content.pop('checksum', None)
    if read != _render(content).encode():
        raise UserError(f'{path} is corrupt (its own checksum does not fit): use another copy')
    return content, read


def _backup(path: Path) -> Path:
    return path.with_name(f'.{path.name}.old')


def _recover(path: Path) -> None:
    """Bring back the old bundle of a process that was killed between the two renames of ``_replace``."""
    if _backup(path).exists():
        if path.exists():
            shutil.rmtree(_backup(path))
        else:
            os.rename(_backup(path), path)


def _replace(temporary: Path, path: Path) -> None:
    # A directory that is not empty cannot be renamed over: readers find the backup in the moment between.
    if path.exists():
        os.rename(path, _backup(path))
    os.rename(temporary, path)
    sync(path.parent)
    shutil.rmtree(_backup(path), ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file or folder on the disk before anything that relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
