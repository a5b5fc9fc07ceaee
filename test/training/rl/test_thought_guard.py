"""Thoughts against what the simulator knows."""

from dataclasses import replace

import numpy as np
import pytest

from sim_worlds.expert import demonstrate
from sim_worlds.statements import conclusion
from sim_worlds.world import CellWorld
from training.rl.thought_guard import corrections, earned, grounding_metrics, is_grounded, thought_collapse
from training.worlds.commands import Command
from training.worlds.episodes import Episode, Slot, Turn
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.policy.policy import PolicyInput
from vlm_agent_ros.types import EpisodeRequest, Outcome

TRUE = 'red cube at 10 20 , blue pad at 30 05 , gripper open , so pick 10 20'
FALSE = 'red cube at 40 20 , blue pad at 30 05 , gripper open , so pick 40 20'


SCENE = 'red cube at 10 20 , blue pad at 30 05 , green cube at 20 30 , gripper open'


@pytest.mark.parametrize(('thought', 'grounded'), [
    (TRUE, True), ('green cube at 20 30 , gripper open , so pick 20 30', True), (TRUE.replace('10 20', '13 20'), False),
    (TRUE.replace('red', 'blue'), False), ('', False), ('so done', False), (FALSE, False)])
def test_a_thought_is_grounded_if_it_says_something_and_nothing_false(thought, grounded):
    assert is_grounded(thought, SCENE) is grounded


@pytest.fixture(scope='module')
def policy():
    return load_policy('tiny_vlm')


def turn(policy, thought, *, image=0, action=None, truth=TRUE, scene=SCENE):
    outcome = Outcome(0.0, False, False, False, 0, 1, 0, {}, truth, 'pick 10 20', scene)
    decision = replace(policy.written('{"thoughts": "x", "action": "pick 00 00"}'), thought=thought,
                       action=conclusion(thought) if action is None else action)
    return Turn(PolicyInput(np.full((128, 128, 3), image, np.uint8), 'task'), decision, Command(None), 0.0, outcome)


def test_false_thoughts_are_corrected_once_per_observation(policy):
    turns = [turn(policy, FALSE), turn(policy, FALSE), turn(policy, TRUE), turn(policy, FALSE, image=9)]
    found = corrections(turns, policy)
    assert [c is not None for c in found] == [True, False, False, True]
    said = found[0].said
    assert (said.thought, said.action, said.legal) == (TRUE, 'pick 10 20', True)
    assert (found[0].learned == said.thought_mask).all()  # the action is left to the reward
    # One statement of four is false; the conclusion follows from it all the same.
    assert grounding_metrics(turns) == {'grounded': 0.25, 'grounded_statements': (3 * 3 + 4) / 16, 'faithful': 1.0}


def test_the_guard_of_every_thought_also_corrects_what_led_nowhere_and_confirms_the_rest(policy):
    other = 'green cube at 20 30 , gripper open , so pick 20 30'  # true, and not what the expert would do
    moved = turn(policy, other, image=9)
    moved.outcome = replace(moved.outcome, kpi={'progress': 0.25})
    turns = [turn(policy, TRUE), turn(policy, other), moved, turn(policy, FALSE, image=7)]
    found = corrections(turns, policy, every=True)
    assert [c and c.said.thought for c in found] == [TRUE, None, other, TRUE]  # the second sees what the first saw
    assert all(c.learned.all() for c in found if c)  # with the action that each comes to
    assert [c and c.said.thought for c in corrections(turns[1:2], policy, every=True)] == [TRUE]
    assert corrections(turns[:3], policy) == [None, None, None]


def test_an_action_that_is_not_what_a_true_thought_comes_to_is_corrected_to_it(policy):
    other = 'green cube at 20 30 , gripper open , so pick 20 30'  # true, if not what the expert would do
    turns = [turn(policy, TRUE, action='pick 10 10'), turn(policy, other, action='pick 20 20'), turn(policy, other),
             turn(policy, FALSE, action='pick 10 20', image=9)]
    found = corrections(turns, policy)
    assert [(c.said.thought, c.said.action) if c else None for c in found] == [
        (TRUE, 'pick 10 20'), (other, 'pick 20 30'), None, (TRUE, 'pick 10 20')]
    assert (found[0].learned == ~found[0].said.thought_mask).all()  # the thought is as it should be
    assert (found[3].learned == found[3].said.thought_mask).all()
    assert grounding_metrics(turns)['faithful'] == 0.25


def test_a_thought_that_comes_to_no_action_leaves_it_alone_and_one_that_comes_to_nonsense_is_false(policy):
    turns = [turn(policy, 'gripper open', action='pick 10 20'),
             turn(policy, 'red cube at 10 20 , so grab 10 20', action='pick 10 20')]
    without, nonsense = corrections(turns, policy)
    assert without is None and nonsense.said.thought == TRUE


def test_nothing_is_corrected_where_no_simulator_knows_the_truth(policy):
    turns = [turn(policy, FALSE, truth='', scene='')]
    assert corrections(turns, policy) == [None]
    assert grounding_metrics(turns) == {}


def test_a_policy_without_thoughts_is_not_taught_any():
    silent = load_policy('tiny_vlm', cot=False)
    assert corrections([turn(silent, '')], silent) == [None]


def test_thoughts_collapse_where_they_are_the_same_for_another_scene(policy):
    def episode(seed, *turns):
        return Episode(0, Slot(EpisodeRequest(seed, 'place'), (0,)), turns=list(turns))

    def collapse(*episodes):
        return thought_collapse(episodes)['thought_collapse']

    one, same, later = (turn(policy, TRUE, image=image) for image in (0, 0, 1))
    assert collapse(episode(1, one, later)) == 0.0  # the same scene, a moment later
    assert collapse(episode(1, one), episode(2, same)) == 0.0  # another seed, but nothing else to be seen
    assert collapse(episode(1, one, turn(policy, FALSE, image=1)), episode(2, later)) == pytest.approx(2 / 3)
    assert not thought_collapse([episode(1, turn(policy, '', image=0)), episode(2, turn(policy, '', image=1))])


def test_the_true_thought_can_be_written_under_the_grammar(policy):
    said = corrections([turn(policy, FALSE)], policy)[0].said
    inputs = PolicyInput(np.zeros((128, 128, 3), np.uint8), 'task')
    log_probs = policy.evaluate([inputs], [said], 1.0).logprobs
    assert bool((log_probs > -100.0).all())


def test_the_outcome_says_what_the_expert_saw_before_the_turn():
    world = CellWorld()
    world.reset(EpisodeRequest(11, 'place'))
    shown = demonstrate(world.truth())
    _, outcome = world.execute(None)
    assert (outcome.expert_thought, outcome.expert_action) == (shown.thought, shown.action)
    world.close()


def test_what_earned_more_than_expected_is_taught_by_how_much_and_nothing_else(policy):
    written, nonsense = policy.written('{"thoughts": "red cube", "action": "pick 10 20"}'), policy.written('pick it')
    found = earned([written, written, written, nonsense], [0.5, 0.0, -2.0, 1.0], policy)
    assert [right is not None for right in found] == [True, False, False, False]
    assert (found[0].said.thought, found[0].said.action) == ('red cube', 'pick 10 20')
    assert (found[0].learned == 0.5).all() and len(found[0].learned) == len(found[0].said.token_ids)


def test_what_a_random_action_earned_in_place_of_one_that_was_not_admissible_is_not_taught(policy):
    written = policy.written('{"thoughts": "red cube", "action": "pick 10 20"}')
    assert earned([replace(written, legal=False)], [0.5], policy) == [None]
