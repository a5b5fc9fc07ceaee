"""Thoughts against what the simulator knows."""

from dataclasses import replace

import numpy as np
import pytest

from sim_worlds.expert import demonstrate
from sim_worlds.world import CellWorld
from training.commands import Command
from training.episodes import Turn
from training.thought_guard import corrections, grounding_rate, is_grounded
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.policy.policy import PolicyInput
from vlm_agent_ros.types import EpisodeRequest, Outcome

TRUE = 'red cube at 10 20 , blue pad at 30 05 , gripper open , so pick 10 20'
FALSE = 'red cube at 40 20 , blue pad at 30 05 , gripper open , so pick 40 20'


@pytest.mark.parametrize(('thought', 'grounded'), [
    (TRUE, True), (TRUE.replace('10 20', '12 18'), True), (TRUE.replace('10 20', '13 20'), False),
    (TRUE.replace('red', 'blue'), False), (TRUE.replace('open', 'holding'), False), ('', False), (FALSE, False),
])
def test_a_thought_is_true_if_its_words_are_and_its_cells_are_near(thought, grounded):
    assert is_grounded(thought, TRUE) is grounded


@pytest.fixture(scope='module')
def policy():
    return load_policy('tiny_vlm')


def turn(policy, thought, *, image=0, truth=TRUE):
    outcome = Outcome(0.0, False, False, False, 0, 1, 0, {}, truth, 'pick 10 20')
    decision = replace(policy.written('{"thoughts": "x", "action": "pick 00 00"}'), thought=thought)
    return Turn(PolicyInput(np.full((128, 128, 3), image, np.uint8), 'task'), decision, Command(None), 0.0, outcome)


def test_false_thoughts_are_corrected_once_per_observation(policy):
    turns = [turn(policy, FALSE), turn(policy, FALSE), turn(policy, TRUE), turn(policy, FALSE, image=9)]
    found = corrections(turns, policy)
    assert [c is not None for c in found] == [True, False, False, True]
    assert (found[0].thought, found[0].action, found[0].legal) == (TRUE, 'pick 10 20', True)
    assert grounding_rate(turns) == 0.25


def test_nothing_is_corrected_where_no_simulator_knows_the_truth(policy):
    turns = [turn(policy, FALSE, truth='')]
    assert corrections(turns, policy) == [None]
    assert grounding_rate(turns) is None


def test_the_true_thought_can_be_written_under_the_grammar(policy):
    said = corrections([turn(policy, FALSE)], policy)[0]
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
