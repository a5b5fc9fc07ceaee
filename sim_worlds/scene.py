"""What an episode's scene consists of, and how it is drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlm_agent_ros.errors import UserError

from .config import Objects, WorldConfig

TABLE_HALF = (0.4, 0.6, 0.02)  # m; clear of the arm's base, whose standing contact would be solved at every step
TABLE_CENTRE = (0.6, 0.0)  # m, base frame
DEFECTS = ('missing corner', 'wrong colour', 'scratch')
_DEFECT_WORDS = {'missing corner': 'chipped ', 'scratch': 'scratched '}
FLAT = ('pad', 'tray')  # kinds that lie fixed on the table
# Between the centres of two cubes, along x or along y: between cubes, and for the fingers, which open along y.
_GRIPPER_ROOM_M = (0.066, 0.086)
# From the edge of a tray to the centre of a cube that is grasped beside it.
_RIM_ROOM_M = (0.045, 0.065)
_NEUTRAL = {'white': (0.88, 0.88, 0.86)}
_GREY = (0.45, 0.45, 0.45)
_LAYOUTS = 300


@dataclass(frozen=True)
class Item:
    """An object on the table.

    Attributes:
        kind: ``cube``, ``pad``, ``tray`` or ``cylinder``.
        colour: Name within the palette; ``grey`` for cylinders, ``white`` for trays.
        rgb: (3,) the colour as it looks in this episode, 0 … 1.
        size: Edge length or diameter, m.
        position: (2,) centre on the table, m, base frame.
        yaw: Rotation about the vertical, rad.
        defect: What is wrong with a part, one of DEFECTS; empty for a good one.
    """

    kind: str
    colour: str
    rgb: tuple[float, float, float]
    size: float
    position: tuple[float, float]
    yaw: float
    defect: str = ''

    @property
    def name(self) -> str:
        """For example ``red cube``, or ``scratched red cube``; a wrong colour is seen from the colour."""
        return f'{_DEFECT_WORDS.get(self.defect, "")}{self.colour} {self.kind}'


@dataclass(frozen=True)
class Conditions:
    """What else is drawn for an episode: light, camera error, contact and delays (units as in the world file)."""

    table: tuple[float, float, float]
    light_direction: tuple[float, float, float]
    ambient: float
    diffuse: float
    noise: float
    camera_offset: tuple[float, float, float]
    target_offset: tuple[float, float, float]
    friction: float
    mass: float
    command_latency_s: float
    camera_latency_s: float


def draw_items(config: WorldConfig, rng: np.random.Generator) -> list[Item]:
    """Cubes, pads and distractors at places that leave room for the gripper between them.

    Raises:
        UserError: The area of the world file is too small for them.
    """
    objects = config.objects
    colours = list(objects.palette)
    names = [('cube', colours[i]) for i in rng.permutation(len(colours))[:objects.cubes]]
    names += [('pad', colours[i]) for i in rng.permutation(len(colours))[:objects.pads]]
    names += [('cylinder', 'grey')] * int(rng.integers(objects.distractors[0], objects.distractors[1] + 1))
    places = _draw_places(config, len(names), rng)
    items = []
    for (kind, colour), place in zip(names, places):
        rgb = _draw_rgb(config, colour, rng)
        size = rng.uniform(*(objects.pad_size if kind == 'pad' else objects.cube_size))
        yaw = rng.uniform(-objects.yaw, objects.yaw)
        items.append(Item(kind, colour, rgb, float(size), tuple(place), float(yaw)))
    return items


def draw_layout(config: WorldConfig, cubes: Sequence[tuple[str, str]], containers: Sequence[tuple[str, str]],
                rng: np.random.Generator) -> list[Item]:
    """Cubes beside large pads or trays, each with the room that the gripper needs.

    Args:
        config: The world.
        cubes: Colour and defect of each cube.
        containers: Kind (``pad`` or ``tray``) and colour of each container; they lie square to the gripper.
        rng: Source of randomness.

    Returns:
        The cubes, then the containers.

    Raises:
        UserError: The area of the world file is too small for them.
    """
    objects = config.objects
    sizes = [float(rng.uniform(*(objects.tray_size if kind == 'tray' else objects.large_pad_size)))
             for kind, _ in containers]
    for _ in range(_LAYOUTS):
        bases = _draw_containers(objects, sizes, rng)
        places = _draw_beside(objects, len(cubes), bases, sizes, rng) if bases else []
        if len(places) == len(cubes):
            break
    else:
        raise UserError(f'{config.path or config.name}: {len(cubes)} cubes and {len(containers)} containers do not fit '
                        'into objects.span_low … span_high: enlarge it, or make large_pad_size or tray_size smaller')
    items = []
    for (colour, defect), place in zip(cubes, places):
        rgb, size = _draw_rgb(config, colour, rng), float(rng.uniform(*objects.cube_size))
        yaw = float(rng.uniform(-objects.yaw, objects.yaw))
        items.append(Item('cube', colour, rgb, size, tuple(place), yaw, defect))
    return items + [Item(kind, colour, _draw_rgb(config, colour, rng), size, tuple(base), 0.0)
                    for (kind, colour), size, base in zip(containers, sizes, bases)]


def draw_conditions(config: WorldConfig, rng: np.random.Generator) -> Conditions:
    """Light, camera error, contact and delays of an episode."""
    look, dynamics = config.appearance, config.dynamics
    direction = np.array(look.light_direction) + rng.uniform(-1, 1, 3) * look.light_jitter
    table = np.clip(np.array(look.table) + rng.uniform(-1, 1, 3) * look.colour_jitter, 0.0, 1.0)
    return Conditions(
        table=tuple(table), light_direction=tuple(direction), ambient=rng.uniform(*look.ambient),
        diffuse=rng.uniform(*look.diffuse), noise=rng.uniform(*look.noise),
        camera_offset=tuple(rng.uniform(-1, 1, 3) * look.camera_jitter),
        target_offset=tuple(rng.uniform(-1, 1, 3) * look.camera_jitter),
        friction=rng.uniform(*dynamics.friction), mass=rng.uniform(*dynamics.mass),
        command_latency_s=rng.uniform(*dynamics.command_latency_s),
        camera_latency_s=rng.uniform(*dynamics.camera_latency_s),
    )


def _draw_places(config: WorldConfig, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) centres at least ``gap`` apart; the gap shrinks where the area is too full for it."""
    objects, gap = config.objects, config.objects.gap
    while gap >= objects.cube_size[1]:  # or they would lie in each other
        for _ in range(200):
            places: list[np.ndarray] = []
            for _ in range(20 * count):
                place = rng.uniform(objects.area_low, objects.area_high)
                if all(np.hypot(*(place - other)) >= gap for other in places):
                    places.append(place)
                    if len(places) == count:
                        return np.array(places)
        gap *= 0.9
    raise UserError(f'{config.path or config.name}: {count} cubes, pads and distractors do not fit into '
                    'objects.area_low … area_high: enlarge it, have fewer of them, or make cube_size smaller')


def _draw_rgb(config: WorldConfig, colour: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour of the palette, or a neutral one, as it looks in an episode."""
    base = np.array(config.objects.palette.get(colour, _NEUTRAL.get(colour, _GREY)))
    return tuple(np.clip(base + rng.uniform(-1, 1, 3) * config.appearance.colour_jitter, 0.0, 1.0))


def _draw_containers(objects: Objects, sizes: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """(2,) centres of containers that lie within the area; none if some would have lain on each other."""
    low, high = np.array(objects.span_low), np.array(objects.span_high)
    bases = [rng.uniform(low + size / 2, high - size / 2) for size in sizes]
    apart = all(np.abs(a - b).max() > (sizes[i] + sizes[j]) / 2 for i, a in enumerate(bases)
                for j, b in enumerate(bases[:i]))
    return bases if apart else []


def _draw_beside(objects: Objects, count: int, bases: Sequence[np.ndarray], sizes: Sequence[float],
                 rng: np.random.Generator) -> list[np.ndarray]:
    """Up to ``count`` (2,) centres of cubes beside containers; fewer where not all of them found room."""
    margin = objects.cube_size[1] / 2
    low, high = np.array(objects.span_low) + margin, np.array(objects.span_high) - margin
    places: list[np.ndarray] = []
    for _ in range(30 * count):
        place = rng.uniform(low, high)
        if all(np.any(np.abs(place - other) >= _GRIPPER_ROOM_M) for other in places) and all(
                np.any(np.abs(place - base) >= size / 2 + np.array(_RIM_ROOM_M)) for base, size in zip(bases, sizes)):
            places.append(place)
            if len(places) == count:
                break
    return places
