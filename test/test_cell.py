"""The cell file is one consistent description of robot, camera and workspace."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vlm_agent_ros.actions import Pick, Place
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.config import find_config, resource_root
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import Kinematics, SkillPlanner
from vlm_agent_ros.safety import SafetyRules

CELLS = sorted((resource_root() / 'config' / 'cells').glob('*.yaml'))
PHYSICAL = ('franka_table', 'ur5e_table')


@dataclass(frozen=True)
class Measured:
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray


@pytest.fixture
def content(cell: Cell) -> dict[str, Any]:
    """What the shipped cell file says, to be spoilt."""
    return yaml.safe_load(Path(cell.path).read_text(encoding='utf-8'))


def load(folder: Path, content: dict[str, Any]) -> Cell:
    path = folder / 'mine.yaml'
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    return load_cell(str(path))


def shipped(path: Path, folder: Path) -> Cell:
    """A shipped cell; the camera of a physical one as if it had been calibrated."""
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    content['camera']['calibrated'] = True
    return load(folder, content)


@pytest.mark.parametrize('path', CELLS, ids=lambda path: path.stem)
def test_every_shipped_cell_loads_and_its_robot_fits_its_urdf(path: Path, tmp_path: Path) -> None:
    cell = shipped(path, tmp_path)
    kinematics = Kinematics(cell)
    home = np.array(cell.robot.home)
    assert (kinematics.arm_lower <= home).all()
    assert (home <= kinematics.arm_upper).all()
    tool, _ = kinematics.forward(home)
    assert (tool >= cell.workspace.low).all()
    assert (tool <= cell.workspace.high).all()


@pytest.mark.parametrize('path', CELLS, ids=lambda path: path.stem)
def test_image_cells_and_table_points_are_inverse_to_each_other(path: Path, tmp_path: Path) -> None:
    cell = shipped(path, tmp_path)
    for column in range(cell.grid):
        for row in range(cell.grid):
            point = cell.cell_to_table(column, row)
            assert point[2] == cell.workspace.plane_z
            assert cell.point_to_cell(point) == (column, row)


@pytest.mark.parametrize('name', PHYSICAL)
def test_a_physical_cell_is_refused_until_its_camera_is_calibrated(name: str) -> None:
    with pytest.raises(UserError, match=rf'{name}\.yaml: camera\.calibrated is false.*calibrate the camera'):
        load_cell(name)


@pytest.mark.parametrize('key', ['width', 'height', 'fov_deg', 'position', 'target'])
def test_a_calibration_that_was_left_out_is_asked_for(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    del content['camera'][key]
    with pytest.raises(UserError, match=rf"mine\.yaml: camera: key '{key}' is missing: add it \("):
        load(tmp_path, content)


@pytest.mark.parametrize('view', [
    {'position': [850.0, 0.0, 850.0], 'target': [520.0, 0.0, 0.0]},  # in millimetres
    {'target': [2.0, 0.0, 0.0]}, {'target': [0.85, 0.3, 1.85]}])
def test_a_camera_that_does_not_see_the_workspace_is_refused(tmp_path: Path, content: dict[str, Any],
                                                             view: dict[str, Any]) -> None:
    content['camera'] |= view
    with pytest.raises(UserError, match=r'mine\.yaml: by camera\.position.*no image cell shows .* in metres'):
        load(tmp_path, content)


def test_a_camera_without_a_view_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content['camera']['target'] = content['camera']['position']
    with pytest.raises(UserError, match=r'mine\.yaml: camera\.target must differ from camera\.position'):
        load(tmp_path, content)


@pytest.mark.parametrize('name', PHYSICAL)
def test_skills_reach_the_table_of_a_physical_cell_and_pass_its_rules(name: str, tmp_path: Path) -> None:
    cell = shipped(find_config('cells', name), tmp_path)
    robot, rules = cell.robot, SafetyRules(cell, kinematics := Kinematics(cell))
    planner, planned = SkillPlanner(cell, kinematics), 0
    at_home = Measured(robot.joints, np.array([*robot.home, robot.gripper_open]))
    holding = replace(at_home, joint_positions=np.array([*robot.home, sum(robot.holding_range) / 2]))
    for x in np.linspace(cell.workspace.low[0] + 0.1, cell.workspace.high[0] - 0.1, 3):
        for y in (-0.2, 0.0, 0.2):
            column, row = cell.point_to_cell(np.array([x, y, cell.workspace.plane_z]))
            for command, measured in ((Pick(column, row), at_home), (Place(column, row), holding)):
                trajectory = planner.plan(command, measured.joint_names, measured.joint_positions)
                assert trajectory is not None
                verdict = rules.judge(trajectory, measured)
                assert verdict.trajectory is trajectory, f'{command}: {verdict.violations}'
                planned += 1
    assert planned == 18


@pytest.mark.parametrize('name', PHYSICAL)
def test_the_gripper_of_a_physical_cell_is_open_closed_or_holding(name: str, tmp_path: Path) -> None:
    cell = shipped(find_config('cells', name), tmp_path)
    robot = cell.robot
    for position, state in ((robot.gripper_open, 'open'), (robot.gripper_closed, 'closed'),
                            (sum(robot.holding_range) / 2, 'holding')):
        assert cell.gripper_state(robot.joints, np.array([*robot.home, position])) == state


def test_points_outside_the_image_are_clipped_to_its_border_cells(cell: Cell) -> None:
    column, row = cell.point_to_cell(np.array([0.5, 5.0, 0.0]))
    assert column in (0, cell.grid - 1)
    assert 0 <= row < cell.grid


def test_the_gripper_state_follows_from_the_measured_finger(cell: Cell) -> None:
    low, high = cell.robot.holding_range
    for position, state in ((0.0, 'closed'), ((low + high) / 2, 'holding'), (cell.robot.gripper_open, 'open')):
        assert cell.gripper_state(cell.robot.joints, np.array([*cell.robot.home, position])) == state


def test_a_cell_file_elsewhere_finds_the_shipped_urdf_or_its_own(tmp_path: Path, content: dict[str, Any]) -> None:
    shipped = load(tmp_path, content).urdf_path
    assert shipped.parent.name == 'robots'
    own = tmp_path / content['robot']['urdf']
    own.write_bytes(shipped.read_bytes())
    assert load(tmp_path, content).urdf_path == own


def test_a_missing_urdf_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    content['robot']['urdf'] = 'ur5e.urdf'
    with pytest.raises(UserError, match=r"mine\.yaml: robot\.urdf 'ur5e\.urdf'"):
        _ = load(tmp_path, content).urdf_path


def test_an_unknown_key_is_named_with_the_file(tmp_path: Path, content: dict[str, Any]) -> None:
    content['robot']['max_velocities'] = [1.0]
    with pytest.raises(UserError, match=r"mine\.yaml: robot: unknown key 'max_velocities'"):
        load(tmp_path, content)


@pytest.mark.parametrize(('section', 'key', 'value'), [
    ('camera', 'fov_deg', 1.0), ('camera', 'width', 1_000_000), ('robot', 'max_velocity', [-1.0] * 8),
    ('safety', 'max_image_age_s', 0.0), ('motion', 'point_period_s', float('nan')),
])
def test_a_value_out_of_range_is_named_with_its_range(tmp_path: Path, content: dict[str, Any], section: str, key: str,
                                                      value: object) -> None:
    content.setdefault(section, {})[key] = value
    with pytest.raises(UserError, match=rf'mine\.yaml: {section}: {key} is .* must be'):
        load(tmp_path, content)


@pytest.mark.parametrize('key', ['max_velocity', 'max_acceleration', 'max_jerk'])
def test_every_joint_needs_its_limit(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    content['robot'][key] = content['robot'][key][:-1]
    with pytest.raises(UserError, match=rf'robot\.{key} must have 8 entries'):
        load(tmp_path, content)


@pytest.mark.parametrize(('section', 'key', 'value', 'message'), [
    ('robot', 'gripper_joints', ['panda_joint1'], 'every joint once'),
    ('robot', 'holding_range', [0.03, 0.01], 'holding_range'),
    ('robot', 'max_jerk', [0.0] * 8, 'max_jerk is 0.0'),
    ('robot', 'holding_range', [0.5, 0.6], r'holding_range must lie between robot\.gripper_closed \(0\)'),
    ('workspace', 'low', [0.25, 0.5, 0.005], 'workspace.low .*: swap them'),
    ('workspace', 'table_z', 0.9, r'plane_z is 0\.022, but must lie between workspace\.table_z \(0\.9\)'),
    ('workspace', 'plane_z', 22.0, r'plane_z is 22, but must lie .* workspace\.high \(0\.8\), all in m'),
    ('motion', 'approach_height', 0.025, r'release_height is 0\.03, but must be less than motion\.approach_height'),
    ('motion', 'stack_height', 0.2, r'stack_height is 0\.2, but must be less than motion\.approach_height \(0\.12\)'),
    ('workspace', 'keep_out', [{'name': 'post', 'low': [1, 0, 0], 'high': [0, 1, 1]}], r"keep_out 'post': low .* swap"),
    ('robot', 'min_position', [0.0] * 7, 'min_position must have 8 entries'),
    ('robot', 'gripper_open', 0.0, 'gripper_open and robot.gripper_closed must differ'),
    ('safety', 'policy', {'velocity': 'clip'}, 'policy.velocity is .clip., but must be one of reject, clamp'),
    ('safety', 'policy', {'finite': 'clamp'}, 'finite.* always rejects: remove it'),
    ('safety', 'policy', {'speed': 'reject'}, 'speed.* always rejects: remove it'),
])
def test_what_contradicts_itself_is_refused(tmp_path: Path, content: dict[str, Any], section: str, key: str,
                                            value: object, message: str) -> None:
    content.setdefault(section, {})[key] = value
    with pytest.raises(UserError, match=rf'mine\.yaml: .*{message}'):
        load(tmp_path, content)


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('name', '../line', "name is '../line', but evidence"), ('name', '', "name is ''"),
    ('path', '/etc', "unknown key 'path'"),
    ('tasks', {'allow': ['a' * 300]}, r'longer than tasks\.max_length \(200\)')])
def test_what_could_not_be_used_as_it_stands_there_is_refused(tmp_path: Path, content: dict[str, Any], key: str,
                                                              value: object, message: str) -> None:
    content[key] = value
    with pytest.raises(UserError, match=rf'mine\.yaml: .*{message}'):
        load(tmp_path, content)


def test_swapped_position_limits_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content['robot'] |= {'min_position': [1.0] * 8, 'max_position': [-1.0] * 8}
    with pytest.raises(UserError, match=r'mine\.yaml: robot\.min_position of panda_joint1 .* swap them'):
        load(tmp_path, content)


@pytest.mark.parametrize(('section', 'key', 'value', 'message'), [
    ('robot', 'gripper_closed', -0.0001, r'gripper_closed is -0\.0001'),
    ('robot', 'gripper_closed', 0.05, r'gripper_closed puts panda_finger_joint1 at 0\.05, but its limits are'),
    ('robot', 'home', [0.0, -45.0, 0.0, -135.0, 0.0, 90.0, 45.0], r'robot\.home puts panda_joint2 at -45, but'),
    ('robot', 'tool_frame', 'tcp', r"frame 'tcp' is not a link of panda\.urdf: correct .*robot\.tool_frame"),
    ('workspace', 'keep_out', [{'name': 'hall', 'low': [-1, -1, -1], 'high': [2, 2, 2]}], "the tool is in .* 'hall'"),
    ('workspace', 'low', [0.6, -0.4, 0.005], r'at robot\.home the tool is at \(.*\) m, outside of workspace\.low')])
def test_what_does_not_fit_the_urdf_is_refused(tmp_path: Path, content: dict[str, Any], section: str, key: str,
                                               value: object, message: str) -> None:
    content[section][key] = value
    if value == 0.05:
        content['robot']['holding_range'] = [0.041, 0.049]
    with pytest.raises(UserError, match=rf'mine\.yaml: .*{message}'):
        Kinematics(load(tmp_path, content))


def test_the_stricter_of_urdf_and_cell_file_limits_a_position(tmp_path: Path, content: dict[str, Any]) -> None:
    content['robot'] |= {'min_position': [-9.0] * 7 + [0.01], 'max_position': [1.6] * 7 + [0.04],
                         'gripper_closed': 0.01, 'holding_range': [0.012, 0.036]}
    kinematics = Kinematics(load(tmp_path, content))
    assert kinematics.upper[0] == 1.6
    assert kinematics.lower[0] == pytest.approx(-2.9671)
    assert kinematics.lower[7] == 0.01


@pytest.mark.parametrize(('joint', 'velocity'), [(1, 2.18), (7, 0.21)])
def test_a_velocity_limit_laxer_than_that_of_the_urdf_is_refused(tmp_path: Path, content: dict[str, Any], joint: int,
                                                                 velocity: float) -> None:
    content['robot']['max_velocity'][joint] = velocity
    with pytest.raises(UserError, match=rf'mine\.yaml: robot\.max_velocity of .*{velocity}.* panda\.urdf .*: lower it'):
        Kinematics(load(tmp_path, content))


@pytest.mark.parametrize(('geometry', 'message'), [
    ('<mesh filename="link.stl" />', 'collision mesh: replace it by'), (None, 'no collision geometry: add')])
def test_collisions_need_simple_shapes(tmp_path: Path, content: dict[str, Any], cell: Cell, geometry: str | None,
                                       message: str) -> None:
    urdf = cell.urdf_path.read_text(encoding='utf-8')
    pattern = r'<cylinder [^>]*/>' if geometry else r'(?s)<collision>.*?</collision>'
    (tmp_path / 'panda.urdf').write_text(re.sub(pattern, geometry or '', urdf), encoding='utf-8')
    own = load(tmp_path, content)
    with pytest.raises(UserError, match=rf'panda\.urdf.*{message}.*safety\.collision: false'):
        SafetyRules(own, Kinematics(own))
    content.setdefault('safety', {})['collision'] = False
    own = load(tmp_path, content)
    SafetyRules(own, Kinematics(own))


def test_the_home_pose_needs_every_arm_joint(tmp_path: Path, content: dict[str, Any]) -> None:
    content['robot']['home'] = content['robot']['home'][:-1]
    with pytest.raises(UserError, match=r'robot\.home'):
        load(tmp_path, content)
