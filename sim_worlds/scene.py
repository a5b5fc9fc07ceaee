"""What an episode's scene consists of, and how it is drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import Objects, WorldConfig


@dataclass(frozen=True)
class Item:
    """An object on the table.

    Attributes:
        kind: ``cube``, ``pad`` or ``cylinder``.
        colour: Name within the palette; ``grey`` for cylinders.
        rgb: (3,) the colour as it looks in this episode, 0 … 1.
        size: Edge length or diameter, m.
        position: (2,) centre on the table, m, base frame.
        yaw: Rotation about the vertical, rad.
    """

    kind: str
    colour: str
    rgb: tuple[float, float, float]
    size: float
    position: tuple[float, float]
    yaw: float

    @property
    def name(self) -> str:
        """For example ``red cube``."""
        return f'{self.colour} {self.kind}'


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
    """Cubes, pads and distractors at places that leave room for the gripper between them."""
    objects = config.objects
    colours = list(objects.palette)
    names = [('cube', colours[i]) for i in rng.permutation(len(colours))[:objects.cubes]]
    names += [('pad', colours[i]) for i in rng.permutation(len(colours))[:objects.pads]]
    names += [('cylinder', 'grey')] * int(rng.integers(objects.distractors[0], objects.distractors[1] + 1))
    places = _draw_places(objects, len(names), rng)
    items = []
    for (kind, colour), place in zip(names, places):
        base = np.array(objects.palette.get(colour, (0.45, 0.45, 0.45)))
        rgb = np.clip(base + rng.uniform(-1, 1, 3) * config.appearance.colour_jitter, 0.0, 1.0)
        size = rng.uniform(*(objects.pad_size if kind == 'pad' else objects.cube_size))
        yaw = rng.uniform(-objects.yaw, objects.yaw)
        items.append(Item(kind, colour, tuple(rgb), float(size), tuple(place), float(yaw)))
    return items


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


def _draw_places(objects: Objects, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) centres at least ``gap`` apart; the gap shrinks where the area is too full for it."""
    gap = objects.gap
    while True:
        for _ in range(200):
            places: list[np.ndarray] = []
            for _ in range(20 * count):
                place = rng.uniform(objects.area_low, objects.area_high)
                if all(np.hypot(*(place - other)) >= gap for other in places):
                    places.append(place)
                    if len(places) == count:
                        return np.array(places)
        gap *= 0.9
