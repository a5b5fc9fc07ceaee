"""``vlm-agent pilot`` on a simulated line: it continues, keeps to its plan, and refuses before it starts."""

import json

import pytest

from training.cli import main
from training.pilot.plan import load_plan
from training.pilot.results import PilotResults
from training.rl.run_folder import claimed


@pytest.fixture
def plan(brief_model, plan_file):
    """A random small VLM against the shipped one."""
    return lambda **changes: plan_file(a=str(brief_model), b='tiny_vlm', max_episodes=60, **changes)


def test_a_pilot_goes_on_where_it_was_cut_off_and_says_what_it_found(tmp_path, plan, capsys, monkeypatch):
    out = tmp_path / 'pilot'
    path = plan(tasks=['pick'])
    append = PilotResults.append

    def append_and_stop(self, episode):
        append(self, episode)
        if len(self.episodes) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PilotResults, 'append', append_and_stop)
    assert main(['pilot', path, '--out', str(out)]) == 130
    assert 'stopped after 3 episodes: the same command continues' in capsys.readouterr().err
    assert json.loads((out / 'decision.json').read_text())['verdict'] == 'running'
    monkeypatch.setattr(PilotResults, 'append', append)

    assert main(['pilot', path, '--out', str(out)]) == 0
    decision = json.loads((out / 'decision.json').read_text())
    assert decision['verdict'] == 'B better' and decision['B']['success'] == 1.0 and decision['A']['success'] < 0.5
    assert decision['B']['checkpoint'] != decision['A']['checkpoint'] and decision['B']['kpi']['cycle_time'] > 1.0
    episodes = PilotResults(out, load_plan(path)).episodes
    assert [e.number for e in episodes] == list(range(len(episodes)))
    assert [e.label for e in episodes] == [load_plan(path).label(n) for n in range(len(episodes))]
    assert 'B better' in (out / 'decision.html').read_text()

    capsys.readouterr()
    assert main(['pilot', path, '--out', str(out)]) == 0  # finished: nothing is played again
    assert PilotResults(out, load_plan(path)).episodes == episodes
    assert main(['pilot', plan(tasks=['pick'], alpha=0.1), '--out', str(out)]) == 2
    assert 'different: alpha' in capsys.readouterr().err


def test_a_pilot_that_another_process_is_at_is_left_alone(tmp_path, plan, capsys):
    with claimed(tmp_path / 'out'):
        assert main(['pilot', plan(), '--out', str(tmp_path / 'out')]) == 2
    assert f'another process is at the pilot {tmp_path / "out"}: choose another --out' in capsys.readouterr().err


@pytest.mark.parametrize(('changes', 'said'), [
    ({'b': '/no/where'}, '/no/where does not exist'), ({'tasks': ['juggle']}, 'juggle'),
    ({'world': 'mars'}, 'mars'), ({'alpha': 2}, 'alpha is 2'), ({'b': 'copy'}, 'are the same policy'),
])
def test_what_cannot_be_piloted_is_one_sentence(tmp_path, brief_model, plan_file, capsys, changes, said):
    if changes.get('b') == 'copy':
        changes = {'b': str(tmp_path / 'copy.yaml')}
        (tmp_path / 'copy.yaml').write_text(brief_model.read_text())
    path = plan_file(**{'a': str(brief_model), 'b': 'tiny_vlm', **changes})
    assert main(['pilot', path, '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()
