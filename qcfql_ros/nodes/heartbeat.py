# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: ``std_msgs/Header``, its `frame_id` the state."""

from __future__ import annotations

import time

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from qcfql_ros.control.watchdog import BEAT_NS, INACTIVE

HEARTBEAT_QOS = QoSProfile(depth=10)
LAST_WORD_S = 0.2


class Heartbeat:
    """The topic ``~/heartbeat``; `beat` may be called from any one thread at a time.

    Attributes:
        state: what was said last.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._due_ns = 0
        self.state = INACTIVE
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._publisher = node.create_publisher(
            Header, '~/heartbeat', HEARTBEAT_QOS, event_callbacks=quiet
        )

    def beat(self, state: str) -> None:
        """Say `state`; nothing is sent if it was said less than 50 ms ago. Never waits."""
        now_ns = time.monotonic_ns()
        if state == self.state and now_ns < self._due_ns:
            return
        # A tick that comes a little early must not put the beat off by a whole period.
        self._due_ns = now_ns + BEAT_NS * 9 // 10
        self.state = state
        stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(Header(stamp=stamp, frame_id=state))

    def flush(self) -> None:
        """Wait until whoever listens has the last one, or 0.2 s: a process may end after it."""
        self._publisher.wait_for_all_acked(Duration(seconds=LAST_WORD_S))
