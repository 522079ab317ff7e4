# SPDX-License-Identifier: Apache-2.0
"""Sends the safe command when the policy that drives is heard no more.

A process of its own that loads no policy: it lives on when the policy node is killed, stopped or
hangs. For controllers that execute their last command for ever, as forward_command_controller.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import Header

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.topics import HEARTBEAT_TOPIC
from qcfql_ros.control.watchdog import INACTIVE, RUNNING, Watchdog
from qcfql_ros.errors import ContractError, MessageError, ParameterError
from qcfql_ros.nodes.diagnostics import ERROR, OK, WARN, Diagnostics
from qcfql_ros.nodes.heartbeat import HEARTBEAT_QOS, Heartbeat
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.qos import command_qos, sensor_qos
from qcfql_ros.nodes.ros_parameters import declare_parameters
from qcfql_ros.nodes.safe_command import SafeCommand
from qcfql_ros.parameters import WATCHDOG_NODE

LOOKS_IN_TIMEOUT = 20
REPEAT_S = 1.0
NO_ALARM = 'watching'
QUIET = SubscriptionEventCallbacks(use_default_callbacks=False)


class WatchdogNode(Node):
    """Watches one policy; everything happens in the executor's thread."""

    def __init__(self, stop: Stop) -> None:
        super().__init__('watchdog')
        parameters = declare_parameters(self, WATCHDOG_NODE)
        if not parameters.contract:
            raise ParameterError('parameter contract is not set; give -p contract:=...')
        contract = load_contract(parameters.contract)
        timeout_s = contract.safety.watchdog_timeout_s
        if timeout_s is None:
            raise ContractError(
                f'{contract.file}: says no safety.watchdog; give safety: {{watchdog: '
                '{timeout_s: 0.2}} or start no watchdog_node'
            )
        self._contract = contract
        self._decoder = Decoder(contract)
        self._safe = SafeCommand(contract)
        self._watchdog = Watchdog(round(timeout_s * 1e9))
        self._alarms = 0
        self._text = NO_ALARM
        self._level = OK
        self._heartbeat = Heartbeat(self)
        self._diagnostics = Diagnostics(self, 'watchdog')
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._outs = {
            c.topic: self.create_publisher(
                message_class(c.type), c.topic, command_qos('wall'), event_callbacks=quiet
            )
            for c in contract.action.commands
        }
        self._subscribe(Header, HEARTBEAT_TOPIC, self._on_heartbeat, HEARTBEAT_QOS)
        for c in contract.action.commands:
            callback = partial(self._safe.on_command, c.topic)
            self._subscribe(message_class(c.type), c.topic, callback, command_qos('wall'))
        fields = [field for c in contract.action.commands for field in c.fields]
        for name in {field.measured.stream for field in fields if field.measured is not None}:
            stream = contract.streams[name]
            callback = partial(self._on_sensor, name)
            self._subscribe(message_class(stream.type), stream.topic, callback, sensor_qos('wall'))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(timeout_s / LOOKS_IN_TIMEOUT, self._look, clock=steady)
        self.create_timer(1.0, self._on_second, clock=steady)
        command_period_s = contract.period_ns * 1e-9 / contract.commands_per_tick
        self._repeat = self.create_timer(command_period_s, self._send, clock=steady)
        self._repeat.cancel()
        self.get_logger().info(
            f'watching the policy of {contract.name}: {timeout_s:g} s without a heartbeat, and '
            'the safe command is sent'
        )

    def _subscribe(self, kind: type, topic: str, callback: Any, qos: Any) -> None:
        self.create_subscription(kind, topic, callback, qos, event_callbacks=QUIET)

    def _on_heartbeat(self, message: Header) -> None:
        if self._watchdog.heard(message.frame_id):
            self._repeat.cancel()
            self._say(WARN, f'the policy is heard again: {message.frame_id}')

    def _on_sensor(self, stream: str, message: Any) -> None:
        try:
            self._safe.on_measured(stream, self._decoder.decode_message(stream, message).values)
        except MessageError:
            return  # the last good one stays; the policy counts and says it

    def _look(self) -> None:
        watchdog = self._watchdog
        before = watchdog.state
        # The watchdog's own heartbeat comes from here: a loop that stands is not heard.
        self._heartbeat.beat(RUNNING if watchdog.armed else INACTIVE)
        if not watchdog.look(time.monotonic_ns()):
            return
        self._alarms += 1
        now_ns = self.get_clock().now().nanoseconds
        self._values = self._safe.values(now_ns)
        self._until_ns = time.monotonic_ns() + round(REPEAT_S * 1e9)
        unknown = self._send()
        self._repeat.reset()
        text = (
            f'the policy was {before} and no heartbeat came for {watchdog.silence_ns * 1e-9:.2f} '
            f's, allowed are {watchdog.timeout_ns * 1e-9:g} s: the safe command was sent'
        )
        if unknown:
            text += f', but not on {unknown}: never commanded and not measured'
        self._say(ERROR, text)
        self._on_second()

    def _send(self) -> str:
        """Send the safe command; return what cannot be held. A timer repeats it for a while."""
        stamp_ns = self.get_clock().now().nanoseconds
        messages, unknown = self._safe.messages(self._values, stamp_ns)
        for topic, message in messages:
            self._outs[topic].publish(message)
        if time.monotonic_ns() >= self._until_ns:
            self._repeat.cancel()
        return unknown

    def _say(self, level: bytes, text: str) -> None:
        self._level, self._text = level, text
        # A line of its own for each: rclpy refuses a second severity from one line of code.
        if level == ERROR:
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    def _on_second(self) -> None:
        watchdog = self._watchdog
        level, text = self._level, self._text
        if level == OK and not watchdog.state:
            level, text = WARN, f'no heartbeat on topic {HEARTBEAT_TOPIC!r} yet'
        self._diagnostics.publish(
            level,
            text,
            {
                'armed': watchdog.armed,
                'alarm': watchdog.alarm,
                'alarms': self._alarms,
                'policy': watchdog.state,
                'silence_ms': watchdog.silence_ns // 1_000_000,
            },
        )
        if level == WARN and watchdog.state:
            self._level, self._text = OK, NO_ALARM  # said once


def main(args: list[str] | None = None) -> int:
    """Watch until asked to stop."""
    return run_node(WatchdogNode, args)


if __name__ == '__main__':
    sys.exit(main())
