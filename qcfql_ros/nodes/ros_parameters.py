# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from the tables in `qcfql_ros.parameters`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node

from qcfql_ros.errors import ParameterError
from qcfql_ros.parameters import Parameter


def declare_parameters(
    node: Node,
    table: Iterable[Parameter],
    changed: Callable[[str, Any], None] | None = None,
) -> SimpleNamespace:
    """Declare every parameter of `table` on `node` and return the checked values by name.

    `ros2 param set` is refused with the reason for a read-only, mistyped or out-of-range value;
    what it accepts is written to the returned namespace, then `changed(name, value)` is called.

    Raises:
        ParameterError: a value given at start is not allowed.
    """
    known = {parameter.name: parameter for parameter in table}
    values = SimpleNamespace()
    for parameter in known.values():
        # Dynamic typing lets `-p lead_s:=1` (an integer to ROS) through to our own check, which
        # accepts it and says more than InvalidParameterTypeException does.
        node.declare_parameter(parameter.name, parameter.default, _describe(parameter))
        setattr(values, parameter.name, parameter.check(node.get_parameter(parameter.name).value))

    def on_set(requests) -> SetParametersResult:
        accepted = {}
        for request in requests:
            parameter = known.get(request.name)
            if parameter is None:
                continue
            if parameter.read_only:
                reason = f'parameter {parameter.name} is read once at start; restart the node'
                return SetParametersResult(successful=False, reason=reason)
            try:
                accepted[parameter.name] = parameter.check(request.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
        for name, value in accepted.items():
            setattr(values, name, value)
            if changed is not None:
                changed(name, value)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_set)
    return values


def _describe(parameter: Parameter) -> ParameterDescriptor:
    text = parameter.description + (f' [{parameter.unit}]' if parameter.unit else '')
    descriptor = ParameterDescriptor(description=text, dynamic_typing=True)
    if parameter.choices:
        descriptor.additional_constraints = 'one of: ' + ', '.join(parameter.choices)
    if parameter.low is not None or parameter.high is not None:
        low = '-inf' if parameter.low is None else f'{parameter.low:g}'
        high = 'inf' if parameter.high is None else f'{parameter.high:g}'
        descriptor.additional_constraints = f'between {low} and {high}'
    return descriptor
