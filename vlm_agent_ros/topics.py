"""What a cell's drivers call their topics, and on which of them the robot says that it has stopped by itself."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from .config import bounded
from .errors import UserError
from .topic_names import ALL, OF_CELL

_LEAST_AGE_S = 0.05
_OF_THIS_PACKAGE = {name.strip('/') for name in ALL} - set(OF_CELL.values())
_NAME = re.compile(r'/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*')


@dataclass(frozen=True)
class ProtectiveStop:
    """The topic on which the robot's driver tells that its safety controller has stopped it."""

    topic: str = bounded(help='name of the topic, relative to the namespace of the cell or absolute')
    type: str = bounded('bool', choices=('bool', 'string'), help='std_msgs/Bool or std_msgs/String')
    stopped: tuple[Any, ...] = bounded((True,), help='values that mean stopped')
    max_age_s: float = bounded(0.0, low=0.0, high=60.0, help='the driver repeats its word, and silence for longer than '
                               'this is a fault, s; 0 where it tells changes only, as a latched topic does: then its '
                               'publisher has to exist')

    def __post_init__(self) -> None:
        _check_name('topics.protective_stop.topic', self.topic)
        expected = bool if self.type == 'bool' else str
        for value in self.stopped:
            if not isinstance(value, expected):
                raise UserError(f'topics.protective_stop.stopped holds {value!r}, but the type is {self.type}: give '
                                + ('true or false' if expected is bool else 'texts, in quotes where YAML needs them'))
        if expected is bool and len(set(self.stopped)) > 1:
            raise UserError('topics.protective_stop.stopped holds true and false, so that the robot would always be '
                            'stopped: name the one that means it')
        if not self.stopped:
            raise UserError('topics.protective_stop.stopped is empty: name at least one value that means stopped')
        if 0.0 < self.max_age_s < _LEAST_AGE_S:
            raise UserError(f'topics.protective_stop.max_age_s is {self.max_age_s:g}, shorter than messages take: give '
                            f'0 where the driver tells changes only, else {_LEAST_AGE_S:g} or more')


@dataclass(frozen=True)
class Topics:
    """Names that differ from those of the interface; an empty one is as there."""

    image: str = bounded('', help='images of the camera; its compressed ones are expected below this name')
    camera_info: str = bounded('', help='intrinsics, stamped like the images')
    joint_states: str = bounded('', help='measured joints of arm and gripper')
    arm_command: str = bounded('', help='trajectories for the controller of the arm')
    gripper_command: str = bounded('', help='trajectories for the controller of the gripper')
    protective_stop: ProtectiveStop | None = bounded(None, help='where the driver tells of a protective stop')

    def __post_init__(self) -> None:
        for key, name in self.names().items():
            if name:
                _check_name(f'topics.{key}', name)
        used = {f'topics.{key}': name or OF_CELL[key] for key, name in self.names().items()}
        if self.protective_stop is not None:
            used['topics.protective_stop.topic'] = self.protective_stop.topic
        for key, name in used.items():
            if name.strip('/') in _OF_THIS_PACKAGE:
                raise UserError(f'{key} is {name!r}, on which the nodes of this package talk about something else: '
                                'correct the name')
        name, count = Counter(name.strip('/') for name in used.values()).most_common(1)[0]
        if count > 1:
            keys = ' and '.join(key for key, other in used.items() if other.strip('/') == name)
            raise UserError(f'{keys} are both {name!r}: each has a topic of its own')

    def names(self) -> dict[str, str]:
        """Key and name of each topic of the interface, empty where it is called as there."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != 'protective_stop'}


def _check_name(key: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f'{key} is {name!r}, which is no name of a topic: give one such as camera/color/image_raw')
