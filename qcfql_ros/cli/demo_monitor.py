# SPDX-License-Identifier: Apache-2.0
"""The demo's own ROS node: hears outcomes and diagnostics, drives nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from qcfql_ros.cli.practice import Practice
from qcfql_ros.contract.named_vector import Outcome, decode_outcome

OUTCOME_DEPTH = 10_000  # nothing may be lost while this process is busy otherwise


class DemoMonitor:
    """Collects what the graph says; use as a context manager, call `spin` often.

    Args:
        outcome_topic: of the robot.
        listen: called with each outcome before it is counted.

    Attributes:
        practice: the outcomes, counted.
        diagnostics: last key-values of each status: ``diagnostics['policy']['late_ticks']``.
    """

    def __init__(
        self,
        outcome_topic: str = 'outcome',
        listen: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.practice = Practice()
        self._listen = listen
        self.diagnostics: dict[str, Mapping[str, str]] = {}
        self._context = rclpy.Context()
        # Signals stay with Python: the demo stops its children in order before it ends.
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('demo', context=self._context, use_global_arguments=False)
        self._outcome_topic = outcome_topic
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 50)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def spin(self, duration_s: float) -> None:
        """Handle what arrives during `duration_s`."""
        until = time.monotonic() + duration_s
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def hear_outcomes(self) -> None:
        """Listen to outcomes from now on; a robot with `expected_listeners` waits for this."""
        reliable = QoSProfile(depth=OUTCOME_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self._node.create_subscription(JointState, self._outcome_topic, self._on_outcome, reliable)

    def hear_raw(
        self, topic: str, kind: type, handle: Callable[[bytes], None]
    ) -> Callable[[], bool]:
        """Hand every message of `topic`, as it was on the wire, to `handle`.

        Returns:
            a function that says whether somebody who publishes it has been matched.
        """
        reliable = QoSProfile(depth=OUTCOME_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        heard = self._node.create_subscription(kind, topic, handle, reliable, raw=True)
        return lambda: heard.get_publisher_count() > 0

    def number(self, status: str, key: str) -> float | None:
        """Return a diagnostic value as a number; None while there is none."""
        try:
            return float(self.diagnostics[status][key])
        except (KeyError, ValueError):
            return None

    def _on_outcome(self, message: JointState) -> None:
        version = self.number('policy', 'policy_version')
        outcome = decode_outcome(message)
        if self._listen:
            self._listen(outcome)
        self.practice.add(outcome, time.monotonic(), -1 if version is None else int(version))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        heard: dict[str, dict[str, str]] = {}
        for status in message.status:
            source = status.name.partition(':')[0].strip().rpartition('/')[2]
            heard.setdefault(source, {}).update((p.key, p.value) for p in status.values)
        self.diagnostics |= heard

    def __enter__(self) -> DemoMonitor:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
