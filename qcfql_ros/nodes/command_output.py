# SPDX-License-Identifier: Apache-2.0
"""The publishers of the policy node: commands, step, chunk."""

from __future__ import annotations

import time
from array import array
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

from qcfql_ros.contract.chunk_record import ChunkRecord, chunk_message
from qcfql_ros.contract.encode import Encoded, Encoder
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import StepRecord, set_stamp, step_fields, vector_message
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import JOINT_STATE, JOINT_TRAJECTORY
from qcfql_ros.nodes.qos import RECORD_QOS, command_qos

LAST_WORDS_S = 0.5
# Each event handler costs every spin of the executor.
QUIET = PublisherEventCallbacks(use_default_callbacks=False)


class CommandOutput:
    """Sends what the control thread decides. rclpy's publish may be called from any thread."""

    def __init__(self, node: Node, contract: Contract, pacing: str) -> None:
        self._node = node
        self._contract = contract
        self._encoder = Encoder(contract, 1 if pacing == 'lockstep' else None)
        qos = command_qos(pacing)
        self._commands = {
            command.topic: node.create_publisher(
                message_class(command.type), command.topic, qos, event_callbacks=QUIET
            )
            for command in contract.action.commands
        }
        self._step = node.create_publisher(
            message_class(JOINT_STATE), '~/step', RECORD_QOS, event_callbacks=QUIET
        )
        self._chunk = node.create_publisher(
            message_class(JOINT_TRAJECTORY), '~/chunk', RECORD_QOS, event_callbacks=QUIET
        )
        # Filled anew each tick: publish() has serialised it by the time it returns.
        self._step_message = None

    def connected(self) -> bool:
        """Whether somebody listens on every command topic."""
        return all(p.get_subscription_count() > 0 for p in self._commands.values())

    def command(self, values: np.ndarray, stamp_ns: int) -> None:
        """Send (action_dim,) command values; all messages are made before one is sent."""
        self._send(self._encoder.commands(values, stamp_ns))

    def trajectory(self, values: np.ndarray, velocities: np.ndarray, stamp_ns: int) -> None:
        """Send (k, action_dim) command values and velocities on the topics sent once a chunk."""
        self._send(self._encoder.trajectory(values, velocities, stamp_ns))

    def rest(self, values: np.ndarray, stamp_ns: int) -> None:
        """Send (action_dim,) command values that hold the robot on every command topic."""
        made = self._encoder.commands(values, stamp_ns)
        # Of a whole chunk, whatever the clocks say: now.
        self._send(made + self._encoder.rest(values))

    def record(self, record: StepRecord) -> None:
        """Send the record of a tick."""
        names, values = step_fields(record, self._contract)
        message = self._step_message
        if message is None:
            message = self._step_message = vector_message(record.stamp_ns, names, values)
        # An array of doubles passes the setter's type check at once, a list number by number.
        message.position = array('d', values)
        set_stamp(message, record.stamp_ns)
        self._step.publish(message)

    def announce(self, record: ChunkRecord) -> None:
        """Send the record of a chunk."""
        self._chunk.publish(chunk_message(record, self._contract))

    def send(self, messages: list[tuple[str, Any]]) -> None:
        """Send ready messages, (topic, message)."""
        for topic, message in messages:
            self._commands[topic].publish(message)

    def _send(self, messages: Encoded) -> None:
        for topic, _, message in messages:
            self._commands[topic].publish(message)

    def close(self) -> None:
        """Take the publishers away, once everybody has got what was sent, or after 0.5 s.

        A writer that is destroyed takes with it what its readers have not acknowledged: the safe
        command, sent a moment ago, would be lost.
        """
        deadline = time.monotonic() + LAST_WORDS_S
        for publisher in (*self._commands.values(), self._step):
            left = max(0.0, deadline - time.monotonic())
            publisher.wait_for_all_acked(Duration(seconds=left))
        for publisher in (*self._commands.values(), self._step, self._chunk):
            self._node.destroy_publisher(publisher)
