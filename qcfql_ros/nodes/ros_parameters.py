# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from the tables in `qcfql_ros.parameters`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import rclpy
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.node import Node

from qcfql_ros.errors import ParameterError
from qcfql_ros.parameters import Parameter

_TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}
_LARGEST = {int: 2**63 - 1, float: 1.7976931348623157e308}


def declare_parameters(
    node: Node,
    table: Iterable[Parameter],
    check: Callable[[SimpleNamespace], None] | None = None,
    changed: Callable[[SimpleNamespace], None] | None = None,
) -> SimpleNamespace:
    """Declare every parameter of `table` on `node` and return the checked values by name.

    `ros2 param set` is refused with the reason for a read-only, mistyped or out-of-range value.
    What is set in one call is accepted or refused as a whole.

    Args:
        node: whose parameters these are.
        table: the declarations.
        check: raises ParameterError where values, each allowed, do not go together; it gets all
            of them as they would be, and is not asked at start.
        changed: told all values once some of them were changed.

    Raises:
        ParameterError: a value given at start is not allowed.
    """
    known = {parameter.name: parameter for parameter in table}
    values = SimpleNamespace()
    for parameter in known.values():
        setattr(values, parameter.key, _declare(node, parameter))

    def before_set(requests: list[rclpy.Parameter]) -> list[rclpy.Parameter]:
        return [_as_declared(known, request) for request in requests]

    def on_set(requests: list[rclpy.Parameter]) -> SetParametersResult:
        try:
            accepted = _accepted(known, requests)
            if accepted and check is not None:
                check(SimpleNamespace(**vars(values) | accepted))
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # Only when nobody has refused, rclpy and other callbacks included.
    def after_set(requests: list[rclpy.Parameter]) -> None:
        accepted = _accepted(known, requests)
        vars(values).update(accepted)
        if accepted and changed is not None:
            changed(values)

    node.add_pre_set_parameters_callback(before_set)
    node.add_on_set_parameters_callback(on_set)
    node.add_post_set_parameters_callback(after_set)
    return values


def _declare(node: Node, parameter: Parameter) -> bool | int | float | str:
    # Dynamic typing lets `-p lead_s:=1`, an integer to ROS, through to our own check, which says
    # more than rclpy does. Then the declared type holds, and the bounds.
    anything = ParameterDescriptor(dynamic_typing=True)
    node.declare_parameter(parameter.name, parameter.default, anything)
    value = parameter.check(node.get_parameter(parameter.name).value)
    node.set_parameters([rclpy.Parameter(parameter.name, value=value)])
    node.set_descriptor(parameter.name, _describe(parameter))
    return value


def _as_declared(known: dict[str, Parameter], request: rclpy.Parameter) -> rclpy.Parameter:
    """Return the whole number of `ros2 param set lead_s 1` as the float that is wanted."""
    parameter = known.get(request.name)
    if parameter is None or parameter.type is not float or type(request.value) is not int:
        return request
    return rclpy.Parameter(request.name, value=float(request.value))


def _accepted(known: dict[str, Parameter], requests: Iterable[rclpy.Parameter]) -> dict:
    """Return by key what concerns us; raises ParameterError where it is not allowed."""
    ours = [request for request in requests if request.name in known]
    return {known[r.name].key: known[r.name].check(r.value) for r in ours}


def _describe(parameter: Parameter) -> ParameterDescriptor:
    text = parameter.description + (f' [{parameter.unit}]' if parameter.unit else '')
    descriptor = ParameterDescriptor(
        type=_TYPES[parameter.type], description=text, read_only=parameter.read_only
    )
    constraints = [f'takes effect: {parameter.effect}']
    if parameter.choices:
        words = ', '.join(choice or "''" for choice in parameter.choices)
        constraints.insert(0, f'one of: {words}')
    descriptor.additional_constraints = '; '.join(constraints)
    if parameter.low is None and parameter.high is None:
        return descriptor
    kind = parameter.type
    low = -_LARGEST[kind] if parameter.low is None else kind(parameter.low)
    high = _LARGEST[kind] if parameter.high is None else kind(parameter.high)
    if kind is int:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    else:
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor
