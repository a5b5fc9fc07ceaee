"""Results survive whatever ends the process, and belong to one plan for good."""

from dataclasses import replace

import pytest

from training.pilot.plan import load_plan
from training.pilot.results import PilotEpisode, PilotResults, SuccessCriterion
from vlm_agent_ros.errors import UserError

EPISODE = PilotEpisode(0, 'A', 'abc', 'place', 1.5, True, 2, 1.25, 12.5, kpi={'cost': 2.0})


def test_what_was_appended_is_read_back_exactly(tmp_path, plan_file):
    plan = load_plan(plan_file())
    results = PilotResults(tmp_path, plan)
    results.append(EPISODE)
    results.append(replace(EPISODE, number=1, lost='the world died'))
    again = PilotResults(tmp_path, plan)
    assert again.episodes == [EPISODE, replace(EPISODE, number=1, lost='the world died')]
    assert again.finished == [EPISODE]


def test_a_line_that_was_cut_off_is_dropped_and_the_pilot_goes_on(tmp_path, plan_file):
    plan = load_plan(plan_file())
    results = PilotResults(tmp_path, plan)
    results.append(EPISODE)
    with results.path.open('a') as file:
        file.write('{"number": 1, "label": "B", "che')
    again = PilotResults(tmp_path, plan)
    assert again.episodes == [EPISODE]
    again.append(replace(EPISODE, number=1))
    assert len(PilotResults(tmp_path, plan).episodes) == 2


def test_a_plan_is_not_changed_once_a_pilot_has_begun(tmp_path, plan_file):
    PilotResults(tmp_path, load_plan(plan_file())).append(EPISODE)
    with pytest.raises(UserError, match=r'another plan \(different: alpha, max_episodes\): a plan is not changed'):
        PilotResults(tmp_path, load_plan(plan_file(alpha=0.1, max_episodes=120)))


@pytest.mark.parametrize('damage', ['no json', '[1]', '{"number": 0}', '{"number": "x", "label": "A"}'])
def test_a_damaged_line_is_named(tmp_path, plan_file, damage):
    plan = load_plan(plan_file())
    results = PilotResults(tmp_path, plan)
    results.append(EPISODE)
    with results.path.open('a') as file:
        file.write(damage + '\n')
    with pytest.raises(UserError, match=r'results\.jsonl: line 3 is damaged'):
        PilotResults(tmp_path, plan)


@pytest.mark.parametrize('numbers', [(0, 2), (0, 0), (1,)])
def test_an_episode_that_is_missing_or_there_twice_is_named(tmp_path, plan_file, numbers):
    plan = load_plan(plan_file())
    results = PilotResults(tmp_path, plan)
    for number in numbers:
        results.append(replace(EPISODE, number=number))
    with pytest.raises(UserError, match=f'line {len(numbers) + 1} is of episode {numbers[-1]}, not'):
        PilotResults(tmp_path, plan)


@pytest.mark.parametrize(('changes', 'criterion', 'success'), [
    ({}, SuccessCriterion(), True),
    ({'reached': False}, SuccessCriterion(), False),
    ({}, SuccessCriterion(max_turns=2, max_cycle_s=12.5, max_interventions=0, max_gate_hits=0), True),
    ({}, SuccessCriterion(max_turns=1), False),
    ({}, SuccessCriterion(max_cycle_s=12.4), False),
    ({'rejections': 1}, SuccessCriterion(max_interventions=0), False),
    ({'gate_hits': 1}, SuccessCriterion(max_gate_hits=0), False),
])
def test_an_episode_is_a_success_by_what_the_plan_had_fixed(changes, criterion, success):
    assert replace(EPISODE, **changes).succeeds(criterion) is success
