"""The data card: README.md of a dataset, as the Hugging Face hub shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .dataset_schema import COLUMNS, DatasetInfo
from .rare_events import RARE_EVENTS

_COUNTED = ['task', 'split', 'episode', 'episode_outcome', 'rare']
_SIZES = ('n<1K', '1K<n<10K', '10K<n<100K', '100K<n<1M', '1M<n<10M')


def data_card(files: Sequence[Path], info: DatasetInfo) -> str:
    """The card of a dataset in these files, every figure counted from them."""
    groups: Counter[tuple[str, str]] = Counter()
    outcomes: dict[tuple[str, str], dict[int, str]] = {}
    rare: Counter[str] = Counter(dict.fromkeys(RARE_EVENTS, 0))
    for row in _rows(files):
        group, end = (row['task'] or 'unknown', row['split'] or 'unknown'), row['episode_outcome']
        groups[group] += 1
        rare.update(row['rare'] or ())
        ended = 'first decision only' if end is None else 'success' if end['success'] else 'failure'
        outcomes.setdefault(group, {})[row['episode']] = ended
    total = sum(groups.values())
    size = _SIZES[min(max(len(str(total)) - 3, 0), len(_SIZES) - 1)]
    counted = []
    for group, decisions in sorted(groups.items()):
        ends = Counter(outcomes[group].values())
        counted.append((*group, decisions, ends['success'], ends['failure'], ends['first decision only']))
    return _CARD.format(
        size=size, total=total, grid=info.grid, classes=', '.join(info.classes) or 'none',
        counts=_table(('task', 'split', 'decisions', 'episodes: success', 'failure', 'first decision only'), counted),
        rare=_table(('rare event', 'decisions', 'meaning'),
                    [(name, count, RARE_EVENTS.get(name, '')) for name, count in rare.items()]),
        recording=_table(('setting', 'value'), [(key, str(value)) for key, value in sorted(info.recording.items())]),
        columns=_table(('column', 'type', 'may be null', 'meaning'),
                       [(c.name, f'`{c.type}`', '' if c.required else 'yes', c.meaning) for c in COLUMNS]))


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=_COUNTED):
                yield from batch.to_pylist()


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(_cell, line)) + ' |' for line in lines)


def _cell(value: Any) -> str:
    # A prompt has several lines, and may hold what divides cells.
    return f'{value:,}' if type(value) is int else '<br>'.join(str(value).replace('|', r'\|').splitlines())


_CARD = """---
license: apache-2.0
pretty_name: Demonstrations for vlm_agent_ros
task_categories:
- image-text-to-text
- robotics
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# Demonstrations for vlm_agent_ros

{total:,} decisions: an image, the prompt, and the chain of thought and the action that answer it.
Any tool that reads parquet reads them; `datasets.load_dataset` decodes the images.

## Counts

{counts}

A decision may answer to several rare events, or to none:

{rare}

## How it was made

{recording}

## Columns

{columns}

Object classes: {classes}. The grid over the image has {grid} x {grid} cells.

## License

Apache License 2.0
"""
