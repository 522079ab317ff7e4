# SPDX-License-Identifier: Apache-2.0
"""What one process says on /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Status:
    """One status.

    Attributes:
        name: as ``policy: control``.
        level: OK, WARN or ERROR.
        message: why.
        values: shown as text.
    """

    name: str
    level: bytes
    message: str
    values: Mapping[str, Any]


class Diagnostics:
    """Publishes a status called `name`, or several."""

    def __init__(self, node: Node, name: str = '') -> None:
        self._node = node
        self._name = name
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', 10, event_callbacks=quiet
        )

    def publish(self, level: bytes, message: str, values: Mapping[str, Any]) -> None:
        """Send the one status."""
        self.report([Status(self._name, level, message, values)])

    def report(self, statuses: Sequence[Status]) -> None:
        """Send several in one message."""
        array = DiagnosticArray(status=[self._message(status) for status in statuses])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _message(self, status: Status) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=status.level,
            name=status.name,
            message=status.message,
            hardware_id=self._node.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
        )

    def flush(self) -> None:
        """Wait until everybody has got what was published, or for 0.2 s."""
        self._publisher.wait_for_all_acked(Duration(seconds=0.2))
