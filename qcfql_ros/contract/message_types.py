# SPDX-License-Identifier: Apache-2.0
"""Message classes of rclpy by their type names; imported when asked for."""

from __future__ import annotations

import importlib
import re
from functools import cache

from qcfql_ros.errors import ContractError

_NAME = re.compile(r'(\w+)/msg/(\w+)', re.ASCII)


@cache
def message_class(type_name: str) -> type:
    """Return the class of a type name such as ``sensor_msgs/msg/JointState``.

    Raises:
        ContractError: it is no name of a type, or the message package is not installed.
    """
    found = _NAME.fullmatch(type_name)
    if found is None:
        raise ContractError(
            f'{type_name!r} is no message type of ROS 2; wanted a name such as '
            'sensor_msgs/msg/JointState'
        )
    package, name = found.groups()
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise ContractError(
            f'message type {type_name!r} is not installed: install the ROS package {package}'
        ) from error
