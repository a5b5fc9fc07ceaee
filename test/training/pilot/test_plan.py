"""Plans are checked before anything is started, and fix the order of the episodes."""

import re

import pytest

from training.pilot.plan import LABELS, Plan, load_plan
from vlm_agent_ros.errors import UserError


def test_every_block_has_each_checkpoint_equally_often_in_an_order_of_its_own():
    plan = Plan('one', 'other', ('place', 'pick'), block=4, seed=3)
    labels = [plan.label(number) for number in range(plan.max_episodes)]
    blocks = [tuple(labels[start:start + 4]) for start in range(0, len(labels), 4)]
    assert all(block.count('A') == 2 for block in blocks) and len(set(blocks)) == 6
    assert labels == [plan.label(number) for number in range(plan.max_episodes)]
    assert labels != [Plan('one', 'other', ('place', 'pick'), block=4, seed=4).label(n) for n in range(400)]
    assert [plan.task(number) for number in (0, 3, 4, 7, 8)] == ['place', 'place', 'pick', 'pick', 'place']
    assert sum(label == 'A' for label in labels[::4]) in range(30, 70)
    assert set(labels) == set(LABELS)


def test_the_digest_changes_with_everything_that_the_plan_says(plan_file):
    plan = load_plan(plan_file())
    assert plan.digest() == load_plan(plan_file()).digest()
    assert plan.digest() != load_plan(plan_file(stop={'max_stops': 3})).digest()
    assert plan.digest() != load_plan(plan_file(costs={'operator_per_hour': 1})).digest()


def test_the_shipped_example_is_a_sound_plan():
    plan = load_plan('example')
    assert plan.costs.operator_per_hour > 0 and plan.line == 'simulated'


@pytest.mark.parametrize(('changes', 'said'), [
    ({'colour': 'red'}, "unknown key 'colour'"),
    ({'stop': {'colour': 'red'}}, "stop: unknown key 'colour'"),
    ({'b': 'one'}, 'a and b are both one'),
    ({'alpha': 0}, 'alpha is 0, but must lie between 0 and 0.5'),
    ({'alpha': 0.7}, 'alpha is 0.7, but must lie between 0 and 0.5'),
    ({'beta': 1.0}, 'beta is 1'),
    ({'difference': 0.0}, 'difference is 0'),
    ({'tasks': []}, 'tasks is empty'),
    ({'block': 3}, 'block is 3, but must be even'),
    ({'max_episodes': 41}, 'multiple of block (2): set it to 42'),
    ({'max_episodes': 40, 'difference': 0.2}, r'shown in \d+% of pilots, but beta asks for 80%, for which about \d+ '),
    ({'max_episodes': 40, 'difference': 0.01}, 'more than 4000 are needed'),
    ({'line': 'conveyor'}, 'simulated, cell'),
    ({'costs': {'operator_per_hour': -1}}, 'costs: operator_per_hour is -1'),
])
def test_a_plan_that_cannot_decide_is_refused_in_one_sentence_that_names_the_file(plan_file, changes, said):
    path = plan_file(**changes)
    with pytest.raises(UserError) as error:
        load_plan(path)
    message = str(error.value)
    assert message.startswith(path) and message.count('\n') == 0
    assert said in message or re.search(said, message)
