"""YAML files into frozen dataclasses, refusing unknown keys, wrong types and values out of range."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import UserError

T = TypeVar('T')


def resource_root() -> Path:
    """Folder that holds ``config/``, ``launch/`` and ``models/``: the source tree, or the installed share folder.

    Raises:
        UserError: The package was installed without its data files.
    """
    prefixes = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p] + [sys.prefix]
    candidates = [Path(__file__).resolve().parent.parent]
    candidates += [Path(prefix) / 'share' / 'vlm_agent_ros' for prefix in prefixes]
    for folder in candidates:
        if (folder / 'config' / 'cells').is_dir():
            return folder
    raise UserError(
        f'no config/cells found in any of {", ".join(map(str, candidates))}: reinstall the package with its data '
        'files, or source the workspace that it was built in'
    )


def find_config(kind: str, name: str) -> Path:
    """Path of a configuration file given by path or by name within ``config/<kind>/``.

    Args:
        kind: ``cells``, ``worlds``, ``models``, ``training`` or ``pilots``.
        name: A path to a YAML file, or a bare name such as ``panda_table``.

    Raises:
        UserError: Neither exists; the message lists the names that do.
    """
    if name.endswith(('.yaml', '.yml')):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise UserError(f'{path} does not exist: give the path of a {kind} YAML file, or a shipped name')
    folder = resource_root() / 'config' / kind
    path = folder / f'{name}.yaml'
    if path.is_file():
        return path
    known = ', '.join(sorted(p.stem for p in folder.glob('*.yaml'))) or 'none'
    raise UserError(f'no {kind} file named {name!r}: choose one of {known}, or give the path of a YAML file')


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2 forbids a key twice; PyYAML drops the first value, so that a limit would be lost without a word."""

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """As its parent, but nothing that YAML 1.1 reads as another number than it looks like."""
        whole = node.tag.endswith(':int')
        number = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        if ':' in node.value or (whole and re.match(r'[-+]?0[0-9_]', node.value)):
            raise UserError(f'{node.value} at line {node.start_mark.line + 1} would be read as {number}: write the '
                            'number in decimal, without a leading 0')
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As its parent, for mappings whose keys differ."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise UserError(f'key {key.value!r} is there twice, again at line {key.start_mark.line + 1}: keep one')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _kind in ('int', 'float'):
    _StrictLoader.add_constructor(f'tag:yaml.org,2002:{_kind}', _StrictLoader.construct_number)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: The file is missing, is not YAML, has a key twice, or is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _StrictLoader)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): check the path and its permissions') from error
    except (yaml.YAMLError, ValueError) as error:  # a day or a number that does not exist, or bytes that are no text
        where = getattr(error, 'problem_mark', None)
        line = f' at line {where.line + 1}' if where else ''
        raise UserError(f'{path} is not valid YAML{line}: correct it') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold a mapping of keys to values')
    return content


def bounded(default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None,
            help: str = '', choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with an inclusive range or a set of choices and a line of help, checked by ``parse``."""
    metadata = {'low': low, 'high': high, 'help': help, 'choices': choices}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse(cls: type[T], mapping: dict[str, Any], source: str) -> T:
    """A dataclass from a mapping, with every key, type and range checked.

    Args:
        cls: A dataclass; fields may themselves be dataclasses, tuples, lists, dicts or optional.
        mapping: Keys and values as YAML gives them.
        source: File (and key) that the mapping came from, for the message.

    Raises:
        UserError: A key is unknown or missing, or a value has the wrong type or is out of range; the message
            names the file and the key.
    """
    if not isinstance(mapping, dict):
        raise UserError(f'{source}: expected a mapping of keys to values, got {mapping!r}')
    fields = {key_of(f): f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise UserError(f'{source}: unknown key {key!r}; known keys are {", ".join(sorted(fields))}')
    hints = typing.get_type_hints(cls)
    values = {}
    for key, field in fields.items():
        if key in mapping:
            values[field.name] = _convert(hints[field.name], mapping[key], f'{source}: {key}')
            check_range(field, values[field.name], f'{source}: {key}')
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            what = field.metadata.get('help')
            raise UserError(f'{source}: key {key!r} is missing: add it' + (f' ({what})' if what else ''))
    return cls(**values)


def key_of(field: dataclasses.Field[Any]) -> str:
    """What a field is called in a file: a name that Python reserves ends with an underscore only in Python."""
    return field.name.rstrip('_')


def check_range(field: dataclasses.Field[Any], value: Any, source: str) -> None:
    """Refuse a value outside the range or the choices that ``bounded`` declared for its field."""
    low, high, choices = (field.metadata.get(k) for k in ('low', 'high', 'choices'))
    if isinstance(value, dict):
        for key, part in value.items():
            check_range(field, part, f'{source}.{key}')
        return
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f'{source} is {number}, but must be a finite number')
        if (low is not None and number < low) or (high is not None and number > high):
            span = f'between {low} and {high}' if None not in (low, high) else (
                f'at least {low}' if low is not None else f'at most {high}')
            raise UserError(f'{source} is {number}, but must be {span}')
    if choices is not None and value not in choices:
        raise UserError(f'{source} is {value!r}, but must be one of {", ".join(map(str, choices))}')


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a value, however nested."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _convert(hint: Any, value: Any, source: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, source)
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, source)  # type: ignore[arg-type]
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise UserError(f'{source} must be a list, got {value!r}')
        if origin is tuple and args[-1] is not Ellipsis:
            if len(value) != len(args):
                raise UserError(f'{source} must have {len(args)} entries, got {len(value)}')
            return tuple(_convert(a, v, f'{source}[{i}]') for i, (a, v) in enumerate(zip(args, value)))
        return origin(_convert(args[0], v, f'{source}[{i}]') for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f'{source} must be a mapping, got {value!r}')
        return {_convert(args[0], k, f'key {k!r} of {source}'): _convert(args[1], v, f'{source}.{k}')
                for k, v in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f'{source} has {len(str(value))} digits: write a smaller number') from None
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    quotes = ': put it in quotes' if hint is str and isinstance(value, (bool, int, float)) else ''
    raise UserError(f'{source} must be of type {getattr(hint, "__name__", hint)}, got {value!r}{quotes}')
