"""Format of recorded demonstrations: parquet as Hugging Face ``datasets`` writes it, one decision per row.

Column types are Arrow's. The schema's metadata hold them once more as ``datasets`` features (key ``huggingface``), by
which ``datasets.load_dataset('parquet', ...)`` decodes the images, and what the columns refer to (``vlm_agent_ros``).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.types import Outcome

VERSION = 1
"""Version of the format; a reader refuses others."""

_KPI = pa.list_(pa.struct([('name', pa.string()), ('value', pa.float64())]))


@dataclass(frozen=True)
class Column:
    """A column of the format.

    Attributes:
        required: A reader refuses a file without it and a row in which it is null; all others may be missing or null.
        meaning: One line for the data card.
    """

    name: str
    type: pa.DataType
    required: bool
    meaning: str


COLUMNS = (
    Column('image', pa.struct([('bytes', pa.binary()), ('path', pa.string())]), True,
           'what the camera showed: PNG or JPEG bytes, all of one size, and a file name'),
    Column('prompt', pa.string(), True, 'text of the user message as the policy reads it'),
    Column('thought', pa.string(), True, 'chain of thought that should have been written'),
    Column('action', pa.string(), True, 'action that should have been written'),
    Column('executed', pa.string(), False, 'action that was carried out instead of or as `action`; null for none'),
    Column('task', pa.string(), False, 'kind of task'),
    Column('instruction', pa.string(), False, 'what the agent was told'),
    Column('split', pa.string(), False, 'split of the episodes that it belongs to'),
    Column('world', pa.string(), False, 'world or cell in which it was recorded'),
    Column('seed', pa.int64(), False, 'seed of the episode'),
    Column('episode', pa.int64(), True, 'episode within this dataset; held out as a whole'),
    Column('turn', pa.int64(), False, 'turn of the episode, from 1'),
    Column('objects', pa.list_(pa.struct([
        ('name', pa.string()), ('column', pa.float32()), ('row', pa.float32()), ('visible', pa.bool_())])), False,
        'true objects: class, fractional cell of the centre in the grid over the image (0 at its left and top edge), '
        'and whether it lies in view and is not held'),
    Column('outcome', pa.struct([
        ('reward', pa.float64()), ('success', pa.bool_()), ('terminated', pa.bool_()), ('truncated', pa.bool_()),
        ('kpi', _KPI)]), False, 'what the executed action led to'),
    Column('episode_outcome', pa.struct([('success', pa.bool_()), ('return', pa.float64()), ('turns', pa.int64())]),
           False, 'how the episode ended; null where only its first decision was recorded'),
    Column('rare', pa.list_(pa.string()), False, 'rare events that the decision answers to'),
)


@dataclass(frozen=True)
class ObjectLabel:
    """A true object as the column ``objects`` holds it."""

    name: str
    column: float
    row: float
    visible: bool


@dataclass(frozen=True)
class EpisodeOutcome:
    """How an episode ended; ``total_reward`` is the undiscounted return over ``turns`` turns."""

    success: bool
    total_reward: float
    turns: int


@dataclass(frozen=True)
class DemonstrationRow:
    """One decision; the columns of ``COLUMNS`` as Python holds them.

    Attributes:
        image: (height, width, 3) uint8, rgb8.
    """

    image: np.ndarray
    prompt: str
    thought: str
    action: str
    episode: int
    executed: str | None = None
    task: str | None = None
    instruction: str | None = None
    split: str | None = None
    world: str | None = None
    seed: int | None = None
    turn: int | None = None
    objects: tuple[ObjectLabel, ...] | None = None
    outcome: Outcome | None = None
    episode_outcome: EpisodeOutcome | None = None
    rare: tuple[str, ...] | None = None

    def columns(self) -> dict[str, Any]:
        """The row as ``COLUMNS`` types it, the image as PNG."""
        outcome, end = self.outcome, self.episode_outcome
        return {
            **{c.name: getattr(self, c.name) for c in COLUMNS},
            'image': {'bytes': _png(self.image), 'path': f'episode_{self.episode}_turn_{self.turn or 0}.png'},
            'objects': None if self.objects is None else [vars(label) for label in self.objects],
            'outcome': outcome and {
                'reward': outcome.reward, 'success': outcome.success, 'terminated': outcome.terminated,
                'truncated': outcome.truncated,
                'kpi': [{'name': name, 'value': value} for name, value in outcome.kpi.items()]},
            'episode_outcome': end and {'success': end.success, 'return': end.total_reward, 'turns': end.turns},
        }


@dataclass(frozen=True)
class DatasetInfo:
    """What the rows of a dataset refer to.

    Attributes:
        classes: Names of object classes; empty where no objects are known.
        grid: Cells per image side in which ``objects`` are given.
        recording: How it was made, JSON; empty if nobody says.
        template: Of the prompts, see ``PromptTemplate``; empty if nobody says, as where it is a models file's.
    """

    classes: tuple[str, ...] = ()
    grid: int = 1
    recording: dict[str, Any] = field(default_factory=dict)
    template: str = ''

    def schema(self) -> pa.Schema:
        """The Arrow schema of a file, metadata included."""
        features = {c.name: {'_type': 'Image'} if c.name == 'image' else _feature(c.type) for c in COLUMNS}
        own = {'version': VERSION, 'grid': self.grid, 'classes': self.classes, 'recording': self.recording,
               'template': self.template}
        return pa.schema([(c.name, c.type) for c in COLUMNS], metadata={
            'huggingface': json.dumps({'info': {'features': features}}), 'vlm_agent_ros': json.dumps(own)})


def read_info(schema: pa.Schema, path: Path) -> DatasetInfo:
    """Check the schema of a file against ``COLUMNS``.

    Returns:
        What the file's metadata say; the defaults where other tools have dropped them.

    Raises:
        UserError: A column is missing or of another type, or the version is another; the message names the column.
    """
    for column in COLUMNS:
        found = schema.field(column.name).type if column.name in schema.names else None
        if found is None and column.required:
            raise UserError(f'{path} has no column {column.name!r} (its columns: {", ".join(schema.names)}), but needs '
                            f'one of type {column.type}: add it')
        if found is not None and not _fits(found, column.type):
            raise UserError(f'{path}: column {column.name!r} is of type {found}, but must be {column.type}: convert it')
    try:
        content = (schema.metadata or {}).get(b'vlm_agent_ros')
        if content is None:
            return DatasetInfo()
        own = json.loads(content)
        if own['version'] != VERSION:
            raise UserError(f'{path} has version {own["version"]} of the format, but this version of vlm_agent_ros '
                            f'reads {VERSION}: record it again')
        return DatasetInfo(tuple(map(str, own['classes'])), int(own['grid']), own['recording'],
                           str(own.get('template', '')))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: metadata vlm_agent_ros of the schema are damaged ({error!r}): record it again'
                        ) from error


def _feature(kind: pa.DataType) -> Any:
    """A type as ``datasets.Features`` writes it in JSON."""
    if pa.types.is_struct(kind):
        return {member.name: _feature(member.type) for member in kind}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    name = {'double': 'float64', 'float': 'float32'}.get(str(kind), str(kind))
    return {'dtype': name, '_type': 'Value'}


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a type is the wanted one but for what writers choose differently: widths, order, further members."""
    if pa.types.is_null(found):  # nothing but nulls
        return True
    if pa.types.is_struct(wanted):
        return pa.types.is_struct(found) and all(
            found.get_field_index(member.name) >= 0 and _fits(found.field(member.name).type, member.type)
            for member in wanted)
    if pa.types.is_list(wanted):
        lists = pa.types.is_list(found) or pa.types.is_large_list(found)
        return lists and _fits(found.value_type, wanted.value_type)
    families = ((pa.types.is_string, pa.types.is_large_string), (pa.types.is_binary, pa.types.is_large_binary),
                (pa.types.is_integer,), (pa.types.is_floating,), (pa.types.is_boolean,))
    return any(any(test(found) for test in tests) and any(test(wanted) for test in tests) for tests in families)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    return file.getvalue()
