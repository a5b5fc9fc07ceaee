"""Node parameters from a frozen dataclass: one declaration gives type, default, range, help and check."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..config import check_range, parse
from ..errors import UserError

T = TypeVar('T')
_INT_LIMIT = 2**63 - 1


def declare_parameters(node: Node, cls: type[T], changeable: Iterable[str] = ()) -> T:
    """Declare every field of a dataclass as a parameter; a field that is a dataclass becomes a dotted prefix.

    Args:
        node: The node that gets the parameters.
        cls: Frozen dataclass whose fields are made by ``bounded`` and have defaults.
        changeable: Names that may be set while the node runs; all others are read only.

    Returns:
        The values at start.

    Raises:
        UserError: A value has the wrong type or is out of range; the message names the parameter.
    """
    fields, allowed = dict(_fields(cls())), set(changeable)
    for name, (field, default) in fields.items():
        try:
            node.declare_parameter(name, default, _descriptor(field, default, name not in allowed))
        except InvalidParameterTypeException as error:
            raise UserError(f'parameter {name} must be of type {type(default).__name__}, such as {default!r}: correct '
                            'it on the command line or in the parameter file') from error
        except InvalidParameterValueException as error:
            low, high = field.metadata.get('low'), field.metadata.get('high')
            span = f'at least {low}' if high is None else f'at most {high}' if low is None else \
                f'between {low} and {high}'
            raise UserError(f'parameter {name} must be {span}: correct it on the command line or in the parameter '
                            'file') from error

    def check(parameters: list[Parameter]) -> SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name in fields:
                    check_range(fields[parameter.name][0], parameter.value, f'parameter {parameter.name}')
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    return read_parameters(node, cls)


def read_parameters(node: Node, cls: type[T]) -> T:
    """The present values of the parameters that ``declare_parameters`` declared.

    Raises:
        UserError: A value is out of range; the message names the parameter.
    """
    mapping: dict[str, Any] = {}
    for name in dict(_fields(cls())):
        *prefixes, leaf = name.split('.')
        place = mapping
        for prefix in prefixes:
            place = place.setdefault(prefix, {})
        value = node.get_parameter(name).value
        place[leaf] = list(value) if isinstance(value, (list, tuple)) else value
    return parse(cls, mapping, 'parameter')


def _fields(instance: Any, prefix: str = '') -> Iterator[tuple[str, tuple[dataclasses.Field[Any], Any]]]:
    """Dotted names with their fields and defaults."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f'{prefix}{field.name}.')
        else:
            yield prefix + field.name, (field, list(value) if isinstance(value, tuple) else value)


def _descriptor(field: dataclasses.Field[Any], default: Any, read_only: bool) -> ParameterDescriptor:
    low, high, choices = (field.metadata.get(key) for key in ('low', 'high', 'choices'))
    descriptor = ParameterDescriptor(description=field.metadata.get('help', ''), read_only=read_only)
    if choices:
        descriptor.additional_constraints = f'one of {", ".join(choices)}'
    if (low is not None or high is not None) and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(
            from_value=float('-inf') if low is None else float(low),
            to_value=float('inf') if high is None else float(high))]
    elif (low is not None or high is not None) and isinstance(default, int) and not isinstance(default, bool):
        descriptor.integer_range = [IntegerRange(
            from_value=-_INT_LIMIT if low is None else int(low), to_value=_INT_LIMIT if high is None else int(high),
            step=1)]
    return descriptor
