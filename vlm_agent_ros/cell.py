"""The cell file: the one description of robot, camera, workspace and limits that every part reads."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .audit.settings import Audit
from .autonomy import Autonomy
from .camera import Camera
from .config import bounded, find_config, load_yaml, parse
from .errors import UserError
from .limits import KeepOut, Safety
from .release.band import Rollback
from .release.trust import Trust
from .tasks import Tasks
from .topics import Topics


@dataclass(frozen=True)
class Robot:
    """Names, poses and limits of arm and gripper (ros2_control names)."""

    urdf: str = bounded(help='URDF file, relative to the cell file or to config/robots; kinematics are read from it')
    base_frame: str = bounded(help='root link; all positions of the cell file are given in this frame, in metres')
    tool_frame: str = bounded(help='link whose origin is the grasp point, z pointing out of the gripper')
    arm_joints: tuple[str, ...] = bounded(help='arm joints in controller order')
    gripper_joints: tuple[str, ...] = bounded(help='commanded gripper joints; further fingers mimic the first')
    home: tuple[float, ...] = bounded(help='arm pose from which the camera sees the whole workspace, rad')
    max_velocity: tuple[float, ...] = bounded(low=1e-3, help='rad/s or m/s per joint, arm then gripper')
    max_acceleration: tuple[float, ...] = bounded(low=1e-3, help='rad/s2 or m/s2 per joint, arm then gripper')
    max_jerk: tuple[float, ...] = bounded(low=1e-3, help='rad/s3 or m/s3 per joint, arm then gripper')
    min_position: tuple[float, ...] = bounded((), help="lower limits, rad or m per joint, arm then gripper; the URDF's "
                                              'hold as well, and alone where this is empty')
    max_position: tuple[float, ...] = bounded((), help='upper limits likewise')
    gripper_open: float = bounded(0.04, low=0.0, help='gripper joint position when open, m or rad')
    gripper_closed: float = bounded(0.0, low=0.0, help='gripper joint command when closing, m or rad')
    holding_range: tuple[float, float] = bounded(
        (0.008, 0.036), help='measured gripper joint positions between which something is held, m or rad')

    @property
    def joints(self) -> tuple[str, ...]:
        """Arm joints, then gripper joints."""
        return self.arm_joints + self.gripper_joints


@dataclass(frozen=True)
class Workspace:
    """Where the tool may be, in the base frame."""

    low: tuple[float, float, float] = bounded(help='lower corner of the box that the tool may not leave, m')
    high: tuple[float, float, float] = bounded(help='upper corner, m')
    table_z: float = bounded(0.0, help='height of the table top, m')
    plane_z: float = bounded(0.02, help='height of the plane onto which image cells are mapped, m')
    keep_out: tuple[KeepOut, ...] = bounded((), help='boxes that neither tool nor links may enter')


@dataclass(frozen=True)
class Motion:
    """How skills move."""

    approach_height: float = bounded(0.12, low=0.02, high=0.5, help='tool height above the table before and after, m')
    grasp_height: float = bounded(0.02, low=0.0, high=0.2, help='tool height above the table when closing, m')
    release_height: float = bounded(0.03, low=0.0, high=0.2, help='tool height above the table when opening, m')
    stack_height: float = bounded(0.075, low=0.0, high=0.3,
                                  help='tool height above the table when opening over another object, m')
    push_distance: float = bounded(0.06, low=0.01, high=0.2, help='length of a push, m')
    point_period_s: float = bounded(0.04, low=0.005, high=0.2, help='spacing of trajectory points, s')
    gripper_time_s: float = bounded(0.3, low=0.05, high=2.0, help='time given to the gripper to open or close, s')
    command_lead_s: float = bounded(0.0, low=0.0, high=1.0, help='how long after it was sent a command begins, s; a '
                                    'controller that gets it later than that skips its beginning, with a jump')
    settle_tolerance: float = bounded(0.02, low=0.001, high=0.2, help='arm joint error at which a motion is done, rad')
    rest_velocity: float = bounded(0.02, low=0.001, high=0.5, help='arm joint speed below which it is at rest, rad/s')
    time_limit_s: float = bounded(2.0, low=0.1, high=30.0, help='wait for rest after the last point at most, s')


@dataclass(frozen=True)
class Cell:
    """A robot cell as its file describes it.

    Attributes:
        grid: Cells per image side in the action language ``skills``; a cell is one (column, row) pair.
    """

    name: str
    robot: Robot
    camera: Camera
    workspace: Workspace
    motion: Motion = Motion()
    safety: Safety = Safety()
    audit: Audit = Audit()
    autonomy: Autonomy = Autonomy()
    tasks: Tasks = Tasks()
    topics: Topics = Topics()
    trust: Trust = Trust()
    rollback: Rollback = Rollback()
    grid: int = bounded(48, low=2, high=100, help='cells per image side in the action language')
    path: str = ''

    def __post_init__(self) -> None:
        source, robot = self.path or self.name, self.robot
        if not re.fullmatch(r'\w[\w.-]*', self.name):
            raise UserError(f'{source}: name is {self.name!r}, but evidence and releases are kept in files of that '
                            'name: give letters, digits, _, - and dots')
        joints = len(robot.joints)
        for key in ('max_velocity', 'max_acceleration', 'max_jerk', 'min_position', 'max_position'):
            optional = key.endswith('position')
            if len(values := getattr(robot, key)) != joints and (values or not optional):
                raise UserError(f'{source}: robot.{key} must have {joints} entries, one per joint')
        for name, low, high in zip(robot.joints, robot.min_position, robot.max_position):
            if low >= high:
                raise UserError(f'{source}: robot.min_position of {name} must be less than its robot.max_position: '
                                'swap them')
        if len(robot.home) != len(robot.arm_joints):
            raise UserError(f'{source}: robot.home must have one entry per arm joint')
        if len(set(robot.joints)) != joints or not robot.gripper_joints:
            raise UserError(f'{source}: robot.arm_joints and robot.gripper_joints must name every joint once, and at '
                            'least one of the gripper')
        if robot.gripper_open == robot.gripper_closed:
            raise UserError(f'{source}: robot.gripper_open and robot.gripper_closed must differ')
        if robot.holding_range[0] >= robot.holding_range[1]:
            raise UserError(f'{source}: robot.holding_range must begin with its lower end')
        if not (min(ends := (robot.gripper_closed, robot.gripper_open)) <= robot.holding_range[0]
                and robot.holding_range[1] <= max(ends)):
            raise UserError(f'{source}: robot.holding_range must lie between robot.gripper_closed '
                            f'({robot.gripper_closed:g}) and robot.gripper_open ({robot.gripper_open:g}), m or rad')
        self._check_heights(source)
        if not self.camera.calibrated:
            raise UserError(f'{source}: camera.calibrated is false, so that image cells point nowhere: calibrate the '
                            'camera, write its position, target and fov_deg there, and set it to true')
        if not any(self._is_inside(column, row) for row in range(self.grid) for column in range(self.grid)):
            raise UserError(f'{source}: by camera.position, target and fov_deg no image cell shows a point within '
                            'workspace.low and high: give the calibration in metres, in robot.base_frame')
        self.audit.check(source)

    def _check_heights(self, source: str) -> None:
        """Refuse a workspace that is none, and heights in an order in which no skill could work."""
        workspace, motion = self.workspace, self.motion
        if any(low >= high for low, high in zip(workspace.low, workspace.high)):
            raise UserError(f'{source}: workspace.low must be less than workspace.high in x, y and z: swap them')
        if not workspace.table_z <= workspace.plane_z < workspace.high[2]:
            raise UserError(f'{source}: workspace.plane_z is {workspace.plane_z:g}, but must lie between '
                            f'workspace.table_z ({workspace.table_z:g}) and the height of workspace.high '
                            f'({workspace.high[2]:g}), all in m')
        for key in ('grasp_height', 'release_height', 'stack_height'):
            if (height := getattr(motion, key)) >= motion.approach_height:
                raise UserError(f'{source}: motion.{key} is {height:g}, but must be less than motion.approach_height '
                                f'({motion.approach_height:g}), from which the tool comes down: lower the first, or '
                                'raise the second')

    def _is_inside(self, column: int, row: int) -> bool:
        """Whether an image cell shows a point over which the tool may be."""
        try:
            point = self.cell_to_table(column, row)[:2]
        except UserError:  # it looks past the table
            _ = self.camera.rotation  # unless it is no view at all
            return False
        return bool((point >= self.workspace.low[:2]).all() and (point <= self.workspace.high[:2]).all())

    @property
    def urdf_path(self) -> Path:
        """The URDF file: beside the cell file, else in config/robots.

        Raises:
            UserError: It is in neither place.
        """
        places = [Path(self.path).parent / self.robot.urdf, Path(self.path).parent.parent / 'robots' / self.robot.urdf,
                  find_config('cells', 'panda_table').parent.parent / 'robots' / self.robot.urdf]
        for place in places:
            if place.is_file():
                return place
        raise UserError(f'{self.path}: robot.urdf {self.robot.urdf!r} is neither beside the cell file nor in '
                        'config/robots: correct the name or copy the file there')

    @property
    def velocity_limits(self) -> np.ndarray:
        """(joints,) float64 of ``robot.joints``, per second: what a motion may reach, tolerance included."""
        return np.array(self.robot.max_velocity) * (1.0 + self.safety.velocity_tolerance)

    @property
    def acceleration_limits(self) -> np.ndarray:
        """(joints,) float64 of ``robot.joints``, per second²: what a motion may reach, tolerance included."""
        return np.array(self.robot.max_acceleration) * (1.0 + self.safety.acceleration_tolerance)

    def cell_to_table(self, column: int, row: int) -> np.ndarray:
        """Centre of an image cell on the mapping plane.

        Args:
            column: 0 … grid-1 from the left of the image.
            row: 0 … grid-1 from the top.

        Returns:
            (3,) float64, metres in the base frame, z = ``workspace.plane_z``.
        """
        u = (column + 0.5) * self.camera.width / self.grid
        v = (row + 0.5) * self.camera.height / self.grid
        return self.camera.pixel_to_plane(u, v, self.workspace.plane_z)

    def point_to_cell(self, point: np.ndarray) -> tuple[int, int]:
        """Image cell (column, row) in which a point of the base frame appears, clipped to the image."""
        u, v = self.camera.project(point)
        column = int(np.clip(u * self.grid / self.camera.width, 0, self.grid - 1))
        row = int(np.clip(v * self.grid / self.camera.height, 0, self.grid - 1))
        return column, row

    def gripper_state(self, joint_names: tuple[str, ...], joint_positions: np.ndarray) -> str:
        """``open``, ``holding`` or ``closed``, from the measured gripper joint."""
        position = float(joint_positions[joint_names.index(self.robot.gripper_joints[0])])
        low, high = self.robot.holding_range
        if low <= position <= high:
            return 'holding'
        return 'open' if (position > high) == (self.robot.gripper_open > self.robot.gripper_closed) else 'closed'


def load_cell(name: str) -> Cell:
    """A cell by shipped name or path of its YAML file.

    Raises:
        UserError: The file is missing or has a key that is unknown or out of range.
    """
    path = find_config('cells', name)
    content = load_yaml(path)
    if 'path' in content:
        raise UserError(f"{path}: unknown key 'path': remove it, the path of the file is its own")
    try:
        return parse(Cell, {**content, 'path': str(path)}, str(path))
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(f'{path}: {error}') from error  # a section does not know which file it is in


def motion_digest(cell: Cell) -> str:
    """SHA-256 (hex) of what decides where the robot goes and what it is held to.

    Limits, geometry and camera of the cell file, and the URDF; not what is told, logged or asked of a checkpoint.
    """
    parts = {name: asdict(getattr(cell, name)) for name in ('robot', 'workspace', 'camera', 'motion', 'safety')}
    said = json.dumps([parts, cell.grid], sort_keys=True).encode()
    return hashlib.sha256(said + cell.urdf_path.read_bytes()).hexdigest()
