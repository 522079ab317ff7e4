# SPDX-License-Identifier: Apache-2.0
"""One status of one process on /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnostics:
    """Publishes a status called `name`, as ``policy: control``."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._name = name
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', 10, event_callbacks=quiet
        )

    def publish(self, level: bytes, message: str, values: Mapping[str, Any]) -> None:
        """Send `values` as text."""
        status = DiagnosticStatus(
            level=level,
            name=self._name,
            message=message,
            hardware_id=self._node.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def flush(self) -> None:
        """Wait until everybody has got what was published, or for 0.2 s."""
        self._publisher.wait_for_all_acked(Duration(seconds=0.2))
