"""What tasks with one and with many assignments ask for, credit and count."""

import numpy as np
import pytest

from sim_worlds.config import TERMS
from sim_worlds.expert import demonstrate
from sim_worlds.scene import Item
from sim_worlds.tasks import TASKS, Assignment, Goal, SceneState, make_task
from sim_worlds.truth import SceneTruth
from sim_worlds.world import CellWorld
from sim_worlds.world_file import load_world
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.types import EpisodeRequest

RED, BLUE, RED_PAD, BLUE_PAD = range(4)
SIZE = 0.045


def item(kind, colour, position, size=SIZE, defect=''):
    return Item(kind, colour, (0.5, 0.5, 0.5), size, position, 0.0, defect)


SCENE = (item('cube', 'red', (0.6, 0.1)), item('cube', 'blue', (0.6, -0.1)),
         item('pad', 'red', (0.45, 0.1), 0.15), item('pad', 'blue', (0.45, -0.1), 0.15))
SORTING = Goal('sort', (Assignment(RED, RED_PAD), Assignment(BLUE, BLUE_PAD)))


def state(items=SCENE, held=None, **moved):
    """The scene as drawn, with some items elsewhere: ``at_0=(x, y, z)``."""
    positions = np.array([(*i.position, i.size / 2 if i.kind == 'cube' else 0.0) for i in items])
    for name, where in moved.items():
        positions[int(name.removeprefix('at_'))] = where
    return SceneState(positions, held, 0.0)


ON_RED_PAD, LIFTED = (0.48, 0.06, SIZE / 2), (0.3, 0.0, 0.4)


def test_progress_is_the_share_of_assignments_and_a_half_step_while_one_of_them_is_held():
    sort = make_task('sort')

    def potential(**changes):
        return sort.potential(SORTING, SCENE, state(**changes))

    assert potential() == 0.0
    assert potential(held=BLUE, at_1=LIFTED) == 0.25
    assert potential(at_0=ON_RED_PAD) == 0.5
    assert potential(at_0=ON_RED_PAD, held=BLUE, at_1=LIFTED) == 0.75
    assert potential(held=RED, at_0=LIFTED) == 0.25, 'taking a sorted cube away again costs'
    assert potential(at_0=ON_RED_PAD, at_1=(0.45, -0.1, SIZE / 2)) == 1.0
    assert potential(at_0=(0.45, -0.1, SIZE / 2)) == 0.0, 'the pad of the other colour'


def test_any_item_that_has_to_move_is_as_right_as_the_experts_choice():
    sort = make_task('sort')
    for cube in (RED, BLUE):
        touch = state().positions[cube, :2]
        assert sort.precision(SORTING, SCENE, state(), touch) == 1.0
        assert not sort.wrong_object(SORTING, SCENE, state(), state(held=cube))
    assert sort.precision(SORTING, SCENE, state(at_0=ON_RED_PAD), np.array(ON_RED_PAD[:2])) < 0.2
    assert sort.wrong_object(SORTING, SCENE, state(at_0=ON_RED_PAD), state(held=RED))
    assert sort.precision(SORTING, SCENE, state(), None) == 0.0


def test_a_release_anywhere_on_the_right_container_is_precise():
    sort, held = make_task('sort'), state(held=RED, at_0=LIFTED)
    assert sort.precision(SORTING, SCENE, held, np.array([0.48, 0.12])) == 1.0
    assert sort.precision(SORTING, SCENE, held, np.array([0.48, 0.17])) < 1.0
    assert sort.precision(SORTING, SCENE, held, np.array([0.45, -0.1])) < 0.1


def test_the_expert_moves_the_leftmost_item_first_and_says_done_at_last(cell):
    def shown(**changes):
        return demonstrate(SceneTruth(make_task('sort'), SORTING, SCENE, state(**changes), cell, 'open'))

    first = shown()
    assert first.thought.startswith('blue cube at ') and first.action.startswith('pick ')
    assert first.thought.endswith(f'gripper open , so {first.action}')
    spot = first.thought.split('blue pad at ')[1][:5]
    assert shown(held=BLUE, at_1=LIFTED).thought.startswith(f'blue cube held , blue pad at {spot} ,')
    assert shown(held=BLUE, at_1=LIFTED).action == f'place {spot}'
    assert shown(held=RED, at_0=LIFTED).thought.startswith('red cube held , red pad at ')
    assert shown(at_0=ON_RED_PAD, at_1=(0.45, -0.1, SIZE / 2)).action == 'done'


def test_the_expert_aims_at_spots_that_leave_the_gripper_room():
    items = (*(item('cube', 'red', (0.6, 0.0)) for _ in range(5)), item('tray', 'white', (0.5, 0.0), 0.2))
    clear, spots = make_task('clear'), []
    for i in range(5):
        moved = {f'at_{j}': (*spot[:2], SIZE / 2) for j, spot in enumerate(spots)}
        spots.append(clear.spot(Assignment(i, 5), items, state(items, **moved)))
    for i, spot in enumerate(spots):
        assert np.abs(spot[:2] - (0.5, 0.0)).max() < (0.2 - SIZE) / 2
        assert all(abs(spot - other)[0] >= 0.06 or abs(spot - other)[1] >= 0.08 for other in spots[:i])


@pytest.mark.parametrize(('upper', 'held', 'stacked'), [
    ((0.605, -0.1, 1.5 * SIZE), None, True), ((0.605, -0.1, 1.5 * SIZE), RED, False),
    ((0.63, -0.1, 1.5 * SIZE), None, False), ((0.61, -0.1, 1.5 * SIZE + 0.02), None, False),
    ((0.6, 0.1, SIZE / 2), None, False),
])
def test_a_cube_is_stacked_if_it_rests_released_on_the_other_one(upper, held, stacked):
    goal = Goal('stack', (Assignment(RED, BLUE),))
    assert make_task('stack').success(goal, SCENE, state(at_0=upper, held=held)) is stacked


def test_a_goal_fails_with_any_item_that_it_needs():
    goal = Goal('stack', (Assignment(RED, BLUE),))
    fallen = (0.9, 0.0, -0.6)
    assert not make_task('stack').failed(goal, state())
    assert make_task('stack').failed(goal, state(at_0=fallen)) and make_task('stack').failed(goal, state(at_1=fallen))


@pytest.fixture(scope='module')
def line():
    world = CellWorld('panda_table')
    yield world
    world.close()


def start(world, seeds, wanted):
    """The first inspection with the wanted number of defective parts."""
    for seed in seeds:
        observation = world.reset(EpisodeRequest(seed, 'inspect'))
        if len(world.truth().goal.assignments) == wanted:
            return observation
    raise AssertionError('no such episode')


def act(world, observation, action):
    planner, language = SkillPlanner(world.cell), SkillLanguage(world.cell.grid)
    return world.execute(planner.plan(language.parse(action), observation.joint_names, observation.joint_positions))


@pytest.mark.parametrize('defective', [0, 2])
def test_an_inspection_ends_with_a_turn_without_motion_and_is_judged_then(line, defective):
    observation = start(line, range(40), defective)
    _, outcome = act(line, observation, 'done')
    assert outcome.terminated and not outcome.truncated
    assert outcome.success is (defective == 0)
    assert outcome.kpi['defect_passed'] == defective and outcome.kpi['false_alarm'] == 0.0
    assert outcome.kpi['precision'] == float(defective == 0)


def test_a_good_part_in_the_reject_tray_is_a_false_alarm_once_and_no_success(line):
    observation = start(line, range(40), 0)
    truth = line.truth()
    good = next(i for i, part in enumerate(truth.items) if part.kind == 'cube')
    tray = next(i for i, part in enumerate(truth.items) if part.kind == 'tray')
    alarms = []
    for skill, index in (('pick', good), ('place', tray)):
        column, row = truth.cell.point_to_cell(truth.state.positions[index])
        observation, outcome = act(line, observation, f'{skill} {column:02d} {row:02d}')
        alarms.append((outcome.kpi['false_alarm'], outcome.kpi['wrong_object'], outcome.terminated))
    assert alarms == [(0.0, 1.0, False), (1.0, 0.0, False)]
    _, outcome = act(line, observation, 'done')
    assert outcome.terminated and not outcome.success and outcome.kpi['false_alarm'] == 0.0


@pytest.mark.parametrize(('good', 'held', 'alarm'), [
    ((0.55, 0.05, SIZE / 2), None, True), ((0.5, 0.0, 1.5 * SIZE), None, True), ((0.9, 0.0, -0.6), None, True),
    ((0.5, 0.0, 0.3), 1, False), ((0.5, 0.2, SIZE / 2), None, False),
], ids=['in the tray', 'on a part in the tray', 'off the table', 'held above the tray', 'on the line'])
def test_a_good_part_that_is_no_longer_on_the_line_is_a_false_alarm_and_no_success(good, held, alarm):
    parts = (item('cube', 'red', (0.5, 0.0), defect='scratch'), item('cube', 'red', (0.5, 0.2)),
             item('tray', 'white', (0.5, 0.0), 0.2))
    inspect, goal = make_task('inspect'), Goal('inspect', (Assignment(0, 2),))
    before, after = state(parts), state(parts, held=held, at_1=good)
    assert inspect.terms(goal, parts, before, after, over=False)['false_alarm'] == float(alarm)
    assert inspect.terms(goal, parts, after, after, over=False)['false_alarm'] == 0.0
    assert inspect.success(goal, parts, before) and inspect.success(goal, parts, after) is not (alarm or held == 1)


def test_the_line_moves_on_at_the_turn_limit(line):
    observation = start(line, range(40), 1)
    for turn in range(1, line.config.turn_limits['inspect'] + 1):
        observation, outcome = act(line, observation, 'place 24 43')
        assert outcome.terminated is (turn == line.config.turn_limits['inspect']) and not outcome.truncated
    assert outcome.kpi['defect_passed'] == 1.0


def test_passing_a_defect_costs_more_than_a_false_alarm(line):
    assert line.config.reward['defect_passed'] < line.config.reward['false_alarm'] < 0.0


def test_the_expert_puts_a_good_part_back_on_the_table(line):
    start(line, range(40), 2)
    truth = line.truth()
    good = next(i for i, part in enumerate(truth.items) if part.kind == 'cube' and not part.defect)
    tray = next(part for part in truth.items if part.kind == 'tray')
    holding = SceneTruth(truth.task, truth.goal, truth.items,
                         SceneState(truth.state.positions, good, truth.state.table_z), truth.cell, 'holding')
    shown = demonstrate(holding)
    column, row = (int(word) for word in shown.action.split()[1:])
    offset = np.abs(truth.cell.cell_to_table(column, row)[:2] - tray.position)
    assert shown.action.startswith('place ') and offset.max() > (tray.size + SIZE) / 2


@pytest.mark.parametrize('task', sorted(TASKS))
def test_an_outcome_tells_every_term_that_a_world_file_may_weigh(task):
    world = CellWorld()
    world.reset(EpisodeRequest(0, task))
    _, outcome = world.execute(None)
    world.close()
    assert set(outcome.kpi) == {*TERMS, *TASKS[task].term_names}


def test_a_reward_for_a_term_that_no_task_has_is_refused(tmp_path):
    path = tmp_path / 'odd.yaml'
    path.write_text('name: odd\nreward: {sucess: 1.0}\nobjects: {cubes: 1, pads: 1, palette: {red: [1, 0, 0]}}\n')
    with pytest.raises(UserError, match=r"odd\.yaml: reward names 'sucess'"):
        load_world(str(path))
