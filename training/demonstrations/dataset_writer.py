"""Datasets on disk, written shard by shard: whole under ``data/``, or unfinished under ``.recording/`` and not read.

A shard is written under a temporary name, synced and renamed; when all are there, one rename of their folder makes the
dataset. A process that is killed at any moment leaves whole shards, and whoever goes on writes only those that lack.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_agent_ros.bundle import sync
from vlm_agent_ros.errors import UserError

from ..metrics import write_atomically
from .dataset_card import data_card
from .dataset_schema import DatasetInfo, DemonstrationRow, read_info

UNFINISHED = '.recording'
_ROWS = 256  # rows that are held at a time


class DatasetWriter:
    """A dataset of a known number of shards. Instances may write different shards in different processes.

    Args:
        folder: Folder of the dataset.
        info: What its rows refer to and how they are made; the same for every shard.
        shards: Number of shards.
    """

    def __init__(self, folder: Path, info: DatasetInfo, shards: int) -> None:
        self.folder, self.info, self.shards = folder, info, shards
        self._unfinished, self._data = folder / UNFINISHED, folder / 'data'

    @property
    def finished(self) -> bool:
        """Whether the dataset is whole."""
        return self._data.exists()

    def missing(self) -> list[int]:
        """Shards that are still to be written, after a look at what is there.

        Raises:
            UserError: The folder holds another dataset, or the beginning of one.
        """
        folder, card = self._data if self.finished else self._unfinished, self.folder / 'README.md'
        if card.exists() and not folder.exists():
            raise UserError(f'{card} would be overwritten by the data card: choose another --out')
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob('.*.tmp'):  # of a process that was killed
                leftover.unlink()
        except OSError as error:
            raise _unwritable(folder, error) from error
        names = [self._name(shard) for shard in range(self.shards)]
        for path in sorted(folder.glob('*.parquet')):
            self._check(path)
            if path.name not in names:  # it would be read beside the others
                raise UserError(f'{path} is one of another number of shards: choose another --out, or delete {folder}')
        missing = [shard for shard, name in enumerate(names) if not (folder / name).exists()]
        if missing and self.finished:
            raise UserError(f'{folder} exists, but without {names[missing[0]]}: choose another --out')
        return missing

    def write(self, shard: int, rows: Iterable[DemonstrationRow]) -> int:
        """Write a shard at once or not at all.

        Returns:
            Number of its rows.

        Raises:
            UserError: There is no space, or the folder cannot be written to.
        """
        path = self._unfinished / self._name(shard)
        temporary, schema, count = path.with_name(f'.{path.name}.{os.getpid()}.tmp'), self.info.schema(), 0
        source = iter(rows)
        try:
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True) as file:
                while part := [row.columns() for row in itertools.islice(source, _ROWS)]:
                    file.write_table(pa.Table.from_pylist(part, schema))
                    count += len(part)
            sync(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return count

    def finish(self) -> None:
        """Write the data card and make the dataset whole.

        Raises:
            UserError: The folder cannot be written to.
        """
        files = [self._unfinished / self._name(shard) for shard in range(self.shards)]
        write_atomically(self.folder / 'README.md', data_card(files, self.info))
        try:
            sync(self._unfinished)
            os.rename(self._unfinished, self._data)
            sync(self.folder)
        except OSError as error:
            raise _unwritable(self._data, error) from error

    def _check(self, path: Path) -> None:
        """Refuse a shard of another dataset."""
        try:
            found = read_info(pq.read_schema(path), path).recording
        except (OSError, pa.ArrowException) as error:
            raise UserError(f'{path} is damaged ({error}): delete it') from error
        own = read_info(self.info.schema(), path).recording
        if different := sorted(key for key in own.keys() | found.keys() if own.get(key) != found.get(key)):
            raise UserError(f'{self.folder} holds a recording with another {", ".join(different)}: choose another '
                            '--out, or delete it')

    def _name(self, shard: int) -> str:
        return f'train-{shard:05d}-of-{self.shards:05d}.parquet'


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f'{path} cannot be written ({error.strerror or error}): free space or choose another --out')
