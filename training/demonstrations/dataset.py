"""Demonstrations in memory: what an expert saw, thought and did, with the truth of the scene, as arrays."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.prompt import PromptTemplate

from .dataset_schema import COLUMNS, DatasetInfo, read_info
from .dataset_writer import UNFINISHED

_READ = ('image', 'prompt', 'thought', 'action', 'executed', 'task', 'episode', 'turn', 'objects', 'rare')
_REQUIRED = tuple(column.name for column in COLUMNS if column.required)
_SHARD = re.compile(r'(.*)-\d{5}-of-(\d{5})\.parquet')


@dataclass(frozen=True)
class DemonstrationDataset:
    """N decisions.

    Attributes:
        images: (N, height, width, 3) uint8, rgb8.
        prompts: (N,) str, text of the user message as ``PromptTemplate.render`` gives it.
        thoughts: (N,) str, the expert's chain of thought.
        actions: (N,) str, the expert's action.
        objects: (N, K, 4) float32, the true objects as [class, column, row, visible]: class is an index into
            ``classes`` or -1 for no object; column and row are the fractional position of the object's centre in
            cells of the image grid (0 at the image's left and top edge); visible is 0 or 1.
        executed: (N,) str, what was carried out; empty for nothing.
        episodes: (N,) int64, episode of each sample; episodes are held out as a whole.
        turns: (N,) int64, turn of its episode, from 1; 0 where it is not known.
        templates: (N,) str, of the prompts, where the dataset says so; else empty.
        labels: (N,) bool by name of a task or of a rare event: the samples that belong to it.
        classes: Names of the object classes, e.g. ``yellow cube``; empty where no objects are known.
        grid: Cells per image side.
    """

    images: np.ndarray
    prompts: np.ndarray
    thoughts: np.ndarray
    actions: np.ndarray
    objects: np.ndarray
    executed: np.ndarray
    episodes: np.ndarray
    turns: np.ndarray
    templates: np.ndarray
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    grid: int

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> DemonstrationDataset:
        """Read and check datasets as one; their episodes stay apart.

        Args:
            paths: Folders of datasets, or single parquet files; what is named twice is read once.

        Raises:
            UserError: One is missing, incomplete, damaged or does not fit the format or the others, or all are empty.
        """
        sources, read = [], set[Path]()
        for path in paths:
            files = [file for file in _files(path) if file.resolve() not in read]  # a folder, and a file of it
            read.update(file.resolve() for file in files)
            sources.append(files)
        info, samples, templates = _inspect([file for files in sources for file in files])
        if not samples:
            raise UserError(f'{", ".join(map(str, paths))}: no decisions in it, record more episodes')
        builder = _Builder(samples, info)
        for files in sources:
            builder.next_source()
            for file in files:
                for row, content in enumerate(_rows(file)):
                    builder.add({**content, 'template': templates[file]}, f'{file}: row {row}')
        return builder.dataset()

    def without_thoughts(self, template: PromptTemplate) -> DemonstrationDataset:
        """The same decisions by a policy that writes no thoughts: it remembers its actions instead.

        Args:
            template: Of the prompts whose dataset does not say which.

        Raises:
            UserError: A prompt is none of the template, or tells of a turn that is not among the decisions.
        """
        templates = {text: replace(template, template=text) if text else template for text in set(self.templates)}
        prompts = self.prompts
        if any(known.remembers for known in templates.values()):
            done = {(episode, turn): action for episode, turn, action in zip(self.episodes, self.turns, self.executed)}
            prompts = np.array([
                _remembering(templates[text], prompt, '' if turn == 1 else done.get((episode, turn - 1)))
                if templates[text].remembers else prompt
                for text, prompt, episode, turn in zip(self.templates, prompts, self.episodes, self.turns)], object)
        return replace(self, prompts=prompts, thoughts=np.full(len(self), '', object))


class _Builder:
    """Arrays that are filled row by row; the images, nearly all of the memory, are held once."""

    def __init__(self, samples: int, info: DatasetInfo) -> None:
        self._info, self._samples, self._count = info, samples, 0
        self._class_of = {name: index for index, name in enumerate(info.classes)}
        self._images = np.empty(0, np.uint8)
        self._texts: dict[str, list[str]] = {'prompt': [], 'thought': [], 'action': [], 'executed': [], 'template': []}
        self._objects: list[list[tuple[float, float, float, float]]] = []
        self._episodes = np.empty(samples, np.int64)
        self._turns = np.empty(samples, np.int64)
        self._source = 0
        self._numbers: dict[tuple[int, int], int] = {}
        self._labels: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(samples, bool))
        self._known_texts: dict[str, str] = {}

    def next_source(self) -> None:
        """What follows is another dataset: equal episode numbers are other episodes."""
        self._source += 1

    def add(self, row: dict[str, Any], where: str) -> None:
        """Append a row; ``where`` names it in messages."""
        for name in _REQUIRED:
            if row[name] is None or (name == 'action' and not row[name]):
                raise UserError(f'{where} has no {name}: correct or leave out the row')
        image = _decode(row['image']['bytes'], where)
        if not self._count:
            self._images = np.empty((self._samples, *image.shape), np.uint8)
        if image.shape != self._images.shape[1:]:
            raise UserError(f'{where} has an image of {image.shape[:2]} pixels (height, width), the first row one of '
                            f'{self._images.shape[1:3]}: all images must be of one size')
        self._images[self._count] = image
        for name, texts in self._texts.items():
            text = row.get(name) or ''
            texts.append(self._known_texts.setdefault(text, text))
        self._objects.append([self._object(label, where) for label in row.get('objects') or ()])
        self._turns[self._count] = row.get('turn') or 0
        self._episodes[self._count] = self._numbers.setdefault((self._source, row['episode']), len(self._numbers))
        for name in {row.get('task'), *(row.get('rare') or ())} - {None}:
            self._labels[name][self._count] = True
        self._count += 1

    def dataset(self) -> DemonstrationDataset:
        """The arrays."""
        objects = np.full((self._samples, max(map(len, self._objects)), 4), -1.0, np.float32)
        for slots, labels in zip(objects, self._objects):
            slots[: len(labels)] = np.reshape(labels, (-1, 4))
        prompts, thoughts, actions, executed, templates = (np.array(t, object) for t in self._texts.values())
        return DemonstrationDataset(self._images, prompts, thoughts, actions, objects, executed, self._episodes,
                                    self._turns, templates, dict(self._labels), self._info.classes, self._info.grid)

    def _object(self, label: dict[str, Any] | None, where: str) -> tuple[float, float, float, float]:
        if label is None or label['visible'] is None:
            raise UserError(f'{where} has an object that is null or does not say whether it is visible: complete '
                            'or leave out the object')
        if label['name'] not in self._class_of:
            raise UserError(f'{where} has an object {label["name"]!r}, but the classes of the dataset (metadata '
                            f'vlm_agent_ros of its schema) are {", ".join(self._class_of)}: add it there')
        position = label['column'], label['row']
        if not all(value is not None and np.isfinite(value) for value in position):
            raise UserError(f'{where}: object {label["name"]!r} lies at {position}, which is no position in the image: '
                            'correct or leave out the object')
        return self._class_of[label['name']], *position, float(label['visible'])


def _remembering(template: PromptTemplate, prompt: str, action: str | None) -> str:
    if action is None:
        raise UserError(f'the prompt {prompt!r} tells the thought of a turn before that is not in the dataset, so that '
                        'it is not known what a policy without thoughts would read: leave out the decision, or '
                        'choose a model whose prompt has no {previous}')
    try:
        return template.with_previous(prompt, action)
    except ValueError as error:
        raise UserError(f'{error}, so that no policy without thoughts can be taught by it: choose the model that it '
                        'was recorded with, or record it again') from error


def _files(path: Path) -> list[Path]:
    """The parquet files of a dataset, all of them."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f'{path} does not exist: record demonstrations with `vlm-agent record` first')
    folder = path / 'data' if (path / 'data').is_dir() else path
    files = sorted(folder.glob('train-*.parquet'))
    if not files:
        remedy = ('is unfinished: repeat the `vlm-agent record` that began it' if (path / UNFINISHED).is_dir() else
                  'holds no train-*.parquet: give the folder of a dataset, or parquet files')
        raise UserError(f'{path} {remedy}')
    for file in files:
        if shard := _SHARD.fullmatch(file.name):
            wanted = [folder / f'{shard[1]}-{i:05d}-of-{shard[2]}.parquet' for i in range(int(shard[2]))]
            if lacking := [other for other in wanted if not other.exists()]:
                raise UserError(f'{lacking[0]} is missing, beside {file.name}: copy the dataset again')
    return files


def _inspect(files: list[Path]) -> tuple[DatasetInfo, int, dict[Path, str]]:
    """What the files have in common, the number of their rows, and the template of each: from their footers."""
    samples, infos = 0, []
    for path in files:
        with _opened(path) as file:
            infos.append(read_info(file.schema_arrow, path))
            samples += file.metadata.num_rows
    # Files that know nothing of objects, such as corrections from a real cell, go with any.
    known = [(path, info) for path, info in zip(files, infos) if info.classes]
    for path, info in known:
        for name in ('grid', 'classes'):
            if getattr(info, name) != getattr(known[0][1], name):
                raise UserError(f'{known[0][0]} and {path} differ in {name} ({getattr(known[0][1], name)} and '
                                f'{getattr(info, name)}): train on one of them, or record them with one setting')
    templates = {path: info.template for path, info in zip(files, infos)}
    return known[0][1] if known else DatasetInfo(), samples, templates


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with _opened(path) as file:
            known = read_info(file.schema_arrow, path).classes  # without them the objects mean nothing
            columns = [name for name in _READ if name in file.schema_arrow.names and (known or name != 'objects')]
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = ' '.join(str(error).split())
    return UserError(f'{path} is damaged or no parquet file ({reason}): copy it again, or record it again')


def _decode(content: bytes | None, where: str) -> np.ndarray:
    """(height, width, 3) uint8 of PNG or JPEG bytes."""
    from PIL import Image

    if content is None:
        raise UserError(f'{where} has no image bytes: the images must lie in the file, not beside it')
    try:
        return np.asarray(Image.open(io.BytesIO(content), formats=('PNG', 'JPEG')).convert('RGB'))
    except Exception as error:  # Pillow raises what its decoders do
        raise UserError(f'{where} has an image that cannot be decoded ({error}): correct or leave out the row'
                        ) from error
