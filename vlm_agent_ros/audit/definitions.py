"""Definitions of ROS message types as MCAP holds them: the text of the type, then those of all types within it."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path

from ..errors import UserError

_SEPARATOR = '=' * 80
_FIELD = re.compile(r'^([A-Za-z][\w/]*)(?:<=\d+)?(?:\[[<=\d]*\])?\s+\w+')
_PRIMITIVE = re.compile(r'^(bool|byte|char|float32|float64|u?int(8|16|32|64)|w?string)$')


@cache
def message_definition(kind: str) -> str:
    """The definition of a type such as ``sensor_msgs/msg/JointState``, in the encoding ``ros2msg``.

    Raises:
        UserError: ROS, as it is installed, lacks the type.
    """
    texts: dict[str, str] = {}
    waiting = [kind.replace('/msg/', '/')]
    while waiting:
        name = waiting.pop(0)
        if name not in texts:
            texts[name] = _definition_file(name).read_text(encoding='utf-8').strip()
            waiting += _types_within(name, texts[name])
    first, *others = texts.items()
    return '\n'.join([first[1], *(f'{_SEPARATOR}\nMSG: {name}\n{text}' for name, text in others)]) + '\n'


def _types_within(name: str, text: str) -> list[str]:
    """Full names of the message types among a definition's fields."""
    found = (_FIELD.match(line.strip()) for line in text.splitlines())
    kinds = [match[1] for match in found if match and not _PRIMITIVE.match(match[1])]
    return [kind if '/' in kind else f'{name.partition("/")[0]}/{kind}' for kind in kinds]


def _definition_file(name: str) -> Path:
    package, _, message = name.partition('/')
    for prefix in filter(None, [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]):
        path = Path(prefix) / 'share' / package / 'msg' / f'{message}.msg'
        if path.is_file():
            return path
    raise UserError(f'the definition of {name} is in no share folder of ROS: install {package}, or source '
                    '/opt/ros/jazzy/setup.bash')
