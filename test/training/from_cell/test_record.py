"""``vlm-agent record --from-cell``: what operators said becomes a dataset that ``vlm-agent sft`` learns from."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from training.cli import main
from training.demonstrations.dataset import DemonstrationDataset
from training.from_cell.thoughts import corrected_thought
from vlm_agent_ros.types import Outcome

from .conftest import Said, lit

END = Outcome(1.0, True, False, True, 0, 1, 7, {'cost': 1.0})
SEEN = 'red cube at 40 20 , blue pad at 30 05 , gripper open , so pick 40 20'


@pytest.mark.parametrize(('thought', 'correction', 'expected'), [
    (SEEN, 'pick 10 21', SEEN.replace('40 20', '10 21')),  # it saw the cube elsewhere
    (SEEN, 'pick 30 05', SEEN.replace('pick 40 20', 'pick 30 05')),  # it saw both and chose wrongly
    (SEEN, 'done', SEEN.replace('pick 40 20', 'done')),
    (SEEN, 'place 40 20', SEEN.replace('pick', 'place')),
    ('cube at 40 20', 'pick 10 21', 'cube at 10 21'), ('hm', 'pick 10 21', 'hm'), ('', 'done', ''),
])
def test_a_thought_is_made_to_come_to_its_correction(thought, correction, expected):
    assert corrected_thought(thought, 'pick 40 20', correction) == expected


def test_a_decision_without_an_action_keeps_its_thought():
    assert corrected_thought('hm', '', 'done') == 'hm'


def test_corrections_and_approvals_are_rows_and_the_rest_is_not(small_cell, write_log, tmp_path):
    rng = np.random.default_rng(0)
    images = [lit(rng, bool(i % 2)) for i in range(5)]
    log = write_log([
        Said(images[0], verdict='refused', rule='approval',
             correction={'action': 'pick 12 24', 'thought': 'look left'}),
        Said(images[1], verdict='forwarded', mode='approve', outcome=END),
        Said(images[2], verdict='refused', rule='approval', correction={'action': 'pick 36 24', 'demonstrated': True}),
        Said(images[3], verdict='refused', rule='approval'),  # nobody said what would have been right
        Said(images[4], verdict='forwarded', mode='approve', outcome=Outcome(0.0, True, False, False, 1, 1, 8, {}))])
    out = tmp_path / 'dataset'
    arguments = ['record', '--from-cell', str(log), '--out', str(out), '--model', str(small_cell.model)]
    assert main(arguments) == 0
    rows = pq.read_table(next((out / 'data').glob('*.parquet'))).to_pylist()
    assert [(r['thought'], r['action'], r['executed'], r['rare']) for r in rows] == [
        ('look left', 'pick 12 24', None, ['corrected', 'rejected']),
        ('so pick 40 40', 'pick 40 40', 'pick 40 40', ['approved']),
        ('so pick 36 24', 'pick 36 24', None, ['corrected', 'rejected', 'demonstrated'])]
    assert rows[1]['outcome']['reward'] == 1.0 and rows[1]['episode'] == rows[0]['episode'] != rows[2]['episode']
    dataset = DemonstrationDataset.load([out])
    assert np.array_equal(dataset.images, np.array([images[0], images[1], images[2]]))
    policy = small_cell.policy()
    assert dataset.prompts[0] == policy.prompt.render('pick what is lit', 'open', policy.language)
    assert dataset.labels['demonstrated'].tolist() == [False, False, True]
    assert main(arguments) == 2  # never over another one


def test_what_was_corrected_in_words_that_are_no_action_is_not_taken_for_approved(small_cell, write_log, tmp_path):
    image, approved = lit(np.random.default_rng(0), True), {'verdict': 'forwarded', 'mode': 'approve', 'outcome': END}
    log = write_log([Said(image, **approved), Said(image, **approved, correction={'action': 'grab 1 2'})])
    assert main(['record', '--from-cell', str(log), '--out', str(tmp_path / 'd'), '--cell', str(small_cell.cell),
                 '--model', str(small_cell.model)]) == 0
    assert pq.read_table(next((tmp_path / 'd' / 'data').glob('*.parquet'))).column('rare').to_pylist() == [['approved']]


def test_what_was_approved_before_the_same_instruction_was_given_again_is_of_an_attempt_that_nobody_judged(
        small_cell, write_log, tmp_path):
    rng = np.random.default_rng(0)
    images = [lit(rng, True), lit(rng, False)]
    log = write_log([Said(images[0], verdict='forwarded', mode='approve'),
                     Said(images[1], verdict='forwarded', mode='approve', given_again=True, outcome=END)])
    out = tmp_path / 'dataset'
    assert main(['record', '--from-cell', str(log), '--out', str(out), '--model', str(small_cell.model)]) == 0
    assert np.array_equal(DemonstrationDataset.load([out]).images, np.array(images[1:]))


def test_sft_reads_it(small_cell, write_log, tmp_path):
    rng = np.random.default_rng(0)
    log = write_log(Said(lit(rng, True), correction={'action': 'pick 36 24'}) for _ in range(8))
    assert main(['record', '--from-cell', str(log), '--out', str(tmp_path / 'd'), '--cell', str(small_cell.cell),
                 '--model', str(small_cell.model)]) == 0
    config = tmp_path / 'sft.yaml'
    config.write_text(yaml.safe_dump({
        'data': [str(tmp_path / 'd')], 'model': str(small_cell.model), 'grounding_weight': 0.0, 'vision': {'steps': 0},
        'text': {'steps': 2, 'batch': 4, 'warmup': 1}, 'held_out': 0.2, 'weights': {'corrected': 2.0},
        'autocast': False}))
    assert main(['sft', '--config', str(config), '--out', str(tmp_path / 'model'), '--device', 'cpu']) == 0


def test_a_log_without_anything_to_imitate_is_refused(small_cell, write_log, tmp_path, capsys):
    log = write_log([Said(lit(np.random.default_rng(0), True), verdict='forwarded', mode='auto')])
    assert main(['record', '--from-cell', str(log), '--out', str(tmp_path / 'd'), '--cell', str(small_cell.cell),
                 '--model', str(small_cell.model)]) == 2
    error = capsys.readouterr().err
    assert 'no correction, and no approved decision' in error and error.count('\n') == 1
    assert not (tmp_path / 'd').exists()
