# SPDX-License-Identifier: Apache-2.0
"""What the policy node hears of its robot: sensors and outcomes, from configure on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node

from qcfql_ros.contract.decode import Decoder, stamp_of
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import decode_outcome
from qcfql_ros.contract.previous import NO_ROW
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import JOINT_STATE
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.latest import LatestMessages, Sample
from qcfql_ros.control.lockstep import LockstepDriver
from qcfql_ros.control.wall import WallDriver
from qcfql_ros.errors import MessageError, NotReadyError
from qcfql_ros.nodes.qos import RECORD_QOS, sensor_qos

QUIET = SubscriptionEventCallbacks(use_default_callbacks=False)


class Sensing:
    """Decodes every message once, and hands it to the driver while there is one.

    Args:
        node: whose subscriptions these are.
        contract: which topics.
        counters: to count refused messages in.
        pacing: 'wall' or 'lockstep'.

    Attributes:
        latest: the last messages (wall pacing).
    """

    def __init__(self, node: Node, contract: Contract, counters: Counters, pacing: str) -> None:
        self._node = node
        self._contract = contract
        self._counters = counters
        self._decoder = Decoder(contract)
        self._tolerance_ns = round(contract.stamp_tolerance_s * 1e9)
        self._lockstep = pacing == 'lockstep'
        self._driver: LockstepDriver | WallDriver | None = None
        self.latest = LatestMessages(contract)
        qos = sensor_qos(pacing)
        self._subscriptions = [
            self._subscribe(s.type, s.topic, partial(self._on_sensor, s.name), qos)
            for s in contract.streams.values()
        ]
        self._subscriptions.append(
            self._subscribe(JOINT_STATE, contract.outcome.topic, self._on_outcome, RECORD_QOS)
        )

    def _subscribe(self, type_name: str, topic: str, callback: Callable, qos: Any) -> Any:
        kind = message_class(type_name)
        return self._node.create_subscription(kind, topic, callback, qos, event_callbacks=QUIET)

    def require_fresh(self) -> np.ndarray:
        """Return the observation of now, (state_dim,) float32 (wall pacing).

        Raises:
            NotReadyError: a topic is silent, too old, or its message cannot be used.
        """
        stale, _ = self.latest.stale(time.monotonic_ns())
        if stale:
            raise NotReadyError(f'not activated: {stale}')
        values = {}
        for stream in self._contract.streams.values():
            newest = self.latest.newest(stream.name)
            if newest is None or newest.values is None:
                raise NotReadyError(
                    f'not activated: the last message on topic {stream.topic!r} cannot be used: '
                    f'{self._counters.reason}'
                )
            values[stream.name] = newest.values
        return self._decoder.observation(values, NO_ROW)

    def attach(self, driver: LockstepDriver | WallDriver) -> None:
        """Hand everything to `driver`, what came last first (wall pacing)."""
        if isinstance(driver, WallDriver):
            for name in self._contract.streams:
                newest = self.latest.newest(name)
                if newest is not None:
                    driver.on_sensor(name, newest)
        self._driver = driver

    def detach(self) -> None:
        """Hand nothing on any more."""
        self._driver = None

    def close(self) -> None:
        """Take the subscriptions away."""
        self._driver = None
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_sensor(self, stream: str, message: Any) -> None:
        receive_ns = time.monotonic_ns()
        stamp_ns = stamp_of(message)
        try:
            values = self._decoder.decode_message(stream, message).values
        except MessageError as error:
            self._refuse(str(error))
            values = None
        if self._lockstep:
            if self._driver is not None:
                self._driver.on_sensor(stream, stamp_ns, values)
            return
        now_ns = self._node.get_clock().now().nanoseconds
        stamped = stamp_ns != 0
        if not stamped:
            stamp_ns = now_ns
        if abs(stamp_ns - now_ns) > self._tolerance_ns:
            topic = self._contract.streams[stream].topic
            self._refuse(
                f'topic {topic!r}: stamped {(stamp_ns - now_ns) * 1e-9:+.3f} s from when it was '
                f'received, wanted within {self._contract.stamp_tolerance_s:g} s'
            )
            return
        sample = Sample(stamp_ns, receive_ns, values, stamped)
        self.latest.put(stream, sample)
        if self._driver is not None:
            self._driver.on_sensor(stream, sample)

    def _on_outcome(self, message: Any) -> None:
        receive_ns = time.monotonic_ns()
        try:
            outcome = decode_outcome(message)
        except MessageError as error:
            self._refuse(str(error))
            return
        if self._driver is None:
            return
        if self._lockstep:
            self._driver.on_outcome(outcome)
        else:
            self._driver.on_outcome(outcome, receive_ns)

    def _refuse(self, reason: str) -> None:
        self._counters.refused += 1
        self._counters.reason = reason
