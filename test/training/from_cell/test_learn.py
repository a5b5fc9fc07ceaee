"""``vlm-agent train --from-cell`` learns what operators and inspection said, and refuses what it cannot learn from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from training.cli import main
from training.from_cell.decisions import LoggedEpisode
from training.from_cell.learn import newest_corrections
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.checkpoint import load_policy, open_checkpoint
from vlm_agent_ros.types import Outcome

from .conftest import Said, as_said, decide, lit, seen

RIGHT = ('pick 12 24', 'pick 36 24')
END = Outcome(1.0, True, False, True, 0, 1, 0, {})


def arguments(small_cell, tmp_path, *logs, **settings):
    config = tmp_path / 'training.yaml'
    config.write_text(yaml.safe_dump({
        'model': str(small_cell.model), 'runs_dir': str(tmp_path / 'runs'),
        'run_name': 'run', 'guard_coef': 1.0, 'learning_rate': 1e-2, 'epochs': 10, 'minibatch_size': 16,
        'micro_batch_size': 32, 'own_world': '', 'update_threads': 1, **settings}))
    return ['train', '--config', str(config), '--from-cell', *map(str, logs)]


def summary(tmp_path):
    return json.loads((tmp_path / 'runs' / 'run' / 'summary.json').read_text())


def trained(tmp_path):
    return load_policy(str(tmp_path / 'runs' / 'run' / 'checkpoints' / 'latest'), language=SkillLanguage(48))


def test_a_systematic_error_is_put_right_by_a_hundred_corrections(small_cell, write_log, tmp_path):
    """It always picks the same cell; operators say where it is light, and it goes there in new images too."""
    rng = np.random.default_rng(0)
    sides = rng.integers(0, 2, 110)
    log = write_log(Said(lit(rng, bool(side)), verdict='refused', rule='approval',
                         correction={'action': RIGHT[side]}) for side in sides)
    assert main(arguments(small_cell, tmp_path, log, outcome_weight=0.0)) == 0

    content = summary(tmp_path)
    assert content['found'] == {'decisions': 110} and content['learned'] == {'corrected': 99}
    assert content['before']['corrections'] == {'n': 11, 'agrees': 0.0, 'within_1': 0.0}
    assert content['after']['corrections']['agrees'] > 0.8

    policy, held_out = trained(tmp_path), np.random.default_rng(1)
    sides = held_out.integers(0, 2, 60)
    decisions = policy.decide([seen(policy, lit(held_out, bool(side))) for side in sides], temperature=1.0,
                              greedy=True)
    assert np.mean([d.action == RIGHT[side] for d, side in zip(decisions, sides)]) > 0.9
    assert {d.thought for d in decisions} <= {f'so {action}' for action in RIGHT}


def test_the_newest_corrections_are_held_out_in_whatever_order_logs_are_named():
    def episode(number, *times):
        return LoggedEpisode(number, tuple(SimpleNamespace(corrections=('no',), time_ns=time) for time in times))

    later_log_first = [episode(0, *range(100, 106)), episode(1, *range(6))]
    assert list(newest_corrections(later_log_first, 0.25)) == [(0, 3), (0, 4), (0, 5)]


def test_no_episode_is_measured_in_a_world_where_none_is_asked_for(small_cell, write_log, tmp_path):
    rng = np.random.default_rng(0)
    log = write_log([Said(lit(rng, True), verdict='refused', rule='approval', correction={'action': RIGHT[1]})])
    assert main([*arguments(small_cell, tmp_path, log, epochs=1, transport='in-process'), '--world', 'panda_table',
                 '--eval-episodes', '0']) == 0
    assert summary(tmp_path)['before']['simulation'] is None
    told = open_checkpoint(tmp_path / 'runs' / 'run' / 'checkpoints' / 'latest').document('train_config')
    assert (told['world'], told['own_world'], told['cell']) == ('', '', 'panda_table')  # where it has learned


def test_rewarded_decisions_become_more_likely_and_punished_ones_less(small_cell, write_log, tmp_path):
    policy = small_cell.policy()
    rng = np.random.default_rng(0)
    images = [lit(rng, bool(i % 2)) for i in range(64)]
    decisions = decide(policy, images)

    def rewarded(decision):
        return decision.action.startswith(('pick', 'place'))

    log = write_log(as_said(policy, image, decision, temperature=1.0, verdict='forwarded', mode='auto', outcome=Outcome(
        float(rewarded(decision)), True, False, rewarded(decision), 0, 1, 0, {}))
        for image, decision in zip(images, decisions))
    assert main(arguments(small_cell, tmp_path, log, epochs=8, clip=0.5, learning_rate=5e-3, thought_weight=0.0)) == 0
    assert summary(tmp_path)['learned']['reinforced'] == 64

    after = trained(tmp_path)
    fresh = [seen(after, lit(rng, bool(i % 2))) for i in range(64)]
    before_share, after_share = (np.mean([rewarded(d) for d in p.decide(fresh, temperature=1.0, seeds=list(range(64)))])
                                 for p in (policy, after))
    assert after_share > before_share + 0.15


def test_a_rejection_alone_makes_the_decision_less_likely(small_cell, write_log, tmp_path):
    policy = small_cell.policy()
    image = lit(np.random.default_rng(0), True)
    decision, = decide(policy, [image], seed=3)
    log = write_log([as_said(policy, image, decision, temperature=1.0, verdict='refused', rule='approval')])
    assert main(arguments(small_cell, tmp_path, log, epochs=3)) == 0
    after = trained(tmp_path)
    recomputed = after.evaluate([seen(after, image)], [decision], 1.0).logprobs.sum().item()
    assert recomputed < decision.token_logprobs.sum() - 0.05


def test_approved_decisions_are_imitated_only_if_they_led_to_success(small_cell, write_log, tmp_path):
    image = lit(np.random.default_rng(0), True)
    approved = {'verdict': 'forwarded', 'mode': 'approve', 'action': 'pick 36 24', 'checkpoint_sha256': 'another'}
    log = write_log([Said(image, **approved, outcome=END), Said(image, **approved, outcome=Outcome(
        0.0, False, True, False, 1, 1, 0, {})), Said(image, **{**approved, 'mode': 'auto'}, outcome=END)])
    assert main(arguments(small_cell, tmp_path, log, epochs=1, approved_weight=0.5)) == 0
    learned = summary(tmp_path)['learned']
    assert learned['approved'] == 1
    # Decisions by other weights are not reinforced, whatever came of them; a turn that was cut off never is.
    assert learned['not reinforced: decided by another checkpoint'] == 2 and 'reinforced' not in learned


def test_a_log_probability_that_is_not_the_logged_one_is_not_reinforced(small_cell, write_log, tmp_path):
    policy = small_cell.policy()
    image = lit(np.random.default_rng(0), True)
    decision, = decide(policy, [image], seed=3)
    good = as_said(policy, image, decision, temperature=1.0, verdict='forwarded', outcome=END)
    bad = Said(**{**vars(good), 'logprob': good.logprob + 1.0})
    assert main(arguments(small_cell, tmp_path, write_log([good, bad]), epochs=1, approved_weight=0.0)) == 0
    assert summary(tmp_path)['learned'] == {
        'reinforced': 1, 'not reinforced: their log-probability is not the logged one': 1}


def test_what_was_learned_is_measured_in_a_simulated_counterpart(small_cell, write_log, tmp_path):
    world = yaml.safe_load((Path(__file__).resolve().parents[3] / 'config/worlds/panda_table.yaml').read_text())
    (tmp_path / 'world.yaml').write_text(yaml.safe_dump({**world, 'cell': str(small_cell.cell)}))
    log = write_log([Said(lit(np.random.default_rng(0), True), correction={'action': 'pick 36 24'})])
    assert main([*arguments(small_cell, tmp_path, log, epochs=1, eval_episodes=2, worlds=2, transport='in-process'),
                 '--world', str(tmp_path / 'world.yaml')]) == 0
    content = summary(tmp_path)
    assert [content[name]['simulation']['n'] for name in ('before', 'after')] == [2, 2]


@pytest.mark.parametrize(('said', 'told'), [
    ({'prompt_sha256': 'another'}, '2 with another prompt): use the checkpoint and the cell file'),
    ({'image': np.zeros((16, 16, 3), np.uint8)}, '2 with an image of another size'),
    ({'correction': {'action': 'grab 1 2'}}, '2 with a correction outside the action language'),
    ({}, 'nothing to learn from (2 decisions'),
])
def test_a_log_that_does_not_fit_is_refused_before_anything_is_trained(small_cell, write_log, tmp_path, capsys, said,
                                                                         told):
    image = lit(np.random.default_rng(0), True)
    log = write_log([Said(**{'image': image, **said}) for _ in range(2)])
    assert main(arguments(small_cell, tmp_path, log)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1 and str(log) in error
    assert not (tmp_path / 'runs').exists()


def test_bad_logs_and_options_are_one_sentence(small_cell, write_log, tmp_path, capsys):
    (tmp_path / 'bad.mcap').write_bytes(b'no log at all')
    empty = write_log([])
    for extra, told in ((['/no/log'], '/no/log does not exist'), ([tmp_path / 'bad.mcap'], 'bad.mcap is no MCAP file'),
                        ([write_log([], 'unnamed', cell=False)], 'does not say of which cell it is'),
                        ([empty], 'no decision in it'), ([empty, '--resume', 'x'], 'exclude each other'),
                        ([empty, '--clip', '7'], 'clip is 7'), ([empty, '--cell', 'mars'], "'mars'"),
                        ([empty, '--world', 'mars'], "'mars'"), ([empty, '--model', '/no/model'], '/no/model')):
        assert main(arguments(small_cell, tmp_path, *extra)) == 2
        error = capsys.readouterr().err
        assert told in error and error.count('\n') == 1, error
    assert main(['train', '--cell', 'panda_table']) == 2
    assert '--cell belongs to --from-cell' in capsys.readouterr().err


def test_a_log_that_was_cut_off_is_learned_from_up_to_its_end(small_cell, write_log, tmp_path):
    rng = np.random.default_rng(0)
    log = write_log([Said(lit(rng, True), correction={'action': 'pick 36 24'}) for _ in range(4)])
    file, = log.glob('*.mcap')
    file.write_bytes(file.read_bytes()[:-400])  # no footer, as after kill -9
    assert main(arguments(small_cell, tmp_path, log, epochs=1)) == 0
    assert summary(tmp_path)['learned']['corrected'] >= 1
