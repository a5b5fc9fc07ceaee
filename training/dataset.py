"""Demonstrations on disk: what the expert saw, thought and did, with the truth of the scene."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlm_agent_ros.errors import UserError

_RANKS = {'images': 4, 'prompts': 1, 'thoughts': 1, 'actions': 1, 'objects': 3, 'episodes': 1, 'classes': 1, 'grid': 0}
_PER_SAMPLE = ('images', 'prompts', 'thoughts', 'actions', 'objects', 'episodes')


@dataclass(frozen=True)
class DemonstrationDataset:
    """N decisions of the expert; one compressed ``.npz`` file without pickled objects.

    Attributes:
        images: (N, height, width, 3) uint8, rgb8.
        prompts: (N,) str, text of the user message as ``PromptTemplate.render`` gives it.
        thoughts: (N,) str, the expert's chain of thought.
        actions: (N,) str, the expert's action.
        objects: (N, K, 4) float32, the true objects as [class, column, row, visible]: class is an index into
            ``classes`` or -1 for no object; column and row are the fractional position of the object's centre in
            cells of the image grid (0 at the image's left and top edge); visible is 0 … 1 or a flag.
        episodes: (N,) int64, episode of each sample; episodes are held out as a whole.
        classes: (C,) str, names of the object classes, e.g. ``yellow cube``.
        grid: Cells per image side.
    """

    images: np.ndarray
    prompts: np.ndarray
    thoughts: np.ndarray
    actions: np.ndarray
    objects: np.ndarray
    episodes: np.ndarray
    classes: np.ndarray
    grid: int

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: Path) -> None:
        """Write the file at once or not at all.

        Raises:
            UserError: An array does not fit the schema, or the file cannot be written.
        """
        _check(dataclasses.asdict(self), str(path))
        temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, 'wb') as file:
                np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f'{path} cannot be written ({error.strerror}): free space or choose another place'
                            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> DemonstrationDataset:
        """Read and check a file.

        Raises:
            UserError: The file is missing, damaged or does not fit the schema.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _RANKS}
        except FileNotFoundError as error:
            raise UserError(f'{path} does not exist: record demonstrations with `vlm-agent record` first') from error
        except KeyError as error:
            raise UserError(f'{path} holds no array {error}: record it again with `vlm-agent record`') from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
            raise UserError(f'{path} is damaged or no demonstration file ({error}): record it again') from error
        _check(arrays, str(path))
        return cls(**{**arrays, 'grid': int(arrays['grid'])})

    @classmethod
    def concatenate(cls, parts: list[DemonstrationDataset]) -> DemonstrationDataset:
        """One dataset of several that share classes, grid and image size; episodes stay apart.

        Raises:
            UserError: The parts do not fit together.
        """
        first = parts[0]
        for part in parts[1:]:
            same = part.grid == first.grid and list(part.classes) == list(first.classes)
            if not same or part.images.shape[1:] != first.images.shape[1:]:
                raise UserError('demonstration files differ in grid, classes or image size: record them with one '
                                'setting')
        if len(parts) == 1:
            return first
        slots = max(part.objects.shape[1] for part in parts)
        columns = {name: np.concatenate([getattr(part, name) for part in parts])
                   for name in ('images', 'prompts', 'thoughts', 'actions')}
        objects, episodes, offset = [], [], 0
        for part in parts:
            padded = np.full((len(part), slots, 4), -1.0, np.float32)
            padded[:, : part.objects.shape[1]] = part.objects
            objects.append(padded)
            numbers = np.unique(part.episodes, return_inverse=True)[1] + offset
            episodes.append(numbers)
            offset = int(numbers.max()) + 1
        return cls(**columns, objects=np.concatenate(objects), episodes=np.concatenate(episodes),
                   classes=first.classes, grid=first.grid)


def _check(arrays: dict[str, np.ndarray], source: str) -> None:
    for name, rank in _RANKS.items():
        if np.ndim(arrays[name]) != rank:
            raise UserError(f'{source}: array {name!r} has {np.ndim(arrays[name])} dimensions, but must have {rank}')
    samples = len(arrays['images'])
    if not samples:
        raise UserError(f'{source} holds no samples: record more episodes')
    for name in _PER_SAMPLE:
        if len(arrays[name]) != samples:
            raise UserError(f'{source}: array {name!r} has {len(arrays[name])} entries for {samples} images')
    if arrays['images'].dtype != np.uint8 or arrays['images'].shape[3] != 3:
        raise UserError(f'{source}: array "images" must be (N, height, width, 3) uint8')
    if arrays['objects'].shape[2] != 4 or not np.isfinite(arrays['objects']).all():
        raise UserError(f'{source}: array "objects" must be (N, K, 4) finite numbers')
    if arrays['objects'][..., 0].max(initial=-1) >= len(arrays['classes']):
        raise UserError(f'{source}: array "objects" names a class that "classes" does not have')
