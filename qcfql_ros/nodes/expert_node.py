# SPDX-License-Identifier: Apache-2.0
"""A scripted expert in the place of the policy, in lockstep, who hears all that is recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.encode import Encoder, command_values
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import (
    Outcome,
    StepRecord,
    decode_outcome,
    step_fields,
    vector_message,
)
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import JOINT_STATE, STEP_TOPIC
from qcfql_ros.nodes.qos import RECORD_QOS, command_qos, sensor_qos
from qcfql_ros.robots.expert import Expert
from qcfql_ros.robots.robot import episode_seed

_TEN_MS = Duration(nanoseconds=10_000_000)
SOURCE_PERSON = 1
# The expert's draws must not be the robot's.
SEED_OF_EXPERT = 0x45585054


class ExpertNode(Node):
    """Answers every complete set of sensors with an action, for a number of ticks.

    It subscribes to its own commands too, so that what is recorded is what was on the wire.

    Args:
        contract: of the robot.
        expert: who chooses the actions.
        ticks: how many to drive.
        seed: of the expert's draws.
        on_message: called with (absolute topic, bytes) for every message of the contract.

    Attributes:
        episode: number of the running episode; -1 before the first.
        ticks: commanded so far.
        outcome: the last one heard.
        done: every tick was driven, its outcome and what was seen after it were heard.
    """

    def __init__(
        self,
        contract: Contract,
        expert: Expert,
        ticks: int,
        seed: int,
        on_message: Callable[[str, bytes], None],
    ) -> None:
        super().__init__('expert', start_parameter_services=False)
        self._contract, self._expert = contract, expert
        self._encoder = Encoder(contract, commands_per_tick=1)
        self._limit, self._seed = ticks, seed
        self._on_message = on_message
        self._pending: dict[int, dict[str, Any]] = {}
        self._commanded_ns = 0
        self._connected = False
        self._fresh = True
        self._echoes_due = 0
        self.episode = -1
        self.ticks = 0
        self.outcome: Outcome | None = None
        self._final_seen = False

        self._commands = {
            command.topic: self._publisher(command.type, command.topic, command_qos('lockstep'))
            for command in contract.action.commands
        }
        self._step = self._publisher(JOINT_STATE, STEP_TOPIC, RECORD_QOS)
        for stream in contract.streams.values():
            self._subscribe(
                stream.type,
                stream.topic,
                sensor_qos('lockstep'),
                partial(self._on_sensor, stream.name, message_class(stream.type)),
            )
        self._subscribe(JOINT_STATE, contract.outcome.topic, RECORD_QOS, self._on_outcome)
        for command in contract.action.commands:
            self._subscribe(command.type, command.topic, command_qos('lockstep'), self._on_echo)
        self._subscribe(JOINT_STATE, STEP_TOPIC, RECORD_QOS, self._on_echo)

    @property
    def done(self) -> bool:
        """Whether nothing more is to come."""
        return self._final_seen and self._echoes_due == 0

    def _publisher(self, type_name, topic, qos) -> Publisher:
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        return self.create_publisher(message_class(type_name), topic, qos, event_callbacks=quiet)

    def _subscribe(self, type_name, topic, qos, use) -> None:
        name = self.resolve_topic_name(topic)

        def on_message(data: bytes) -> None:
            self._on_message(name, data)
            use(data)

        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        self.create_subscription(
            message_class(type_name), topic, on_message, qos, event_callbacks=quiet, raw=True
        )

    def _on_echo(self, data: bytes) -> None:
        self._echoes_due -= 1

    def _on_outcome(self, data: bytes) -> None:
        self.outcome = decode_outcome(deserialize_message(data, message_class(JOINT_STATE)))
        self._act_if_complete()

    def _on_sensor(self, stream: str, kind: type, data: bytes) -> None:
        message = deserialize_message(data, kind)
        self._pending.setdefault(stamp_of(message), {})[stream] = message
        self._act_if_complete()

    def _act_if_complete(self) -> None:
        # Topics are not in order among each other: at a reset, streams of two sets mix.
        while self._pending:
            stamp_ns = min(self._pending)
            if len(self._pending[stamp_ns]) < len(self._contract.streams) or (
                self._commanded_ns
                and (self.outcome is None or self.outcome.stamp_ns != self._commanded_ns)
            ):
                return  # a stream, or the outcome of the last tick, is still on its way
            self._use(self._pending.pop(stamp_ns), stamp_ns)

    def _use(self, messages: dict[str, Any], stamp_ns: int) -> None:
        if self.ticks == self._limit:
            self._final_seen = True
        elif self.outcome and self.outcome.ended and not self._fresh:
            self._fresh = True  # the final observation: nobody acts on it
        else:
            self._act(messages, stamp_ns)

    def _act(self, messages: dict[str, Any], stamp_ns: int) -> None:
        if self._fresh:
            self._fresh = False
            self.episode += 1
            self._expert.begin(messages, episode_seed(self._seed ^ SEED_OF_EXPERT, self.episode))
        row = self._expert.action(messages)
        commands = self._encoder.commands(command_values(self._contract, row), stamp_ns)
        step = StepRecord(
            stamp_ns=stamp_ns,
            action=row,
            episode=self.episode,
            chunk=-1,
            index=0,
            source=SOURCE_PERSON,
            policy_version=0,
            clipped=int(np.count_nonzero(np.abs(row) > 1.0)),
            lead_ns=0,
            lockstep=True,
        )
        self._wait_until_connected()
        self._step.publish(vector_message(stamp_ns, *step_fields(step, self._contract)))
        for topic, _, message in commands:
            self._commands[topic].publish(message)
        self._echoes_due += 1 + len(commands)
        self._commanded_ns = stamp_ns
        self.ticks += 1

    def _wait_until_connected(self) -> None:
        """Before the first command: robot and our own ear, on every topic, or it would be lost."""
        if self._connected:
            return
        clock = self.get_clock()
        deadline = clock.now().nanoseconds + 10_000_000_000
        while not (
            all(p.get_subscription_count() >= 2 for p in self._commands.values())
            and self._step.get_subscription_count() >= 1
        ):
            if clock.now().nanoseconds > deadline:
                raise TimeoutError('nobody subscribes to the command topics')
            clock.sleep_for(_TEN_MS)
        self._connected = True
