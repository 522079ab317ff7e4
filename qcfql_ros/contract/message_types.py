# SPDX-License-Identifier: Apache-2.0
"""Message classes of rclpy by their type names; imported when asked for."""

from __future__ import annotations

import importlib
from functools import cache

from qcfql_ros.errors import ContractError


@cache
def message_class(type_name: str) -> type:
    """Return the class of a type name such as ``sensor_msgs/msg/JointState``.

    Raises:
        ContractError: the message package is not installed.
    """
    package, _, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise ContractError(
            f'message type {type_name!r} is not installed: install the ROS package {package}'
        ) from error
