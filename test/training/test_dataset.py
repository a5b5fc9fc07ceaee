"""Demonstration files: what is saved is what is loaded, and a bad file is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from training.dataset import DemonstrationDataset
from vlm_agent_ros.errors import UserError


def make(samples: int = 4, **changes: object) -> DemonstrationDataset:
    rng = np.random.default_rng(samples)
    arrays = {
        'images': rng.integers(0, 256, (samples, 8, 8, 3), np.uint8), 'prompts': np.array(['task: ünï'] * samples),
        'thoughts': np.array(['red cube at 01 02'] * samples), 'actions': np.array(['pick 01 02'] * samples),
        'objects': np.tile(np.array([[0, 1.5, 2.5, 1]], np.float32), (samples, 1, 1)),
        'episodes': np.arange(samples) // 2, 'classes': np.array(['red cube']), 'grid': 48}
    return DemonstrationDataset(**{**arrays, **changes})


def test_what_is_saved_is_loaded(tmp_path):
    dataset = make()
    dataset.save(tmp_path / 'new' / 'd.npz')
    loaded = DemonstrationDataset.load(tmp_path / 'new' / 'd.npz')
    for field in dataclasses.fields(dataset):
        assert np.array_equal(getattr(dataset, field.name), getattr(loaded, field.name)), field.name
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['d.npz']


@pytest.mark.parametrize('changes', [
    {'images': np.zeros((4, 8, 8, 3), np.float32)}, {'prompts': np.array(['x'])}, {'objects': np.zeros((4, 1, 3))},
    {'objects': np.full((4, 1, 4), np.nan)}, {'objects': np.ones((4, 1, 4))}, {'actions': np.array([['x']] * 4)},
    {'images': np.zeros((0, 8, 8, 3), np.uint8)},
])
def test_arrays_that_do_not_fit_the_schema_are_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(UserError, match=r'd\.npz'):
        make(**changes).save(tmp_path / 'd.npz')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('damage', [lambda data: data[:len(data) // 2], lambda data: b'hello', lambda data: b'',
                                    lambda data: data[:200] + bytes(100) + data[300:]])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / 'd.npz'
    make().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r'd\.npz'):
        DemonstrationDataset.load(path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match='vlm-agent record'):
        DemonstrationDataset.load(tmp_path / 'none.npz')


def test_a_file_with_pickled_objects_is_never_opened(tmp_path):
    np.savez(tmp_path / 'd.npz', images=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r'd\.npz'):
        DemonstrationDataset.load(tmp_path / 'd.npz')


def test_files_are_joined_with_their_episodes_kept_apart():
    joined = DemonstrationDataset.concatenate([make(4), make(2, objects=np.full((2, 3, 4), -1, np.float32))])
    assert joined.episodes.tolist() == [0, 0, 1, 1, 2, 2]
    assert joined.objects.shape == (6, 3, 4) and (joined.objects[:4, 1:, 0] == -1).all()
    with pytest.raises(UserError, match='grid'):
        DemonstrationDataset.concatenate([make(), make(grid=24)])
