# SPDX-License-Identifier: Apache-2.0
"""A transition that does not exist is refused, not raised."""

from __future__ import annotations

from typing import Any

from rclpy._rclpy_pybind11 import RCLError
from rclpy.lifecycle import LifecycleNode


def refuse_wrong_transitions(node: LifecycleNode) -> None:
    """Answer `change_state` with a refusal where rclpy raises in the executor.

    Somebody who asks an active node to activate would otherwise end its process.
    """
    for service in node.services:
        if service.srv_name.endswith('change_state'):
            service.callback = _refusing(node, service.callback)


def _refusing(node: LifecycleNode, change_state: Any) -> Any:
    def answer(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except RCLError as error:
            node.get_logger().warning(f'transition refused: {str(error).split(", at ")[0]}')
            response.success = False
            return response

    return answer
