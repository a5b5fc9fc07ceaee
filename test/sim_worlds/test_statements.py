"""What the world says of its scene, and which thoughts agree with it."""

import dataclasses
import re

import numpy as np
import pytest

from sim_worlds.expert import demonstrate, narrate, projected
from sim_worlds.statements import judge, true_statements
from sim_worlds.tasks import SceneState, make_task
from sim_worlds.truth import SceneTruth
from sim_worlds.world import CellWorld
from sim_worlds.world_file import load_world
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.types import EpisodeRequest

SCENE = ('red cube at 10 20 , red cube at 30 40 , blue cube held , green pad at 05 44 , '
         'white tray at 40 10 over 34.5 4.5 46.5 4.5 46.5 16.5 34.5 16.5 , '
         'table over 4.0 2.0 48.0 2.0 48.0 46.0 4.0 46.0 , gripper holding')


@pytest.mark.parametrize(('thought', 'verdicts'), [
    ('red cube at 10 20 , gripper holding , so place 10 20', [True, True, True]),
    ('red cube at 32 38 , so done', [True, True]),  # the other one of that name, within the tolerance
    ('red cube at 10 40', [False]),  # a column of one and a row of the other
    ('red cube at 33 40', [False]),
    ('white tray at 46 05 , so place 46 05', [True, True]),  # a spot in it
    ('white tray at 47 10', [False]),
    ('blue cube held , green pad at 05 44 , gripper holding , so place 05 44', [True] * 4),
    ('blue cube at 10 20 , red cube held , gripper open', [False, False, False]),
    ('purple cube at 10 20', [False]),
    ('pad at 05 44', [False]),
    ('red cube at 10 20 , so pick 30 40', [True, False]),  # that cube is there, but the thought has not said so
    ('red cube at 10 20 , so place 20 08', [True, True]),  # a free spot
    ('red cube at 10 20 , so place 33 37', [True, False]),  # too near to the other cube
    ('blue cube held , so place 36 06', [True, False]),  # in the tray, which the thought has not said
    ('blue cube held , so place 33 14', [True, False]),  # on its edge
    ('blue cube held , so place 02 20', [True, False]), ('blue cube held , so place 99 99', [True, False]),  # no table
    ('red cube at 10 20 within 99', [False]), ('red cube at \u0661\u0660 20', [False]),
    ('red cube at 10 20 , so push 10 20', [True, False]), ('red cube at 10 20 , so pick 10 20 left', [True, False]),
    ('red cube at 10 20 , so push 10 20 left', [True, True]),
    ('red cube at 10 20 , so pick 20 08', [True, False]),
    ('so done', [False]), ('so pick 10 20', [False]),
    # What is no action is no conclusion, whatever it says.
    ('red cube at 10 20 , so the red cube is held', [True, False]), ('red cube at 10 20 , so drop it', [True, False]),
    ('red cube at 10 20 , so pick 10 20 and the moon is green', [True, False]),
    ('I see a lovely table', [False]), ('', []), ('  ', []),
])
def test_every_statement_is_checked_against_the_scene(thought, verdicts):
    assert judge(thought, SCENE) == verdicts


def test_a_spot_of_a_pad_is_there_only_while_no_other_cube_lies_in_it():
    scene = ('red cube at 31 12 , red cube at 10 20 , red pad at 30 15 over 22.5 7.5 38.5 7.5 38.5 23.5 22.5 23.5 , '
             'gripper open')
    assert judge('red cube at 10 20 , red pad at 37 12', scene) == [True, True]
    assert judge('red cube at 10 20 , red pad at 30 14 , so pick 10 20', scene) == [True, False, True]
    # What is picked up makes room, even for itself on the same pad; one that lies on top of another does not.
    taken = 'red cube at 31 12 , red pad at 30 14'
    assert judge(f'{taken} , so pick 31 12', scene) == [True, True, True]
    assert judge(f'{taken} , so pick 31 12', f'red cube at 31 12 , {scene}') == [True, False, True]
    assert judge(f'{taken} , so place 30 14', scene) == [True, False, True], 'to be named makes no room'


def test_a_spot_of_a_tray_that_the_camera_sees_askew_is_inside_of_it_and_not_of_a_box_around_it():
    tray = 'white tray at 30 20 over 30.0 10.0 40.0 20.0 30.0 30.0 20.0 20.0'
    for corners in (tray, 'white tray at 30 20 over 20.0 20.0 30.0 30.0 40.0 20.0 30.0 10.0'):
        inside = [judge(f'white tray at {column:02d} {row:02d}', corners)[0]
                  for column, row in ((29, 19), (34, 14), (35, 15), (36, 12), (38, 11), (22, 28), (20, 19), (18, 19))]
        assert inside == [True, True, True, False, False, False, True, False]


def test_a_defect_is_part_of_what_a_part_is_called():
    scene = 'scratched red cube at 10 20 , red cube at 30 40 , gripper open'
    assert judge('red cube at 10 20 , so done', scene) == [False, True]
    assert judge('scratched red cube at 11 20 , so pick 11 20', scene) == [True, True]


def test_what_was_done_is_told_as_if_it_had_been_meant():
    world = CellWorld()
    observation = world.reset(EpisodeRequest(3, 'sort'))
    right = demonstrate(world.truth())
    target = right.thought.partition(' at ')[0]
    assert narrate(world.truth(), right.action) == f'{target} at {right.action[5:]} , gripper open , so {right.action}'
    assert narrate(world.truth(), 'pick 00 00') == 'gripper open , so pick 00 00'
    world.execute(SkillPlanner(world.cell).plan(SkillLanguage(48).parse(right.action), observation.joint_names,
                                                observation.joint_positions))
    assert narrate(world.truth(), 'place 24 24') == f'{target} held , gripper holding , so place 24 24'
    world.close()


def test_the_scene_names_every_item_where_it_is_aimed_at():
    world = CellWorld('shifted')
    world.reset(EpisodeRequest(3, 'place'))
    truth = world.truth()
    said = true_statements(truth).split(' , ')
    assert len(said) == len(truth.items) + 2 and said[-2].startswith('table over') and said[-1] == 'gripper open'
    for i, item in enumerate(truth.items):
        column, row = re.search(r'(\d\d) (\d\d)$', said[i]).groups()
        assert said[i].startswith(f'{item.name} at ')
        assert (int(column), int(row)) == tuple(int(value) for value in projected(truth, i))
    world.close()


@pytest.mark.parametrize('world', ['panda_table', 'shifted'])
@pytest.mark.parametrize('task', ['place', 'stack', 'sort', 'inspect'])
def test_the_expert_says_nothing_false_even_with_the_wrong_cube_in_hand(task, world):
    world = CellWorld(world)
    planner, language = SkillPlanner(world.cell), SkillLanguage(world.cell.grid)
    held = set()
    for seed in range(4):
        observation = world.reset(EpisodeRequest(seed, task))
        cubes = [i for i, item in enumerate(world.truth().items) if item.kind == 'cube']
        right = {assignment.target for assignment in world.truth().goal.assignments}
        wrong = next((i for i in cubes if i not in right), cubes[0])
        forced = ['pick {:02d} {:02d}'.format(*map(int, projected(world.truth(), wrong)))]
        ended = False
        while not ended:
            truth = world.truth()
            shown, scene = demonstrate(truth), true_statements(truth)
            held.add(None if truth.state.held is None else truth.state.held in right)
            assert all(judge(shown.thought, scene)), (shown.thought, scene)
            action = language.parse(forced.pop() if forced else shown.action)
            observation, outcome = world.execute(
                planner.plan(action, observation.joint_names, observation.joint_positions))
            assert outcome.scene == scene
            ended = outcome.terminated or outcome.truncated
    assert held >= ({None, True} if task == 'sort' else {None, True, False})
    world.close()


@pytest.mark.parametrize('task', ['stack', 'sort', 'inspect', 'clear'])
def test_the_experts_thoughts_are_true_in_tasks_of_several_turns(task):
    world = CellWorld('shifted')
    planner, language = SkillPlanner(world.cell), SkillLanguage(world.cell.grid)
    observation = world.reset(EpisodeRequest(5, task))
    ended = False
    while not ended:
        shown, scene = demonstrate(world.truth()), true_statements(world.truth())
        assert all(judge(shown.thought, scene)), (shown.thought, scene)
        action = language.parse(shown.action)
        observation, outcome = world.execute(planner.plan(action, observation.joint_names, observation.joint_positions))
        ended = outcome.terminated or outcome.truncated
    world.close()


VIEWS = {'as shipped': (48, (0.85, 0.0, 0.85)), 'coarse cells': (24, (0.85, 0.0, 0.85)),
         'fine cells': (96, (0.85, 0.0, 0.85)), 'from behind the arm': (48, (-0.2, 0.3, 0.9))}


def clearing(cell, view, seed):
    """A scene of ``clear`` as a camera sees it, and the state after each cube was put where the expert says."""
    grid, position = VIEWS[view]
    cell = dataclasses.replace(cell, grid=grid, camera=dataclasses.replace(cell.camera, position=position))
    task, rng = make_task('clear'), np.random.default_rng(seed)
    items = task.draw_items(load_world('panda_table'), rng)
    goal = task.draw_goal(items, task.instructions, rng)
    positions = np.array([[*item.position, item.size / 2] for item in items])
    while True:
        yield SceneTruth(task, goal, tuple(items), SceneState(positions.copy(), None, 0.0), cell, 'open')
        pending = task.pending(goal, items, SceneState(positions, None, 0.0))
        if not pending:
            return
        spot = task.spot(pending[0], items, SceneState(positions, None, 0.0))
        positions[pending[0].target, :2] = cell.cell_to_table(*cell.point_to_cell([*spot[:2], 0.022]))[:2]


@pytest.mark.parametrize('view', VIEWS)
def test_the_experts_thoughts_are_true_however_large_or_askew_the_cells_are(cell, view):
    for seed in range(12):
        for truth in clearing(cell, view, seed):
            shown, scene = demonstrate(truth), true_statements(truth)
            assert all(judge(shown.thought, scene)), (seed, shown.thought, scene)


@pytest.mark.parametrize('view', VIEWS)
def test_a_spot_is_taken_where_two_cubes_would_overlap_whatever_the_camera_sees_of_it(cell, view):
    """Against distances on the table, which the judge of a thought does not know."""
    rng, counts = np.random.default_rng(0), {True: 0, False: 0}
    for seed in range(12):
        *_, truth = clearing(cell, view, seed)
        scene, tray = true_statements(truth), len(truth.items) - 1
        for _ in range(20):
            aim = truth.state.positions[tray] + [*rng.uniform(-0.09, 0.09, 2), 0.0]
            column, row = truth.cell.point_to_cell([*aim[:2], 0.022])
            spot = truth.cell.cell_to_table(column, row)
            if np.abs(spot - truth.state.positions[tray])[:2].max() > 0.09:
                continue
            nearest = min(np.abs(spot - cube)[:2].max() for cube in truth.state.positions[:tray])
            free, _ = judge(f'white tray at {column:02d} {row:02d} , so done', scene)
            assert free if nearest > 0.045 else True, 'nothing would overlap'
            assert not free if nearest < 0.02 else True, 'most of a cube lies there'
            counts[free] += 1
    assert min(counts.values()) > 20
