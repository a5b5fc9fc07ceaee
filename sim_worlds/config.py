"""The world file: what a simulated cell looks like, what varies from episode to episode, and what is rewarded."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_agent_ros.config import bounded

TERMS = ('success', 'progress', 'precision', 'wrong_object', 'safety', 'cycle_time', 'cost')
"""KPI terms of every task."""

Range = tuple[float, float]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Objects:
    """What lies on the table."""

    cubes: int = bounded(3, low=1, high=5, help='cubes, each of its own colour')
    pads: int = bounded(2, low=1, high=4, help='pads, each of its own colour')
    distractors: tuple[int, int] = bounded((0, 1), low=0, high=4, help='cylinders that no instruction names')
    cube_size: Range = bounded((0.042, 0.048), low=0.02, high=0.07, help='edge length, m')
    pad_size: Range = bounded((0.09, 0.10), low=0.05, high=0.2, help='edge length, m')
    large_pad_size: Range = bounded((0.15, 0.16), low=0.1, high=0.3, help='edge length of a pad for several cubes, m')
    tray_size: Range = bounded((0.20, 0.20), low=0.1, high=0.3, help='edge length, m')
    area_low: tuple[float, float] = bounded((0.38, -0.20), help='lower corner of the area for object centres, m')
    area_high: tuple[float, float] = bounded((0.65, 0.20), help='upper corner, m')
    span_low: tuple[float, float] = bounded((0.35, -0.20), help='lower corner of the area that large pads, trays and '
                                            'the cubes of their tasks lie within, m')
    span_high: tuple[float, float] = bounded((0.68, 0.20), help='upper corner, m')
    gap: float = bounded(0.095, low=0.05, high=0.2, help='smallest distance between two object centres, m')
    yaw: float = bounded(0.2, low=0.0, high=0.8, help='largest rotation of a cube about the vertical, rad')
    palette: dict[str, Triple] = bounded({}, low=0.0, high=1.0, help='colours by name, RGB 0 … 1')


@dataclass(frozen=True)
class Appearance:
    """Surfaces, light and sensor."""

    table: Triple = bounded((0.62, 0.55, 0.47), low=0.0, high=1.0, help='RGB of the table top')
    floor: Triple = bounded((0.35, 0.36, 0.38), low=0.0, high=1.0, help='RGB of what is behind it')
    colour_jitter: float = bounded(0.05, low=0.0, high=0.5, help='largest change of each RGB component')
    light_direction: Triple = bounded((0.6, 0.3, 1.0), help='towards the light')
    light_jitter: float = bounded(0.3, low=0.0, high=2.0, help='largest change of each component of the direction')
    ambient: Range = bounded((0.55, 0.70), low=0.0, high=1.5, help='share of ambient light')
    diffuse: Range = bounded((0.35, 0.50), low=0.0, high=1.5, help='share of directed light')
    light_colour: Triple = bounded((1.0, 1.0, 1.0), low=0.0, high=1.5, help='RGB of the light')
    noise: Range = bounded((1.0, 4.0), low=0.0, high=50.0, help='standard deviation of sensor noise, grey levels')
    camera_jitter: float = bounded(0.004, low=0.0, high=0.1, help='error of the calibrated camera pose, m')


@dataclass(frozen=True)
class Dynamics:
    """Contact and delays."""

    friction: Range = bounded((0.9, 1.2), low=0.1, high=3.0, help='lateral friction of cubes')
    mass: Range = bounded((0.04, 0.08), low=0.005, high=1.0, help='mass of a cube, kg')
    command_latency_s: Range = bounded((0.0, 0.05), low=0.0, high=2.0, help='from command to first movement, s')
    camera_latency_s: Range = bounded((0.0, 0.05), low=0.0, high=2.0, help='from exposure to publication, s')


@dataclass(frozen=True)
class WorldConfig:
    """A simulated cell and its episodes."""

    name: str
    cell: str = bounded('panda_table', help='cell file that describes robot and camera')
    turn_limit: int = bounded(4, low=1, high=50, help='turns after which an episode is truncated')
    turn_limits: dict[str, int] = bounded({}, help='the same by task, where a task needs another limit; '
                                           'load_world adds those of the shipped cell')
    objects: Objects = Objects()
    appearance: Appearance = Appearance()
    dynamics: Dynamics = Dynamics()
    reward: dict[str, float] = bounded({}, help='weight of each KPI term in the reward; load_world takes that of '
                                       'the shipped cell where a file has none')
    task_rewards: dict[str, dict[str, float]] = bounded({}, help='the weights that are others in a task')
    path: str = ''
