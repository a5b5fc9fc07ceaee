"""The cell file is one consistent description of robot, camera and workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.config import resource_root
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import Kinematics

CELLS = sorted((resource_root() / 'config' / 'cells').glob('*.yaml'))


@pytest.fixture
def content(cell: Cell) -> dict[str, Any]:
    """What the shipped cell file says, to be spoilt."""
    return yaml.safe_load(Path(cell.path).read_text(encoding='utf-8'))


def load(folder: Path, content: dict[str, Any]) -> Cell:
    path = folder / 'mine.yaml'
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    return load_cell(str(path))


@pytest.mark.parametrize('path', CELLS, ids=lambda path: path.stem)
def test_every_shipped_cell_loads_and_its_robot_fits_its_urdf(path: Path) -> None:
    cell = load_cell(path.stem)
    kinematics = Kinematics(cell)
    home = np.array(cell.robot.home)
    assert (kinematics.arm_lower <= home).all()
    assert (home <= kinematics.arm_upper).all()
    tool, _ = kinematics.forward(home)
    assert (tool >= cell.workspace.low).all()
    assert (tool <= cell.workspace.high).all()


@pytest.mark.parametrize('path', CELLS, ids=lambda path: path.stem)
def test_image_cells_and_table_points_are_inverse_to_each_other(path: Path) -> None:
    cell = load_cell(path.stem)
    for column in range(cell.grid):
        for row in range(cell.grid):
            point = cell.cell_to_table(column, row)
            assert point[2] == cell.workspace.plane_z
            assert cell.point_to_cell(point) == (column, row)


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
    ('workspace', 'low', [0.25, 0.5, 0.005], 'workspace.low'),
])
def test_what_contradicts_itself_is_refused(tmp_path: Path, content: dict[str, Any], section: str, key: str,
                                            value: object, message: str) -> None:
    content[section][key] = value
    with pytest.raises(UserError, match=rf'mine\.yaml: .*{message}'):
        load(tmp_path, content)


def test_the_home_pose_needs_every_arm_joint(tmp_path: Path, content: dict[str, Any]) -> None:
    content['robot']['home'] = content['robot']['home'][:-1]
    with pytest.raises(UserError, match=r'robot\.home'):
        load(tmp_path, content)
