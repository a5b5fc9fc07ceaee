"""An operator who guides the arm shows an action, by the geometry of the cell alone."""

import numpy as np
import pytest

from training.from_cell.decisions import read_logs
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion.demonstration import demonstrated_action

from .conftest import Said, lit


def motion(planner, language, action, observation):
    """What the planner would do for an action, as measured joint states."""
    trajectory = planner.plan(language.parse(action), observation.joint_names, observation.joint_positions)
    return trajectory.select(observation.joint_names).positions


@pytest.mark.parametrize('action', ['pick 24 24', 'pick 30 18', 'pick 16 28'])
def test_the_motion_of_a_pick_shows_that_pick(cell, planner, kinematics, at_home, action):
    language = SkillLanguage(cell.grid)
    states = motion(planner, language, action, at_home)
    assert demonstrated_action(cell, kinematics, states) == action
    closed = states[states[:, -1] < 0.02]
    assert demonstrated_action(cell, kinematics, [states[0], closed[0]]) == action  # the two ends are enough


def test_a_gripper_that_opens_shows_a_place_where_it_opened_and_not_where_the_arm_went_then(cell, planner, kinematics,
                                                                                           at_home):
    states = motion(planner, SkillLanguage(cell.grid), 'pick 30 18', at_home)
    states[:, -1] = np.where(states[:, -1] > 0.037, 0.02, 0.04)  # it holds something, and lets go of it
    assert demonstrated_action(cell, kinematics, [*states, np.array([*cell.robot.home, 0.04])]) == 'place 30 18'


def test_a_demonstration_that_shows_nothing_is_refused_with_the_remedy(cell, kinematics):
    home = np.array([*cell.robot.home, 0.04])
    with pytest.raises(UserError, match='neither closed nor opened the gripper'):
        demonstrated_action(cell, kinematics, [home, home])
    away = home.copy()
    away[0] += 2.0
    with pytest.raises(UserError, match='which the camera does not see'):
        demonstrated_action(cell, kinematics, [away, np.array([*away[:-1], 0.02])])


def test_a_correction_that_was_only_shown_gets_its_action_from_joint_states(small_cell, write_log, planner, at_home):
    small = load_cell(str(small_cell.cell))
    states = motion(planner, SkillLanguage(48), 'pick 30 18', at_home)
    rng = np.random.default_rng(0)
    shown = {'action': '', 'demonstrated': True}
    log = write_log([Said(lit(rng, True), states=tuple(states[:5]), correction=shown),  # nothing is shown yet
                     Said(lit(rng, True), states=tuple(states), correction=shown)])
    file = next(log.glob('*.mcap'))
    data = read_logs([log, log, file], small, small_cell.policy().prompt, SkillLanguage(48))  # named twice, read once
    assert data.counts['decisions'] == 2
    first, second = data.episodes[0].decisions
    assert first.corrections == () and data.counts['with a correction outside the action language'] == 1
    assert second.corrections[0].action == 'pick 30 18' and second.corrections[0].demonstrated
