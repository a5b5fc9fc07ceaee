"""The simulated cell: physical grasps, honest predicates, rewards that add up, time that never runs back."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sim_worlds.expert import demonstrate, projected
from sim_worlds.world import CellWorld, _set_points
from sim_worlds.world_file import load_world
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.types import EpisodeRequest, Trajectory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', params=['panda_table', 'shifted'])
def world(request):
    world = CellWorld(request.param)
    yield world
    world.close()


def act(world, observation, action):
    planner, language = SkillPlanner(world.cell), SkillLanguage(world.cell.grid)
    return world.execute(planner.plan(language.parse(action), observation.joint_names, observation.joint_positions))


def play(world, seed, task):
    observation = world.reset(EpisodeRequest(seed, task))
    outcomes = []
    while not outcomes or not (outcomes[-1].terminated or outcomes[-1].truncated):
        observation, outcome = act(world, observation, demonstrate(world.truth()).action)
        outcomes.append(outcome)
    return outcomes


@pytest.mark.parametrize('task', CellWorld.tasks)
def test_expert_succeeds(world, task):
    seeds = range(3 if task in world.config.turn_limits else 10)
    assert all(play(world, seed, task)[-1].success for seed in seeds)


@pytest.mark.parametrize('task', ['place', 'inspect'])
def test_reward_is_the_weighted_sum_of_the_kpi_terms(world, task):
    for outcome in play(world, 1, task):
        expected = sum(weight * outcome.kpi.get(name, 0.0) for name, weight in world.config.reward.items())
        assert outcome.reward == pytest.approx(expected, abs=1e-12)


def test_a_grasp_beside_every_cube_holds_nothing_and_earns_less(world):
    good = play(world, 4, 'pick')[0]
    observation = world.reset(EpisodeRequest(4, 'pick'))
    truth = world.truth()
    column, row = (int(v) for v in projected(truth, truth.goal.assignments[0].target))
    _, miss = act(world, observation, f'pick {column:02d} {min(row + 5, 47):02d}')
    assert not miss.success and world.truth().state.held is None
    assert miss.reward < good.reward and 0.0 < miss.kpi['precision'] < good.kpi['precision']


def test_another_try_earns_the_precision_that_it_is_better_by_and_costs_what_it_is_worse_by(world):
    expert = play(world, 4, 'place')
    observation = world.reset(EpisodeRequest(4, 'place'))
    truth = world.truth()
    column, row = (int(v) for v in projected(truth, truth.goal.assignments[0].target))
    beside, right = (f'pick {column:02d} {r:02d}' for r in (min(row + 5, 47), row))
    earned = []
    for action in (beside, beside, '', right):
        observation, outcome = act(world, observation, action) if action else stand_by(world, observation, action)
        earned.append(outcome.kpi['precision'])
    assert world.truth().state.held == truth.goal.assignments[0].target
    assert 0.0 < earned[0] < 0.8 and abs(earned[1]) < 0.05 and earned[2] == pytest.approx(-sum(earned[:2]))
    assert sum(earned) == pytest.approx(expert[0].kpi['precision'], abs=0.05)


def stand_by(world, observation, action):
    return world.execute(SkillPlanner(world.cell).hold(observation.joint_names, observation.joint_positions))


def reach_for_it_with_the_gripper_closed(world, observation, action):
    return act(world, observation, action.replace('pick', 'place'))


def put_back_and_take_again(world, observation, action):
    observation, taken = act(world, observation, action)
    held = world.truth().state.held
    if held is None or taken.terminated:
        return observation, taken
    observation, back = act(world, observation, action.replace('pick', 'place'))
    return observation, dataclasses.replace(back, reward=taken.reward + back.reward)


@pytest.mark.parametrize('dawdle', [stand_by, reach_for_it_with_the_gripper_closed, put_back_and_take_again])
@pytest.mark.parametrize('task', CellWorld.tasks)
def test_without_a_discount_nothing_earns_more_than_doing_the_task_at_once(world, task, dawdle):
    seed = next(s for s in range(1, 40) if world.reset(EpisodeRequest(s, task)) and world.truth().goal.assignments)
    expert = play(world, seed, task)
    observation = world.reset(EpisodeRequest(seed, task))
    spare, outcomes = world.config.turn_limits.get(task, world.config.turn_limit) - len(expert), []
    while not outcomes or not (outcomes[-1].terminated or outcomes[-1].truncated):
        action, before = demonstrate(world.truth()).action, outcomes[-1].turn if outcomes else 0
        lazy = spare >= 2 and action.startswith('pick')
        observation, outcome = (dawdle if lazy else act)(world, observation, action)
        outcomes.append(outcome)
        spare -= (outcome.turn - before) if lazy else 0
    late, at_once = (sum(outcome.reward for outcome in outcomes) for outcomes in (outcomes, expert))
    assert late < at_once or outcomes[-1].turn == len(expert)


def test_the_wrong_cube_in_the_gripper_is_no_success_and_is_counted(world):
    observation = world.reset(EpisodeRequest(6, 'pick'))
    truth = world.truth()
    right = truth.goal.assignments[0].target
    wrong = next(i for i, item in enumerate(truth.items) if item.kind == 'cube' and i != right)
    _, outcome = act(world, observation, 'pick {:02d} {:02d}'.format(*(int(v) for v in projected(truth, wrong))))
    assert not outcome.success and outcome.kpi['wrong_object'] == 1.0


def test_objects_appear_where_the_calibrated_camera_says(world):
    """The error that remains is the camera jitter of the world file and half a cell."""
    world.reset(EpisodeRequest(2, 'place'))
    truth, image = world.truth(), world.observe().image.astype(float)
    background = np.median(image.reshape(-1, 3), axis=0)
    for i, item in enumerate(truth.items):
        if item.kind == 'pad':
            u, v = world.cell.camera.project(truth.state.positions[i])
            patch = image[int(v) - 1:int(v) + 2, int(u) - 1:int(u) + 2].reshape(-1, 3).mean(0)
            assert np.abs(patch - background).max() > 20


def test_time_is_monotonic_over_resets(world):
    stamps = [world.reset(EpisodeRequest(seed, 'pick')).stamp_ns for seed in (1, 1, 2)]
    assert stamps == sorted(stamps) and len(set(stamps)) == 3


def test_unknown_task_and_world_are_refused_by_name(world):
    with pytest.raises(UserError, match="no task named 'juggle'"):
        world.reset(EpisodeRequest(0, 'juggle'))
    with pytest.raises(UserError, match='no worlds file named'):
        world.reset(EpisodeRequest(0, 'pick', 'atlantis'))


def test_a_world_file_that_names_its_own_path_is_refused_as_any_unknown_key(tmp_path):
    path = tmp_path / 'world.yaml'
    path.write_text(Path(load_world('panda_table').path).read_text() + 'path: elsewhere.yaml\n')
    with pytest.raises(UserError, match="unknown key 'path'"):
        load_world(str(path))


def write_world(folder, name, cell='panda_table', **robot):
    """A world file of two colours, beside a cell file of its own with another robot section."""
    content = yaml.safe_load(Path('config/cells', f'{cell}.yaml').read_text())
    content['robot'].update(robot, urdf='panda.urdf')
    (folder / f'{name}_cell.yaml').write_text(yaml.safe_dump(content))
    path = folder / f'{name}.yaml'
    path.write_text(f'name: {name}\ncell: {folder}/{name}_cell.yaml\nobjects: {{cubes: 2, pads: 2, '
                    'palette: {red: [1, 0, 0], green: [0, 1, 0]}}\n')
    return str(path)


@pytest.mark.parametrize(('robot', 'split', 'told'), [
    ({}, 'unseen-combination', 'no scene of task sort'),
    ({'tool_frame': 'panda_nose'}, '', "'panda_nose' is no joint")])
def test_a_request_that_is_refused_leaves_the_episode_as_it_is(world, tmp_path, robot, split, told):
    observation = world.reset(EpisodeRequest(3, 'pick'))
    before, cell = demonstrate(world.truth()), world.cell
    with pytest.raises(UserError, match=told):
        world.reset(EpisodeRequest(0, 'sort', write_world(tmp_path, 'odd', **robot), split))
    assert world.idle(0.1).task == observation.task and world.cell is cell
    assert demonstrate(world.truth()) == before
    _, outcome = act(world, observation, before.action)
    assert outcome.success and (outcome.seed, outcome.turn) == (3, 1)


def test_a_gripper_of_two_commanded_joints_is_refused_with_the_key(world, tmp_path):
    limits = {key: [1.0] * 9 for key in ('max_velocity', 'max_acceleration', 'max_jerk')}
    path = write_world(tmp_path, 'odd', gripper_joints=['panda_finger_joint1', 'panda_finger_joint2'], **limits)
    with pytest.raises(UserError, match=r'odd_cell\.yaml: robot\.gripper_joints names 2 joints.*name one'):
        world.reset(EpisodeRequest(0, 'pick', path))


def test_large_pads_and_trays_have_to_lie_within_reach_where_a_file_says_where_they_lie(tmp_path):
    cell = yaml.safe_load(Path('config/cells/panda_table.yaml').read_text())
    cell['robot']['urdf'], cell['workspace']['high'][0] = 'panda.urdf', 0.66
    (tmp_path / 'cell.yaml').write_text(yaml.safe_dump(cell))
    path = tmp_path / 'world.yaml'
    path.write_text(f'name: narrow\ncell: {tmp_path}/cell.yaml\n'
                    'objects: {cubes: 1, pads: 1, palette: {red: [1, 0, 0]}}\n')
    assert load_world(str(path)).objects.span_high[0] == 0.68  # which pick and place do without
    path.write_text(path.read_text().replace('objects: {', 'objects: {span_high: [0.67, 0.2], '))
    with pytest.raises(UserError, match=r'span_low … span_high goes from 0\.35 to 0\.67 m in x'):
        load_world(str(path))


def test_world_file_with_a_reversed_range_is_refused(tmp_path):
    path = tmp_path / 'bad.yaml'
    text = Path(load_world('panda_table').path).read_text()
    path.write_text(text.replace('cube_size: [0.042, 0.048]', 'cube_size: [0.048, 0.042]'))
    with pytest.raises(UserError, match='cube_size'):
        load_world(str(path))


def test_set_points_interpolate_position_and_velocity_and_end_at_the_last_point():
    times = np.array([0, 500_000_000, 1_000_000_000])
    positions = np.array([[0.0], [0.25], [1.0]])  # x = t², v = 2t, which a cubic reproduces exactly
    trajectory = Trajectory(('j',), times, positions, np.array([[0.0], [1.0], [2.0]]))
    where, speed = _set_points(trajectory)
    t = np.arange(1, 121) / 120
    np.testing.assert_allclose(where[:, 0], t**2, atol=1e-12)
    np.testing.assert_allclose(speed[:, 0], 2 * t, atol=1e-12)


def test_a_world_prints_nothing_and_leaves_nothing_behind_when_it_is_killed(tmp_path):
    code = ('import os; from sim_worlds.world import CellWorld; from vlm_agent_ros.types import EpisodeRequest\n'
            "CellWorld().reset(EpisodeRequest(1, 'pick')); os.kill(os.getpid(), 9)")
    environment = {**os.environ, 'TMPDIR': str(tmp_path)}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, cwd=ROOT, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-9, b'', b'')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('task', 'objects', 'told'), [
    ('sort', 'palette: {red: [1, 0, 0]}', 'palette has too few colours'),
    ('inspect', 'palette: {red: [1, 0, 0]}', 'palette has too few colours'),
    ('stack', 'palette: {red: [1, 0, 0]}', 'stack needs 2'),
    ('clear', 'span_high: [0.5, 0.2]\n  palette: {red: [1, 0, 0]}', 'span_low'),
    ('sort', 'span_high: [0.55, 0.0]\n  palette: {red: [1, 0, 0], blue: [0, 0, 1]}', 'do not fit'),
    ('pick', 'area_high: [0.42, -0.18]\n  palette: {red: [1, 0, 0]}\n  distractors: [4, 4]', 'do not fit.*area_low'),
    ('place', 'area_high: [0.45, -0.13]\n  gap: 0.05\n  distractors: [0, 0]\n  pad_size: [0.2, 0.2]\n  '
     'palette: {red: [1, 0, 0]}', 'its goal reached.*pad_size'),
    ('pick', 'area_low: [0.05, -0.2]\n  palette: {red: [1, 0, 0]}', 'area_low.*from 0.05 to 0.65 m in x.*from 0.25'),
    ('sort', 'span_high: [0.68, 0.7]\n  palette: {red: [1, 0, 0]}', 'span_low.*from -0.2 to 0.7 m in y.*to 0.4'),
])
def test_a_world_file_that_a_task_cannot_use_is_refused_with_the_key(tmp_path, task, objects, told):
    path = tmp_path / 'odd.yaml'
    path.write_text(f'name: odd\nobjects:\n  cubes: 1\n  pads: 1\n  {objects}\n')
    with pytest.raises(UserError, match=rf'odd\.yaml.*{told}'):
        world = CellWorld(str(path))
        world.reset(EpisodeRequest(0, task))


def test_no_episode_begins_with_its_goal_reached(tmp_path):
    path = tmp_path / 'odd.yaml'
    path.write_text('name: odd\nobjects: {cubes: 1, pads: 1, gap: 0.05, pad_size: [0.2, 0.2], area_low: [0.45, -0.08], '
                    'area_high: [0.6, 0.08], palette: {red: [1, 0, 0]}}\n')
    world = CellWorld(str(path))
    for seed in range(8):
        world.reset(EpisodeRequest(seed, 'place'))
        _, outcome = world.execute(None)
        assert not outcome.terminated, seed
    world.close()


def test_a_task_may_weigh_its_terms_otherwise(tmp_path):
    text = Path('config/worlds/panda_table.yaml').read_text()
    path = tmp_path / 'odd.yaml'
    path.write_text(text.split('task_rewards:')[0] + 'task_rewards: {sort: {cost: -7.0}}\n')
    costs = {}
    for task in ('sort', 'pick'):
        world = CellWorld(str(path))
        world.reset(EpisodeRequest(1, task))
        _, outcome = world.execute(None)
        costs[task] = outcome.reward
    assert costs == {'sort': -7.0, 'pick': -0.05}


def test_a_world_file_without_rewards_and_turn_limits_has_those_of_the_shipped_cell(tmp_path):
    path, shipped = tmp_path / 'odd.yaml', load_world('panda_table')
    content = 'name: odd\nobjects: {cubes: 1, pads: 1, palette: {red: [1, 0, 0]}}\n'
    path.write_text(content)
    plain = load_world(str(path))
    assert plain.reward == shipped.reward and plain.task_rewards == shipped.task_rewards
    assert plain.turn_limits == shipped.turn_limits
    path.write_text(content + 'reward: {success: 2.0}\nturn_limits: {sort: 20}\n')
    own = load_world(str(path))
    assert own.reward == {'success': 2.0} and own.task_rewards == {}
    assert own.turn_limits == {**shipped.turn_limits, 'sort': 20}
    path.write_text(content + 'turn_limits: 7\n')
    with pytest.raises(UserError, match='turn_limits'):
        load_world(str(path))


@pytest.mark.parametrize(('rewards', 'told'), [
    ('{juggle: {cost: 1.0}}', r'odd\.yaml: task_rewards names .juggle'),
    ('{sort: {fame: 1.0}}', r'odd\.yaml: reward names .fame')])
def test_weights_of_a_task_or_term_that_does_not_exist_are_refused(tmp_path, rewards, told):
    path = tmp_path / 'odd.yaml'
    path.write_text(f'name: odd\ntask_rewards: {rewards}\n'
                    'objects: {cubes: 1, pads: 1, palette: {red: [1, 0, 0]}}\n')
    with pytest.raises(UserError, match=told):
        CellWorld(str(path))


@pytest.mark.parametrize(('limits', 'told'), [
    ('{place: 0}', 'turn_limits.place is 0'), ('{juggle: 5}', r'odd\.yaml: turn_limits names .juggle')])
def test_a_turn_limit_that_makes_no_sense_is_refused(tmp_path, limits, told):
    path = tmp_path / 'odd.yaml'
    path.write_text(f'name: odd\nturn_limits: {limits}\nobjects: {{cubes: 1, pads: 1, palette: {{red: [1, 0, 0]}}}}\n')
    with pytest.raises(UserError, match=told):
        CellWorld(str(path))
