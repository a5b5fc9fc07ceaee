"""Datasets of demonstrations: what is written is read, by other tools too, and what does not fit is named."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from training.demonstrations.dataset import DemonstrationDataset
from training.demonstrations.dataset_schema import COLUMNS, DatasetInfo, DemonstrationRow, EpisodeOutcome, ObjectLabel
from training.demonstrations.dataset_writer import DatasetWriter
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.prompt import PromptTemplate
from vlm_agent_ros.types import Outcome

INFO = DatasetInfo(('red cube', 'blue pad'), 48, {'seed': 7})


def rows(count: int = 4, size: int = 8, **changes: Any) -> list[DemonstrationRow]:
    """Two decisions an episode."""
    rng = np.random.default_rng(count)
    made = [DemonstrationRow(rng.integers(0, 256, (size, size, 3), np.uint8), 'task: ünï', f'red cube at {i:02d}',
                             f'pick {i:02d} 02', i // 2) for i in range(count)]
    return [dataclasses.replace(row, **changes) for row in made]


def write(folder: Path, *shards: list[DemonstrationRow], info: DatasetInfo = INFO) -> Path:
    writer = DatasetWriter(folder, info, len(shards))
    for shard in writer.missing():
        writer.write(shard, shards[shard])
    writer.finish()
    return folder


def test_what_is_written_is_read(tmp_path):
    labels = (ObjectLabel('blue pad', 1.5, 2.5, True), ObjectLabel('red cube', -1.0, 0.5, False))
    first = rows(4, objects=labels[:1], task='place', rare=('recovery', 'dropped'))
    second = [dataclasses.replace(row, episode=7, objects=labels) for row in rows(2, task='pick')]
    dataset = DemonstrationDataset.load([write(tmp_path / 'new' / 'd', first, second)])
    for i, row in enumerate(first + second):
        assert np.array_equal(dataset.images[i], row.image)
        assert (dataset.prompts[i], dataset.thoughts[i], dataset.actions[i]) == (row.prompt, row.thought, row.action)
    assert dataset.objects[0].tolist() == [[1, 1.5, 2.5, 1], [-1, -1, -1, -1]]
    assert dataset.objects[4].tolist() == [[1, 1.5, 2.5, 1], [0, -1, 0.5, 0]]
    assert dataset.episodes.tolist() == [0, 0, 1, 1, 2, 2]
    assert {name: rows.tolist() for name, rows in dataset.labels.items()} == {
        'place': [1, 1, 1, 1, 0, 0], 'pick': [0, 0, 0, 0, 1, 1], 'recovery': [1, 1, 1, 1, 0, 0],
        'dropped': [1, 1, 1, 1, 0, 0]}
    assert dataset.classes == INFO.classes and dataset.grid == 48


def test_without_thoughts_a_prompt_remembers_what_was_done_instead_of_what_was_thought(tmp_path):
    template, language = PromptTemplate('task: {task}\nbefore: {previous}'), SkillLanguage(48)
    told = [template.render('sort', '', language, memory) for memory in ('', 'red cube at 01', '')]
    made = [dataclasses.replace(row, prompt=prompt, turn=turn, episode=episode, executed='pick 09 09')
            for row, prompt, turn, episode in zip(rows(3), told, (1, 2, 1), (0, 0, 1))]
    whole = DemonstrationDataset.load([write(tmp_path / 'd', made)])
    dataset = whole.without_thoughts(template)
    assert dataset.prompts.tolist() == ['task: sort\nbefore: nothing', 'task: sort\nbefore: pick 09 09',
                                        'task: sort\nbefore: nothing']
    assert dataset.thoughts.tolist() == 3 * ['']
    part = DemonstrationDataset.load([write(tmp_path / 'part', made[1:])])
    with pytest.raises(UserError, match='a turn before that is not in the dataset'):
        part.without_thoughts(template)
    with pytest.raises(UserError, match='none of the template'):
        whole.without_thoughts(PromptTemplate('{task}; {previous}; {task}'))
    assert part.without_thoughts(PromptTemplate('{task}')).prompts.tolist() == told[1:]


def test_the_schema_tells_other_tools_what_the_columns_are(tmp_path):
    folder = write(tmp_path / 'd', rows(2))
    table = pq.read_table(folder / 'data' / 'train-00000-of-00001.parquet')
    features = json.loads(table.schema.metadata[b'huggingface'])['info']['features']
    assert list(features) == table.column_names == [column.name for column in COLUMNS]
    assert features['image'] == {'_type': 'Image'}
    assert features['seed'] == {'dtype': 'int64', '_type': 'Value'}
    assert features['objects'] == [{'name': {'dtype': 'string', '_type': 'Value'},
                                    'column': {'dtype': 'float32', '_type': 'Value'},
                                    'row': {'dtype': 'float32', '_type': 'Value'},
                                    'visible': {'dtype': 'bool', '_type': 'Value'}}]
    own = json.loads(table.schema.metadata[b'vlm_agent_ros'])
    assert own == {'version': 1, 'grid': 48, 'classes': ['red cube', 'blue pad'], 'recording': {'seed': 7},
                   'template': ''}
    content = table['image'][1].as_py()
    assert content['path'] == 'episode_0_turn_0.png'
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content['bytes']))), rows(2)[1].image)


def test_what_is_not_known_is_null_and_may_be_missing(tmp_path):
    file = write(tmp_path / 'd', rows(2)) / 'data' / 'train-00000-of-00001.parquet'
    table = pq.read_table(file)
    required = [column.name for column in COLUMNS if column.required]
    assert all(table[name].null_count == (0 if name in required else 2) for name in table.column_names)
    # As pandas or `datasets` may write it: fewer columns, other widths, no metadata of ours.
    image = [{'path': None, **cell} for cell in table['image'].to_pylist()]
    other = pa.table({'episode': table['episode'].cast(pa.int32()), 'image': image, 'extra': [1, 2],
                      **{name: table[name].cast(pa.large_string()) for name in ('prompt', 'thought', 'action')}})
    pq.write_table(other, tmp_path / 'other.parquet')
    dataset = DemonstrationDataset.load([tmp_path / 'other.parquet'])
    assert np.array_equal(dataset.images[1], rows(2)[1].image) and dataset.objects.shape == (2, 0, 4)
    assert dataset.labels == {} and dataset.classes == ()


def test_rows_without_objects_go_with_those_that_have_them(tmp_path):
    labelled = write(tmp_path / 'a', rows(2, objects=(ObjectLabel('blue pad', 1.5, 2.5, True),)))
    for other in (write(tmp_path / 'b', rows(2), info=DatasetInfo()), tmp_path / 'stripped.parquet'):
        if not other.exists():  # metadata lost: without grid and classes the objects mean nothing
            file = labelled / 'data' / 'train-00000-of-00001.parquet'
            pq.write_table(pq.read_table(file).replace_schema_metadata(None), other)
        dataset = DemonstrationDataset.load([other, labelled])
        assert dataset.grid == 48 and dataset.objects[:, 0, 0].tolist() == [-1, -1, 1, 1]


def test_jpeg_images_are_read(tmp_path):
    file = write(tmp_path / 'd', rows(1)) / 'data' / 'train-00000-of-00001.parquet'
    content = io.BytesIO()
    Image.new('L', (8, 6), 90).save(content, 'JPEG')
    _replace(file, 'image', [{'bytes': content.getvalue(), 'path': None}])
    assert (DemonstrationDataset.load([file]).images == np.full((1, 6, 8, 3), 90)).all()


def test_datasets_are_joined_with_their_episodes_kept_apart(tmp_path):
    joined = DemonstrationDataset.load([write(tmp_path / 'a', rows(4)), write(tmp_path / 'b', rows(2))])
    assert joined.episodes.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(('other', 'message'), [
    ({'info': dataclasses.replace(INFO, grid=24)}, r'a/data.*b/data.*differ in grid \(48 and 24\)'),
    ({'info': dataclasses.replace(INFO, classes=('red cube',))}, 'differ in classes'),
    ({'size': 10}, r'b/data.*row 0 has an image of \(10, 10\) pixels .* the first row one of \(8, 8\)'),
])
def test_datasets_that_differ_are_refused(tmp_path, other, message):
    first = write(tmp_path / 'a', rows())
    second = write(tmp_path / 'b', rows(size=other.get('size', 8)), info=other.get('info', INFO))
    with pytest.raises(UserError, match=message):
        DemonstrationDataset.load([first, second])


def _replace(file: Path, name: str, values: Any) -> None:
    table = pq.read_table(file)
    position = table.column_names.index(name)
    pq.write_table(table.set_column(position, name, pa.array(values)) if values else table.drop_columns([name]), file)


@pytest.mark.parametrize(('name', 'values', 'message'), [
    ('prompt', None, "has no column 'prompt' .* needs one of type string"),
    ('prompt', [1, 2], "column 'prompt' is of type int64, but must be string"),
    ('image', ['a.png', 'b.png'], "column 'image' is of type string, but must be struct<bytes: binary"),
    ('image', [{'bytes': b'x', 'path': ''}, None], 'row 0 has an image that cannot be decoded'),
    ('image', [None, {'bytes': b'x', 'path': 'x.png'}], 'row 0 has no image'),
    ('image', [{'bytes': None, 'path': 'x.png'}, {'bytes': b'x', 'path': ''}], 'row 0 has no image bytes'),
    ('action', [None, 'done'], 'row 0 has no action'),
    ('objects', [['cube'], []], "column 'objects' is of type list<.*string>, but must be list<.*struct<name"),
    ('objects', [[vars(ObjectLabel('cup', 1.0, 1.0, True))], []], "an object 'cup', but the classes"),
    ('objects', [[None], []], 'has an object that is null'),
    ('objects', [[vars(ObjectLabel('red cube', 1.0, 1.0, None))], []], 'does not say whether it is visible'),
    ('objects', [[vars(ObjectLabel('red cube', np.nan, 1.0, True))], []], 'no position in the image'),
])
def test_a_wrong_schema_or_row_is_named(tmp_path, name, values, message):
    file = write(tmp_path / 'd', rows(2)) / 'data' / 'train-00000-of-00001.parquet'
    _replace(file, name, values)
    with pytest.raises(UserError, match=f'train-00000-of-00001.parquet.*{message}') as caught:
        DemonstrationDataset.load([tmp_path / 'd'])
    assert '\n' not in str(caught.value)


def test_another_version_of_the_format_is_refused(tmp_path):
    file = write(tmp_path / 'd', rows(2)) / 'data' / 'train-00000-of-00001.parquet'
    table = pq.read_table(file)
    for content, message in (('{"version": 99}', 'version 99'), ('{', 'damaged')):
        pq.write_table(table.replace_schema_metadata({'vlm_agent_ros': content}), file)
        with pytest.raises(UserError, match=message):
            DemonstrationDataset.load([file])


@pytest.mark.parametrize('damage', [lambda data: data[:len(data) // 2], lambda data: b'hello', lambda data: b'',
                                    lambda data: data[:200] + bytes(100) + data[300:]])
def test_a_damaged_shard_is_named(tmp_path, damage):
    file = write(tmp_path / 'd', rows(2), rows(2, size=8)) / 'data' / 'train-00001-of-00002.parquet'
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r'train-00001-of-00002\.parquet is damaged') as caught:
        DemonstrationDataset.load([tmp_path / 'd'])
    assert '\n' not in str(caught.value)


def test_what_is_not_there_is_named_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match='none does not exist: record demonstrations with `vlm-agent record`'):
        DemonstrationDataset.load([tmp_path / 'none'])
    with pytest.raises(UserError, match=r'holds no train-\*\.parquet'):
        DemonstrationDataset.load([tmp_path])
    with pytest.raises(UserError, match='no decisions'):
        DemonstrationDataset.load([write(tmp_path / 'empty', [])])
    (write(tmp_path / 'd', rows(2), rows(2)) / 'data' / 'train-00000-of-00002.parquet').unlink()
    with pytest.raises(UserError, match=r'train-00000-of-00002\.parquet is missing'):
        DemonstrationDataset.load([tmp_path / 'd'])


def test_an_unfinished_dataset_is_not_read_and_can_be_finished(tmp_path):
    writer = DatasetWriter(tmp_path / 'd', INFO, 3)
    assert writer.missing() == [0, 1, 2]
    writer.write(1, rows(2))
    with pytest.raises(UserError, match='unfinished: repeat the `vlm-agent record`'):
        DemonstrationDataset.load([tmp_path / 'd'])
    again = DatasetWriter(tmp_path / 'd', INFO, 3)
    assert again.missing() == [0, 2] and not again.finished
    for shard in (0, 2):
        again.write(shard, rows(4))
    again.finish()
    assert again.finished and DatasetWriter(tmp_path / 'd', INFO, 3).missing() == []
    assert len(DemonstrationDataset.load([tmp_path / 'd'])) == 10


def test_a_recording_in_another_number_of_shards_is_not_continued(tmp_path):
    writer = DatasetWriter(tmp_path / 'd', INFO, 3)
    writer.missing()
    writer.write(1, rows(2))
    with pytest.raises(UserError, match=r'train-00001-of-00003\.parquet is one of another number of shards'):
        DatasetWriter(tmp_path / 'd', INFO, 9).missing()


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    writer = DatasetWriter(tmp_path / 'd', INFO, 1)
    writer.missing()

    def failing():
        yield from rows(300, size=1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        writer.write(0, failing())
    assert not list((tmp_path / 'd' / '.recording').iterdir())


def test_a_folder_of_other_settings_is_not_continued(tmp_path):
    write(tmp_path / 'whole', rows(2))
    DatasetWriter(tmp_path / 'begun', INFO, 2).missing()
    DatasetWriter(tmp_path / 'begun', INFO, 2).write(1, rows(2))
    for folder in ('whole', 'begun'):
        with pytest.raises(UserError, match=f'{folder} holds a recording with another seed'):
            DatasetWriter(tmp_path / folder, dataclasses.replace(INFO, recording={'seed': 8}), 2).missing()


@pytest.mark.parametrize(('other', 'message'), [('README.md', r'README\.md would be overwritten'),
                                                ('data/notes.txt', 'data exists, but without train-00000-of-00002')])
def test_a_folder_of_something_else_is_left_alone(tmp_path, other, message):
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_text('mine')
    with pytest.raises(UserError, match=message):
        DatasetWriter(tmp_path, INFO, 2).missing()
    assert (tmp_path / other).read_text() == 'mine' and not (tmp_path / '.recording').exists()


def test_what_is_named_twice_is_read_once(tmp_path, monkeypatch):
    """An episode that is there twice would be trained on and held out."""
    folder = write(tmp_path / 'd', rows(4), rows(2))
    monkeypatch.chdir(tmp_path)
    shard = next(folder.glob('data/*.parquet'))
    dataset = DemonstrationDataset.load([folder, Path('d'), shard])
    assert len(dataset) == 6 and len(np.unique(dataset.episodes)) == 2


def test_the_card_stays_a_table_whatever_the_settings_say(tmp_path):
    info = DatasetInfo(recording={'prompt': 'left | right?\nAnswer: {task}'})
    card = (write(tmp_path, rows(2), info=info) / 'README.md').read_text()
    assert r'| prompt | left \| right?<br>Answer: {task} |' in card.splitlines()


def test_the_card_counts_tasks_splits_outcomes_and_rare_events(tmp_path):
    outcome = Outcome(0.5, True, False, True, 0, 1, 7, {'cost': 1.0})
    won = rows(4, task='place', split='seen', outcome=outcome, episode_outcome=EpisodeOutcome(True, 1.0, 2))
    lost = rows(2, task='place', split='seen', episode_outcome=EpisodeOutcome(False, 0.0, 2), rare=('recovery',))
    lost = [dataclasses.replace(row, episode=9) for row in lost]
    card = (write(tmp_path / 'd', won, lost + rows(1, episode=10)) / 'README.md').read_text()
    front = yaml.safe_load(card.split('---')[1])
    assert front['license'] == 'apache-2.0' and front['size_categories'] == ['n<1K']
    assert front['configs'][0]['data_files'] == [{'split': 'train', 'path': 'data/train-*.parquet'}]
    assert '| place | seen | 6 | 2 | 1 | 0 |' in card
    assert '| unknown | unknown | 1 | 0 | 0 | 1 |' in card
    assert '| recovery | 2 | ' in card and '| dropped | 0 | ' in card and '| seed | 7 |' in card
