"""Recording: the expert's decisions, the same whether it was cut off or not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import training.demonstrations.record
from sim_worlds.expert import demonstrate
from sim_worlds.tasks import TASKS
from sim_worlds.world import CellWorld
from training.cli import main
from training.demonstrations.dataset import DemonstrationDataset
from training.demonstrations.dataset_writer import DatasetWriter
from training.rl.run_folder import claimed
from training.seeds import DEMONSTRATION_START, EVALUATION_START
from vlm_agent_ros.types import EpisodeRequest

OPTIONS = ['--scenes', '2', '--episodes', '4', '--mistakes', '0.6', '--workers', '1']


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('recorded') / 'demonstrations'
    assert main(['record', '--out', str(folder), *OPTIONS]) == 0
    return folder


def table(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted((folder / 'data').glob('*.parquet'))])


def test_rows_are_the_experts_decisions_in_the_world(recorded):
    first, dataset = table(recorded).slice(1, 1).to_pylist()[0], DemonstrationDataset.load([recorded])
    world = CellWorld()
    observation = world.reset(EpisodeRequest(first['seed'], first['task']))
    shown, truth = demonstrate(world.truth()), world.truth()
    world.close()
    assert (first['thought'], first['action'], first['instruction']) == (shown.thought, shown.action, observation.task)
    assert [label['name'] for label in first['objects']] == [item.name for item in truth.items]
    assert np.abs(dataset.images[1].astype(float) - observation.image).mean() < 6  # the noise was left out
    assert first['outcome'] is None and first['episode_outcome'] is None and first['executed'] is None


def test_whole_episodes_carry_what_they_led_to(recorded):
    whole = [row for row in table(recorded).to_pylist() if row['episode'] >= 2]
    assert {row['episode'] for row in whole} == {2, 3, 4, 5}
    for number in range(2, 6):
        turns = [row for row in whole if row['episode'] == number]
        assert [row['turn'] for row in turns] == list(range(1, len(turns) + 1))
        end = turns[-1]['outcome']
        assert end['terminated'] or end['truncated']
        assert turns[0]['episode_outcome'] == {'success': end['success'], 'turns': len(turns),
                                               'return': pytest.approx(sum(row['outcome']['reward'] for row in turns))}
        for before, row in itertools.pairwise(turns):
            assert ('recovery' in row['rare']) == (before['executed'] != before['action'])
    assert any(row['rare'] for row in whole)


def test_the_prompt_remembers_what_was_thought_before_and_of_a_spoilt_turn_what_was_done(tmp_path):
    assert main(['record', '--model', 'tiny_vlm_tasks', '--tasks', 'sort', '--scenes', '0', '--episodes', '3',
                 '--mistakes', '0.4', '--workers', '1', '--out', str(tmp_path / 'd')]) == 0
    spoilt = 0
    for before, row in itertools.pairwise(table(tmp_path / 'd').to_pylist()):
        memory = row['prompt'].rpartition('before: ')[2]
        if row['turn'] == 1:
            assert memory == 'nothing'
        elif before['executed'] == before['action']:
            assert memory == before['thought']
        else:
            spoilt += 1
            assert memory.endswith(f'so {before["executed"]}') and memory != before['thought']
    assert spoilt


def test_a_recording_that_was_cut_off_ends_as_an_unbroken_one(tmp_path, recorded, monkeypatch, capsys):
    monkeypatch.setattr(training.demonstrations.record, '_SHARD', 2)
    write = DatasetWriter.write

    def stop_at_the_second(self: DatasetWriter, shard: int, rows: object) -> int:
        if shard == 1:
            raise KeyboardInterrupt
        return write(self, shard, rows)

    monkeypatch.setattr(DatasetWriter, 'write', stop_at_the_second)
    arguments = ['record', '--out', str(tmp_path / 'd'), *OPTIONS]
    assert main(arguments) == 130
    assert 'the same command continues' in capsys.readouterr().err
    assert not (tmp_path / 'd' / 'data').exists()
    monkeypatch.setattr(DatasetWriter, 'write', write)
    assert main(arguments) == 0
    assert '1 of 3 shards are there' in capsys.readouterr().out  # the others were begun, and are not waited for
    assert len(list((tmp_path / 'd' / 'data').iterdir())) == 3
    assert table(tmp_path / 'd').equals(table(recorded))


def test_what_is_whole_is_not_recorded_again_and_other_settings_are_refused(recorded, capsys):
    before = (recorded / 'README.md').stat().st_mtime_ns
    assert main(['record', '--out', str(recorded), *OPTIONS]) == 0
    assert (recorded / 'README.md').stat().st_mtime_ns == before
    assert main(['record', '--out', str(recorded), *OPTIONS, '--seed', '5']) == 2
    assert 'holds a recording with another seed' in capsys.readouterr().err
    assert main(['record', '--out', str(recorded / 'x'), '--scenes', '0', '--episodes', '0']) == 2
    assert 'nothing to record' in capsys.readouterr().err


def test_a_recording_that_another_process_is_at_is_left_alone(tmp_path, capsys):
    out = tmp_path / 'd'
    with claimed(out):
        (out / '.recording').mkdir()
        (out / '.recording' / '.train-00000-of-00001.parquet.17.tmp').touch()  # what it is writing now
        assert main(['record', '--out', str(out), *OPTIONS]) == 2
        assert f'another process is at the recording {out}: choose another --out' in capsys.readouterr().err
        assert len(list((out / '.recording').iterdir())) == 1


@pytest.mark.parametrize(('options', 'said'), [
    (['--seed', '-5'], '--seed is -5'), (['--seed', str(2**64)], '--seed is 18446744073709551616'),
    (['--mistakes', 'nan'], '--mistakes is nan'), (['--mistakes', '1.5'], '--mistakes is 1.5'),
    (['--seed', str(EVALUATION_START)], 'on which success is measured'),
    (['--seed', str(EVALUATION_START - 1)], 'on which success is measured'),
    (['--seed', str(DEMONSTRATION_START - 1)], 'on which success is measured'),
])
def test_numbers_that_no_recording_may_have_are_refused_before_anything_is_written(tmp_path, capsys, options, said):
    assert main(['record', '--out', str(tmp_path / 'd'), '--scenes', '0', '--episodes', '2', *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not (tmp_path / 'd').exists()


def test_the_cell_of_a_log_is_refused_where_no_log_is_named(tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['record', '--cell', 'my_cell.yaml', '--out', str(out), *OPTIONS]) == 2
    assert '--cell belongs to --from-cell' in capsys.readouterr().err and not out.exists()


def test_every_task_is_recorded_with_its_mistakes(tmp_path):
    count = len(TASKS)
    assert main(['record', '--tasks', *TASKS, '--scenes', str(count), '--episodes', str(count), '--mistakes', '0.6',
                 '--workers', '1', '--out', str(tmp_path / 'd')]) == 0
    rows = table(tmp_path / 'd').to_pylist()
    assert len(rows) > 2 * count and {row['task'] for row in rows} == set(TASKS)
