# SPDX-License-Identifier: Apache-2.0
"""What exists while the policy node is active: its topics, its driver, its threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import UInt8MultiArray

from qcfql_ros.contract.decode import Decoder, stamp_of
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import decode_outcome
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import JOINT_STATE, WEIGHTS_TOPIC
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.latest import Sample
from qcfql_ros.control.lockstep import LockstepDriver
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.wall import WallDriver
from qcfql_ros.errors import MessageError
from qcfql_ros.nodes.command_output import CommandOutput
from qcfql_ros.nodes.qos import RECORD_QOS, sensor_qos
from qcfql_ros.nodes.weight_gate import WeightGate
from qcfql_ros.nodes.weights import WEIGHTS_QOS

QUIET = SubscriptionEventCallbacks(use_default_callbacks=False)


class Driving:
    """Made at activation, closed at deactivation; a new one knows nothing of the one before.

    Args:
        node: whose topics these are.
        contract: which topics.
        planner: makes chunks.
        gate: takes new weights.
        latch: the halt latch.
        counters: to count in.
        pacing: 'wall' or 'lockstep'.
        lead_s: for wall pacing.
        died: told the exception of a thread that dies.
    """

    def __init__(
        self,
        node: Node,
        contract: Contract,
        planner: Planner,
        gate: WeightGate,
        latch: HaltLatch,
        counters: Counters,
        pacing: str,
        lead_s: float,
        died: Callable[[BaseException], None],
    ) -> None:
        self._node = node
        self._contract = contract
        self._gate = gate
        self._counters = counters
        self._decoder = Decoder(contract)
        self._tolerance_ns = round(contract.stamp_tolerance_s * 1e9)
        self.output = CommandOutput(node, contract, pacing)
        self._lockstep = pacing == 'lockstep'
        commander = Commander(
            contract,
            self.output.publish,
            self.output.announce,
            counters,
            self._lockstep,
            round(lead_s * 1e9),
        )
        self.driver: LockstepDriver | WallDriver
        if self._lockstep:
            self.driver = LockstepDriver(
                contract, planner, commander, latch, counters, self.output.connected
            )
        else:
            self.driver = WallDriver(
                contract, planner, commander, latch, counters, self._ros_now_ns
            )
        self._subscriptions = [
            self._subscribe(
                stream.type,
                stream.topic,
                partial(self._on_sensor, stream.name),
                sensor_qos(pacing),
            )
            for stream in contract.streams.values()
        ]
        self._subscriptions += [
            self._subscribe(JOINT_STATE, contract.outcome.topic, self._on_outcome, RECORD_QOS),
            node.create_subscription(
                UInt8MultiArray,
                WEIGHTS_TOPIC,
                self._on_weights,
                WEIGHTS_QOS,
                event_callbacks=QUIET,
            ),
        ]
        gate.start(died)
        if isinstance(self.driver, WallDriver):
            self.driver.start(died)

    def advance(self) -> None:
        """Look again whether a tick can be made (lockstep); the clock does it otherwise."""
        if isinstance(self.driver, LockstepDriver):
            self.driver.advance()

    def close(self) -> None:
        """Stop the threads, send the safe command, take the topics away."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self.driver.stop()
        self._gate.stop()
        self.output.close()

    def _subscribe(self, type_name: str, topic: str, callback: Callable, qos) -> Any:
        kind = message_class(type_name)
        return self._node.create_subscription(kind, topic, callback, qos, event_callbacks=QUIET)

    def _ros_now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _on_sensor(self, stream: str, message: Any) -> None:
        receive_ns = time.monotonic_ns()
        stamp_ns = stamp_of(message)
        try:
            values = self._decoder.decode_message(stream, message).values
        except MessageError as error:
            self._refuse(str(error))
            values = None
        if self._lockstep:
            self.driver.on_sensor(stream, stamp_ns, values)
            return
        now_ns = self._ros_now_ns()
        if stamp_ns == 0:
            stamp_ns = now_ns
        if abs(stamp_ns - now_ns) > self._tolerance_ns:
            topic = self._contract.streams[stream].topic
            self._refuse(
                f'topic {topic!r}: stamped {(stamp_ns - now_ns) * 1e-9:+.3f} s from when it was '
                f'received, wanted within {self._contract.stamp_tolerance_s:g} s'
            )
            return
        self.driver.on_sensor(stream, Sample(stamp_ns, receive_ns, values))

    def _on_outcome(self, message: Any) -> None:
        receive_ns = time.monotonic_ns()
        try:
            outcome = decode_outcome(message)
        except MessageError as error:
            self._refuse(str(error))
            return
        if self._lockstep:
            self.driver.on_outcome(outcome)
        else:
            self.driver.on_outcome(outcome, receive_ns)

    def _on_weights(self, message: UInt8MultiArray) -> None:
        self._gate.on_part(bytes(message.data))

    def _refuse(self, reason: str) -> None:
        self._counters.refused += 1
        self._counters.reason = reason
