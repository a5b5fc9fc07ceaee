"""Verdicts, stop criteria, the cost sheet and the page."""

from dataclasses import replace

import pytest

from training.pilot.decision import decide, sequential_test, verdict_of
from training.pilot.decision_page import render_decision
from training.pilot.plan import Plan, StopCriteria
from training.pilot.results import PilotEpisode

from .conftest import COSTS

EVIL = '<script>alert(1)</script>'
PLAN = Plan('one', 'other', ('place',), max_episodes=40, difference=0.3)


def verdict(plan, episodes):
    return verdict_of(plan, episodes, sequential_test(plan, [e for e in episodes if not e.lost]))


@pytest.mark.parametrize(('a', 'b', 'said'), [
    ([0] * 9, [1] * 9, 'B better'), ([1] * 9, [0] * 9, 'A better'), ([1, 0] * 3, [0, 1] * 3, 'running'),
    ([1, 0] * 10, [0, 1] * 10, 'no difference shown by the end'), ([], [], 'running'),
])
def test_the_verdict_is_what_the_episodes_show(play, a, b, said):
    assert verdict(PLAN, play(PLAN, a, b)) == said


def test_the_pilot_ends_early_once_every_difference_that_matters_is_excluded(play):
    plan = replace(PLAN, max_episodes=400)
    episodes = play(plan, [1] * 200, [1] * 200)
    ends = next(n for n in range(2, 402, 2) if verdict(plan, episodes[:n]) != 'running')
    assert verdict(plan, episodes[:ends]) == 'no difference that matters' and ends < 100
    assert verdict(replace(plan, stop=StopCriteria(no_difference=False)), episodes[:ends]) == 'running'


def test_only_whole_blocks_are_looked_at(play):
    episodes = play(PLAN, [1] * 3, [1] * 3)
    assert len(sequential_test(PLAN, episodes[:5]).intervals) == 2


@pytest.mark.parametrize(('stop', 'fields', 'said'), [
    (StopCriteria(max_minutes=3.0), {}, 'stopped: 3.0 minutes of episodes have reached max_minutes'),
    (StopCriteria(max_stops=6), {'stops': 1}, 'stopped: the arm was stopped 6 times'),
    (StopCriteria(max_failures_in_a_row=3), {}, 'stopped: B failed 3 times in a row'),
])
def test_a_stop_criterion_ends_the_pilot_whatever_the_test_says(play, stop, fields, said):
    plan = replace(PLAN, stop=stop)
    episodes = play(plan, [1] * 3, [0] * 3, **fields)
    assert verdict(plan, episodes).startswith(said)
    assert verdict(plan, episodes[:4]) == 'running'


def test_a_line_that_keeps_losing_an_episode_ends_the_pilot(play):
    episodes = play(PLAN, [1], [1])
    lost = PilotEpisode(2, 'A', '', 'place', 0.0, lost='no outcome ended it')
    assert verdict(PLAN, [*episodes, lost, lost]) == 'running'
    assert verdict(PLAN, [*episodes, lost, lost, lost]) == (
        'stopped: the line could not finish an episode 3 times in a row (no outcome ended it)')
    assert verdict(PLAN, [*episodes, lost, lost, *episodes[:1], lost]) == 'running'


def test_the_cost_sheet_is_the_arithmetic_of_its_formulas(play):
    plan = replace(PLAN, costs=COSTS)
    episodes = [replace(e, rejections=int(e.label == 'A'), kpi={'false_alarm': 0.5 * (e.label == 'A')})
                for e in play(plan, [1, 0, 1, 0], [1] * 4)]
    rows = {row['symbol']: (row['a'], row['b']) for row in decide(plan, episodes)['costs']}
    # 4 episodes of 2 parts and of half a minute each; A: 2 succeed, 4 interventions of 3 minutes.
    assert rows['N'] == (8, 8) and rows['G'] == (4, 8) and rows['M'] == (2.0, 2.0)
    assert rows['O'] == (0.1 * 2.0 + 4 * 3.0, 0.1 * 2.0) and rows['D'] == (4, 0) and rows['F'] == (2.0, 0.0)
    cost_a = 2 / 60 * 30 + 12.2 / 60 * 60 + 4 * 2.0 + 2 * 0.5
    cost_b = 2 / 60 * 30 + 0.2 / 60 * 60
    assert rows['C'] == pytest.approx((cost_a, cost_b)) and rows['c'] == pytest.approx((cost_a / 4, cost_b / 8))
    profit_a, profit_b = (4 * 1.0 - cost_a) / (2 / 60), (8 * 1.0 - cost_b) / (2 / 60)
    assert rows['g'] == pytest.approx((120.0, 240.0)) and rows['π'] == pytest.approx((profit_a, profit_b))
    assert rows['ΔI'][0] == 900.0 and rows['T'][0] == pytest.approx(900.0 / (profit_b - profit_a))
    yearly = (profit_b - profit_a) * 1000
    assert rows['Y'][0] == pytest.approx(yearly) and rows['R'][0] == pytest.approx(100 * (yearly - 900) / 900)


@pytest.mark.parametrize('one_off_b', [0.0, 1000.0])
@pytest.mark.parametrize('successes_b', [0, 1])
def test_a_checkpoint_that_earns_no_more_never_pays_back_however_little_it_cost(play, one_off_b, successes_b):
    plan = replace(PLAN, costs=replace(COSTS, one_off_b=one_off_b))
    rows = {row['symbol']: row['a'] for row in decide(plan, play(plan, [1] * 4, [successes_b] * 4))['costs']}
    assert rows['Δπ'] <= 0 and rows['T'] is None
    assert all(row['a'] is None or row['a'] == row['a'] for row in decide(plan, [])['costs'])


def test_the_page_never_says_that_it_is_certain(play):
    page = render_decision(decide(replace(PLAN, alpha=0.001), play(PLAN, [1], [1])))
    assert 'with 99.9% confidence' in page and 'would be chance in 0.1% of' in page


def test_the_page_says_it_all_and_escapes_what_others_wrote(play):
    plan = Plan(EVIL, 'other', (EVIL,), max_episodes=40, costs=replace(COSTS, currency=EVIL, false_alarm_kpi=EVIL))
    decision = decide(plan, play(plan, [0] * 9, [1] * 9, kpi={EVIL: 1.0}, gate_hits=1, corrections=1))
    page = render_decision(decision)
    assert '<script' not in page and 'B better' in page
    for words in ('Cost sheet', 'payback time', 'interventions per hour', 'gate hits', 'KPI terms', 'sequence',
                  'C / G', 'cycle time'):
        assert words in page
    assert render_decision(decide(plan, [])).count('<h1>') == 1
